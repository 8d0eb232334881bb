"""A data set on disk: a folder of typed columns, made out of sight and shown by one rename.

    <home>/datasets/<address>/content      the bytes as they were uploaded
                              table.json   what the columns are
                              0.bin …      one array for each column, rows first
                              0.text …     the UTF-8 bytes of a column of text (its .bin has the offsets)
"""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from engine.data.inference import Class, Kind, encode_text
from engine.data.table import Column, Table
from service import unfinished
from service.datasets.limits import DatasetError
from service.datasets.profile import profile
from service.errors import crash_point

VERSION = 1
SYNCS = 8  # files made durable together: the disk then joins their writes


class Writer:
    """Appends rows to one column's files. They are opened for each block, so that a table may have more columns than a process may have files."""

    def __init__(self, path: Path, place: int, about: dict[str, Any]):
        self.bin, self.text, self.about = path / f"{place}.bin", path / f"{place}.text", about
        self.rows = self.bytes = 0
        self.bin.write_bytes(bytes(8) if about["kind"] == "text" else b"")

    def append(self, block: np.ndarray) -> None:
        """Rows of the column's type and shape."""
        self.rows += len(block)
        with self.bin.open("ab") as file:
            np.ascontiguousarray(block, self.about["dtype"]).tofile(file)

    def append_text(self, content: bytes, ends: np.ndarray) -> None:
        """UTF-8 bytes, and the places in them where texts end (the last may be open)."""
        with self.text.open("ab") as file:
            file.write(content)
        self.append(ends + self.bytes)
        self.bytes += len(content)

    def append_texts(self, values: Sequence[str]) -> None:
        lengths, content = encode_text(values)
        self.append_text(content, np.cumsum(lengths))


class Draft:
    """The folder of a data set while it is made; leaving the `with` block without `keep` removes it. Its name tells who makes it."""

    def __init__(self, home: Path | None, path: Path | None = None):
        """A new one, or one that another process has made (`path`)."""
        if path is None:
            assert home is not None
            (Path(home) / "datasets").mkdir(parents=True, exist_ok=True)
            path = Path(tempfile.mkdtemp(prefix=unfinished.prefix(), dir=Path(home) / "datasets"))
        self.root, self.path, self.content = path.parent, path, path / "content"
        self.writers: list[Writer] = []

    def __enter__(self) -> Draft:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        shutil.rmtree(self.path, ignore_errors=True)

    def column(self, name: str, kind: Kind, dtype: Any = np.float64, shape: Sequence[int] = (), classes: Sequence[Class] | None = None,
               array: bool = False) -> Writer:
        about = {"name": name, "kind": kind, "dtype": np.dtype(dtype).name, "shape": list(shape), "array": array}
        writer = Writer(self.path, len(self.writers), about | ({} if classes is None else {"classes": list(classes)}))
        self.writers.append(writer)
        return writer

    def clear(self) -> None:
        """Forget the columns written so far."""
        for writer in self.writers:
            writer.bin.unlink()
            writer.text.unlink(missing_ok=True)
        self.writers.clear()

    def put(self, column: Column) -> None:
        """A column that is in memory already."""
        writer = self.column(column.name, column.kind, column.data.dtype, column.shape, column.classes, column.array)
        if column.content is not None:
            writer.append_text(column.content.tobytes(), column.data[1:])
        else:
            writer.append(column.data)

    def finish(self, kind: str, about: dict[str, Any]) -> dict[str, Any]:
        """Look through the columns once more, for their summaries and warnings, and write table.json with them and `about`. Returns what it says."""
        wrong = [writer for writer in self.writers if writer.rows != self.writers[0].rows]
        if wrong:
            first, other = self.writers[0], wrong[0]
            detail = f"column {other.about['name']!r} has {other.rows:,} rows where {first.about['name']!r} has {first.rows:,}"
            raise DatasetError("unequal_rows", f"{detail}: every column needs a value for each row", column=other.about["name"])
        found = {"version": VERSION, "kind": kind, "rows": self.writers[0].rows, "columns": [writer.about for writer in self.writers], **about}
        found["summary"], noticed = profile(self.path, found)
        found["warnings"] = [*found.get("warnings", ()), *noticed]
        (self.path / "table.json").write_text(json.dumps(found, ensure_ascii=False, allow_nan=False))
        return found

    def keep(self, address: str) -> Path:
        """Make the folder durable and visible. A folder of that address stays as it is: it has the same content."""
        with ThreadPoolExecutor(SYNCS) as pool:
            list(pool.map(sync, self.path.iterdir()))
        sync(self.path)
        crash_point("dataset.before_rename")
        final = self.root / address
        if not (final / "table.json").exists():
            try:
                self.path.rename(final)
            except OSError:
                if not (final / "table.json").exists():
                    raise
        sync(self.root)
        crash_point("dataset.after_rename")
        return final


def sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def described(folder: Path) -> dict[str, Any]:
    """table.json of a folder; 404 when there is none."""
    try:
        return json.loads((folder / "table.json").read_text())
    except FileNotFoundError:
        raise DatasetError("dataset_missing", "the content of this dataset is no longer there: upload it again", 404) from None
    except ValueError as error:
        raise DatasetError("dataset_damaged", f"the description of this dataset is damaged ({error}): upload it again", 500) from None


def table_of(folder: Path, about: dict[str, Any]) -> Table:
    """The columns of a folder, mapped read-only."""
    columns = {}
    for place, column in enumerate(about["columns"]):
        text = column["kind"] == "text"
        data = mapped(folder / f"{place}.bin", column["dtype"], (about["rows"] + text, *column["shape"]))
        classes = tuple(column["classes"]) if "classes" in column else None
        content = mapped(folder / f"{place}.text", "uint8", (int(data[-1]),)) if text else None
        columns[column["name"]] = Column(column["name"], column["kind"], data, classes, column["array"], content)
    return Table(columns, about["rows"], about["kind"])


def mapped(path: Path, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size == 0:
        return np.empty(shape, dtype)
    try:
        if path.stat().st_size == size:
            return np.memmap(path, dtype, "r", shape=shape)
    except FileNotFoundError:
        pass
    raise DatasetError("dataset_damaged", f"a file of this dataset does not have its {size:,} bytes any more: upload it again", 500)
