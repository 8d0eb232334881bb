"""From the bytes of a draft to its columns: which format, then the reader of that format."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

from engine.data.table import Table
from service.datasets import arrays, csv, npz, text, weights
from service.datasets import json as documents
from service.datasets.draft import VERSION, Draft
from service.datasets.formats import Options
from service.datasets.limits import Budget, DatasetError, Limits
from service.datasets.streams import PIECE, packed, unpacked

LONGEST_NAME = 256
Warnings = list[dict[str, str]]


@dataclass(frozen=True)
class Task:
    """What is to be read, and how. `bytes` are those that were uploaded."""

    format: str
    options: Options
    limits: Limits
    bytes: int


def read(draft: Draft, task: Task, quick: bool = False) -> dict[str, Any]:
    """Read a draft's content into columns, and describe them: its table.json. `quick`: this process may load what makes it large."""
    if task.format == weights.FORMAT:
        return of_weights(draft, task)
    kind, warnings = columns(draft, task, quick)
    return describe(draft, task.format, task.bytes, kind, warnings)


def of_weights(draft: Draft, task: Task) -> dict[str, Any]:
    """A file of parameters, which has no rows."""
    if packed(draft.content):
        raise DatasetError("unsupported_media_type", "a safetensors file is sent as it is, not as gzip", 415)
    arrays = weights.describe(draft.content, task.limits)
    check_names([array["name"] for array in arrays])
    return weights.table_json(draft.path, VERSION, task.bytes, arrays)


def columns(draft: Draft, task: Task, quick: bool) -> tuple[str, Warnings]:
    """Write the columns; returns the table's kind and the warnings."""
    found, limits, budget = task.format, task.limits, Budget(task.limits)

    def opened() -> io.BufferedReader:
        return unpacked(draft.content, Budget(limits))

    if found == "csv":
        return "table", csv.read(draft, opened, task.options, limits, quick)
    if found == "text":
        return "text", text.read(draft, opened)
    if found == "ndjson":
        return "table", documents.read_lines(draft, opened, task.options.types, limits)
    if found == "json":
        with opened() as stream:
            return put(draft, documents.read(stream, task.options.types, limits)), []
    if found == "npz":
        npz.read(draft, whole(draft, budget), budget)
    elif found in ("parquet", "images"):
        return import_module(f"service.datasets.{found}").read(draft, whole(draft, budget), task.options.types, budget)
    else:
        with opened() as stream:
            array(draft, stream, "data", budget, found)
    return "arrays", []


def whole(draft: Draft, budget: Budget) -> Path:
    """The file to be read in any order: the content, or what was in it where that is gzip."""
    if not packed(draft.content):
        return draft.content
    laid = draft.path / "unpacked"
    with unpacked(draft.content, budget) as stream, laid.open("wb") as file:
        while piece := stream.read(PIECE):
            file.write(piece)
    return laid


def array(draft: Draft, stream: BinaryIO, name: str, budget: Budget, found: str) -> None:
    header = arrays.npy_header(stream, name) if found == "npy" else arrays.idx_header(stream, name)
    arrays.copy(stream, header, name, draft, budget)


def put(draft: Draft, table: Table) -> str:
    for column in table.columns.values():
        draft.put(column)
    return table.kind


def describe(draft: Draft, found: str, size: int, kind: str, warnings: Warnings) -> dict[str, Any]:
    """Write the draft's table.json; returns what it says."""
    check_names([writer.about["name"] for writer in draft.writers])
    (draft.path / "unpacked").unlink(missing_ok=True)
    return draft.finish(kind, {"format": found, "bytes": size, "warnings": warnings})


def check_names(names: Sequence[str]) -> None:
    """Names are shown, and written in patterns and pointers: no control characters, not endless, none twice."""
    for i, name in enumerate(names):
        if not name.strip() or len(name) > LONGEST_NAME or not name.isprintable():
            detail = f"column {i + 1} is called {name[:80]!r}: names have 1 to {LONGEST_NAME} printable characters"
            raise DatasetError("bad_name", detail, column=name[:80])
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DatasetError("duplicate_column", f"two columns are called {twice!r}: rename one", column=twice)
