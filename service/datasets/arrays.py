"""Arrays in files: .npy and IDX, one at a time from a stream. Headers are parsed here, by hand: nothing is ever unpickled or evaluated."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from engine.data.table import KEPT, plain
from engine.errors import SpecError
from service.datasets.draft import Draft
from service.datasets.limits import Budget, DatasetError
from service.datasets.streams import exactly

NPY = b"\x93NUMPY"
LONGEST_HEADER = 1 << 16
BLOCK = 1 << 22  # bytes converted together
DESCR = re.compile(r"'descr':\s*'([<>|=]?)([a-zA-Z])(\d{0,9})'")
ORDER = re.compile(r"'fortran_order':\s*(True|False)")
SHAPE = re.compile(r"'shape':\s*\(((?:\d{1,19},\s*)*(?:\d{1,19})?)\)")
IDX_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
ADVICE = "save it as float32, float64, int32, int64, uint8 or bool"


@dataclass(frozen=True)
class Header:
    dtype: np.dtype
    shape: tuple[int, ...]
    fortran: bool = False

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def npy_header(stream: BinaryIO, name: str) -> Header:
    """The header of a .npy file, format 1.0 to 3.0."""
    start = exactly(stream, 8, f"{name!r}")
    if start[:6] != NPY or start[6] not in (1, 2, 3) or start[7]:
        raise DatasetError("malformed_npy", f"{name!r} is not a .npy file: its magic and a version from 1.0 to 3.0 are missing", column=name)
    length = int.from_bytes(exactly(stream, 2 if start[6] == 1 else 4, f"the header of {name!r}"), "little")
    if length > LONGEST_HEADER:
        raise DatasetError("malformed_npy", f"the header of {name!r} says it has {length:,} bytes: over {LONGEST_HEADER:,}", column=name)
    text = exactly(stream, length, f"the header of {name!r}").decode("latin-1")
    if "'descr': [" in text:
        raise DatasetError("unsupported_dtype", f"{name!r} is a structured array; send one array for each column, or a CSV file", column=name)
    parts = [part.findall(text) for part in (DESCR, ORDER, SHAPE)]
    rest = DESCR.sub("", ORDER.sub("", SHAPE.sub("", text))).replace(",", "")
    if any(len(found) != 1 for found in parts) or "".join(rest.split()) != "{}":
        raise DatasetError("malformed_npy", f"the header of {name!r} cannot be read: {text[:80]!r}", column=name)
    (descr,), (order,), (shape,) = parts
    return Header(allowed(name, *descr), tuple(map(int, re.findall(r"\d+", shape))), order == "True")


def allowed(name: str, order: str, kind: str, size: str) -> np.dtype:
    if f"{kind}{size}" in KEPT:
        return np.dtype(f"{order}{kind}{size}")
    reasons = {"O": "Python objects, which only a pickle can hold: pickles are never read", "U": "texts: send classes as integers, or a CSV file",
               "S": "bytes: send classes as integers, or a CSV file", "c": "complex numbers"}
    detail = f"{name!r} has dtype {kind}{size} ({reasons.get(kind, 'not a type that is kept')}); {ADVICE}"
    raise DatasetError("unsupported_dtype", detail, column=name)


def idx_header(stream: BinaryIO, name: str) -> Header:
    """The header of an IDX file (as MNIST's): two zeros, a type, the number of axes, their sizes."""
    start = exactly(stream, 4, f"{name!r}")
    if start[:2] != b"\0\0" or start[2] not in IDX_TYPES or not start[3]:
        detail = f"{name!r} is not an IDX file: it begins with {start.hex(' ')}, not 00 00, a type and the number of axes"
        raise DatasetError("malformed_idx", detail, column=name)
    sizes = exactly(stream, 4 * start[3], f"the header of {name!r}")
    return Header(np.dtype(IDX_TYPES[start[2]]), tuple(int.from_bytes(sizes[i : i + 4], "big") for i in range(0, len(sizes), 4)))


def check(header: Header, name: str, budget: Budget) -> None:
    """Refuse shapes that are empty, or larger than what may still be read, before anything is made for them."""
    shape = header.shape
    if not shape:
        raise DatasetError("no_rows", f"{name!r} is one number, not an array of rows", column=name)
    if len(shape) > budget.limits.axes or min(shape) < 1:
        detail = f"{name!r} has shape {list(shape)[:20]}; arrays have 1 to {budget.limits.axes} axes, each at least 1 long"
        raise DatasetError("bad_shape", detail, column=name)
    budget.fits(header.bytes, f"{name!r} with shape {list(shape)} of {header.dtype}")


def copy(stream: BinaryIO, header: Header, name: str, draft: Draft, budget: Budget) -> None:
    """Write the array that follows its header into a column of a draft. The stream must end with it."""
    check(header, name, budget)
    flag = header.dtype.kind == "b" and len(header.shape) == 1
    kept = np.dtype(np.int32) if flag else np.dtype(KEPT[f"{header.dtype.kind}{header.dtype.itemsize}"])
    kind = "boolean" if flag else "number" if len(header.shape) == 1 else "tensor"
    writer = draft.column(name, kind, kept, header.shape[1:], (False, True) if flag else None, array=True)
    by_column = header.fortran and len(header.shape) > 1
    for block in transposed(stream, header, name, draft) if by_column else in_order(stream, header, name):
        try:
            writer.append(block.view(np.uint8) != 0 if header.dtype.kind == "b" else plain(name, block))
        except SpecError as error:
            raise DatasetError(error.problems[0].code, error.problems[0].detail, column=name) from None
    if stream.read(1):
        detail = f"{name!r} goes on after its {header.bytes:,} bytes of shape {list(header.shape)}: the header does not fit the data"
        raise DatasetError("trailing_bytes", detail, column=name)


def pieces(header: Header) -> list[int]:
    """Rows of each block."""
    rows, row = header.shape[0], header.bytes // header.shape[0]
    step = max(1, BLOCK // row)
    return [min(step, rows - start) for start in range(0, rows, step)]


def in_order(stream: BinaryIO, header: Header, name: str):
    row = header.bytes // header.shape[0]
    for rows in pieces(header):
        yield np.frombuffer(exactly(stream, rows * row, f"{name!r}"), header.dtype).reshape(rows, *header.shape[1:])


def transposed(stream: BinaryIO, header: Header, name: str, draft: Draft):
    """Blocks of rows of an array whose columns come first in the file: it is laid down in a file, then read across."""
    path, left = draft.path / "columns_first", header.bytes
    with path.open("wb") as file:
        while left:
            file.write(exactly(stream, min(left, BLOCK), f"{name!r}"))
            left -= min(left, BLOCK)
    laid = np.memmap(path, header.dtype, "r", shape=header.shape, order="F")
    start = 0
    for rows in pieces(header):
        yield np.ascontiguousarray(laid[start : start + rows])
        start += rows
    path.unlink()
