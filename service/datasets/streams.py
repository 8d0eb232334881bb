"""Bytes in, counted: files, gzip and entries of archives, all read through one cap."""

from __future__ import annotations

import gzip
import io
import lzma
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO

from service.datasets.limits import Budget, DatasetError

GZIP = b"\x1f\x8b"
PIECE = 1 << 20


class Counted(io.RawIOBase):
    """A stream that takes what it gives from a budget, and turns a decompressor's complaints into DatasetErrors."""

    def __init__(self, stream: Any, budget: Budget):
        self.stream, self.budget = stream, budget

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        try:
            piece = self.stream.read(len(buffer))
        except EOFError as error:
            raise DatasetError("truncated", "the compressed data ends too early: the upload was cut, or the file is damaged") from error
        except (zlib.error, lzma.LZMAError, gzip.BadGzipFile, zipfile.BadZipFile) as error:
            raise DatasetError("damaged", f"the compressed data is damaged: {error}") from error
        self.budget.take(len(piece))
        buffer[: len(piece)] = piece
        return len(piece)

    def close(self) -> None:
        self.stream.close()
        super().close()


def counted(stream: Any, budget: Budget) -> io.BufferedReader:
    return io.BufferedReader(Counted(stream, budget), PIECE)


def packed(path: Path) -> bool:
    """Whether a file is gzip."""
    with path.open("rb") as file:
        return file.read(2) == GZIP


def unpacked(path: Path, budget: Budget) -> io.BufferedReader:
    """The bytes of a file, without its gzip wrapping if it has one."""
    wrapped, file = packed(path), path.open("rb")
    stream = counted(gzip.GzipFile(fileobj=file) if wrapped else file, budget)
    if wrapped and stream.peek(2)[:2] == GZIP:
        stream.close()
        raise DatasetError("nested_archive", "gzip within gzip is not read: compress the file once")
    return stream


def exactly(stream: BinaryIO, count: int, what: str) -> bytes:
    """`count` bytes; a shorter stream is an error that says how much is missing."""
    data = stream.read(count)
    if len(data) < count:
        detail = f"{what} ends after {len(data):,} of {count:,} bytes: the upload was cut, or the header does not fit the data"
        raise DatasetError("truncated", detail)
    return data
