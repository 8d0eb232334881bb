""".npz: a zip of .npy files, each a column. Names in it never become paths, and sizes in it are not believed."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from service.datasets.arrays import copy, npy_header
from service.datasets.draft import Draft
from service.datasets.limits import Budget, DatasetError
from service.datasets.streams import counted

END, END64 = b"PK\x05\x06", b"PK\x06\x06"
LARGEST_DIRECTORY = 1 << 20
BAD = (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError, ValueError, EOFError, KeyError, IndexError, struct.error, OverflowError)


def read(draft: Draft, path: Path, budget: Budget) -> None:
    """Write each array of a .npz file into a column of a draft."""
    check_directory(path, budget.limits.entries)
    try:
        archive = zipfile.ZipFile(path)
    except BAD as error:
        raise DatasetError("malformed_npz", f"this is not a .npz file: {error}") from None
    with archive:
        entries = archive.infolist()
        if not entries:
            raise DatasetError("no_columns", "the .npz file has no arrays")
        for entry in entries:
            name = entry.filename.removesuffix(".npy")
            if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                detail = f"{name[:80]!r} is packed by method {entry.compress_type}: a .npz is stored or deflated (numpy.savez, savez_compressed)"
                raise DatasetError("malformed_npz", detail)
            if name == entry.filename:
                raise DatasetError("malformed_npz", f"{name[:80]!r} is not a .npy file: a .npz holds one .npy for each column, and no archives")
            try:
                stream = counted(archive.open(entry), budget)
            except BAD as error:
                raise DatasetError("malformed_npz", f"{name[:80]!r} cannot be unpacked: {error}") from None
            with stream:
                copy(stream, npy_header(stream, name), name, draft, budget)


def check_directory(path: Path, most: int, per_entry: int = 1000) -> None:
    """Refuse a directory of more than `most` entries, or of very long ones, before it is read into memory."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - (1 << 16) - 98))
        tail = file.read()
    place, place64 = tail.rfind(END), tail.rfind(END64)
    if place < 0 or place + 22 > len(tail):
        raise DatasetError("truncated", "the zip directory at the end of the file is missing: the upload was cut")
    count, size = struct.unpack_from("<HI", tail, place + 10)
    if place64 >= 0 and place64 + 56 <= len(tail):
        count, size = max(count, struct.unpack_from("<Q", tail, place64 + 32)[0]), struct.unpack_from("<Q", tail, place64 + 40)[0]
    if count > most or size > max(LARGEST_DIRECTORY, most * per_entry):
        detail = f"the archive has {count:,} entries, and a directory of {size:,} bytes; at most {most:,} entries are read"
        raise DatasetError("too_many_entries", detail, 413)


def pack(draft: Draft, path: Path) -> None:
    """The columns of a draft as one .npz file, the same bytes for the same columns."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for writer in draft.writers:
            about = writer.about
            flag = about["kind"] == "boolean"
            shape = (writer.rows, *about["shape"])
            header = {"descr": "|b1" if flag else npy.dtype_to_descr(np.dtype(about["dtype"])), "fortran_order": False, "shape": shape}
            data = np.memmap(writer.bin, about["dtype"], "r", shape=shape)
            with archive.open(zipfile.ZipInfo(about["name"] + ".npy"), "w", force_zip64=True) as entry:
                npy.write_array_header_1_0(entry, header)
                entry.write((data.astype(np.bool_) if flag else data).data)
