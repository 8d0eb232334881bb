"""What an upload may cost, and the one way of refusing it."""

from __future__ import annotations

import time
from dataclasses import dataclass

from engine.errors import Problem
from service.errors import ServiceError


@dataclass(frozen=True)
class Limits:
    """Caps on one upload. Bytes of text are counted as they come out of a decompressor, never as a header promises them."""

    bytes: int = 10_000_000_000
    expanded_bytes: int = 10_000_000_000
    columns: int = 10_000
    row_characters: int = 1 << 20
    inline_bytes: int = 16_000_000
    entries: int = 1000             # of an archive of arrays
    images: int = 100_000           # of an archive of images
    pixels: int = 25_000_000        # of one image
    axes: int = 8
    seconds: float = 3600.0
    apart_bytes: int | None = 8_000_000     # from so many on an upload is read in a process of its own; None: never
    memory_bytes: int = 1_500_000_000       # of such a process


class DatasetError(ServiceError):
    """Data that cannot be taken in. `row` counts the rows of data from 0, as `rows?offset=` does; `line` those of the file from 1."""

    def __init__(self, code: str, detail: str, status: int = 422, *, row: int | None = None, line: int | None = None, column: str | None = None,
                 pointer: str = "", suggestion: str | None = None):
        place = {"row": row, "line": line, "column": column}
        super().__init__(status, code, detail, [Problem(pointer, code, detail, suggestion)], **{k: v for k, v in place.items() if v is not None})
        self.row, self.line, self.column = row, line, column


class Budget:
    """Bytes and seconds that reading one upload may still take."""

    def __init__(self, limits: Limits):
        self.limits, self.left, self.deadline = limits, limits.expanded_bytes, time.monotonic() + limits.seconds

    def take(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise DatasetError("too_large", f"the data is larger than {self.limits.expanded_bytes:,} bytes when unpacked: send less", 413)
        if time.monotonic() > self.deadline:
            detail = f"reading the data took longer than {self.limits.seconds:g} seconds: send less, or arrays (.npy, .npz)"
            raise DatasetError("too_slow", detail, 413)

    def fits(self, count: int, what: str) -> None:
        """Refuse a size that a header promises before anything is made for it."""
        if count > self.left:
            raise DatasetError("too_large", f"{what} needs {count:,} bytes; an upload has at most {self.limits.expanded_bytes:,}", 413)
