"""Parquet: read a row group, and of that some rows, at a time. What the footer promises is weighed before anything is read, and counted as it comes.

    integers, floats, decimals, times of day, durations (seconds)    number; missing is NaN
    booleans                                                         boolean
    texts                                                            category, or text where there are many different ones
    dictionaries of texts                                            category
    dates and timestamps                                             datetime
    fixed-size lists of numbers, tensors                             tensor, as given

`types=` reads a column as a CSV file would. Other nested columns, and bytes, are refused by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from engine.data.inference import MAX_CLASSES, BadCell, Guess, Kind, Reading, few, ordered
from service.datasets.arrow import as_texts, bare, is_date, is_number, is_text, kept, numbers, tensor_shape, tensors, width_of
from service.datasets.draft import Draft, Writer
from service.datasets.formats import check_types
from service.datasets.limits import Budget, DatasetError
from service.datasets.read import check_names
from service.datasets.texts import DISTINCT, Warnings, check_width

pc: Any = import_module("pyarrow.compute")
MAGIC = b"PAR1"
LARGEST_FOOTER = 16_000_000
ROWS = 1 << 16              # read together, if they are narrow
BYTES = 1 << 24
ADVICE = "send each of its parts as a column of its own, or arrays of one length"


def read(draft: Draft, path: Path, types: Mapping[str, Kind], budget: Budget) -> tuple[str, Warnings]:
    """Write the columns of a Parquet file into a draft; returns the table's kind and the warnings."""
    check_ends(path)
    try:
        with parquet.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False, thrift_string_size_limit=LARGEST_FOOTER,
                                 thrift_container_size_limit=1_000_000) as file:
            return "table", copy(draft, file, types, budget)
    except (pa.ArrowMemoryError, MemoryError):
        raise MemoryError from None
    except (pa.ArrowException, OSError, ValueError, OverflowError, KeyError) as error:
        if isinstance(error, OSError) and error.errno in (28, 122):
            raise
        detail = f"this Parquet file cannot be read: {str(error)[:200]}"
        raise DatasetError("malformed_parquet", detail) from None


def check_ends(path: Path) -> None:
    """Both magics, and a footer that lies between them and is not large."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(4)
        file.seek(max(0, size - 8))
        end = file.read(8)
    if start != MAGIC or end[4:] != MAGIC or size < 12:
        raise DatasetError("truncated", "the file does not begin and end as Parquet does: the upload was cut, or it is encrypted")
    footer = int.from_bytes(end[:4], "little")
    if footer > min(size - 12, LARGEST_FOOTER):
        raise DatasetError("malformed_parquet", f"the footer says that it has {footer:,} bytes, in a file of {size:,}")


@dataclass
class Made:
    """A column on its way: `texts` are guessed at, and written in a second pass."""

    name: str
    type: pa.DataType
    texts: bool = False
    guess: Guess | None = None
    writer: Writer | None = None
    reading: Reading | None = None
    wide: bool = False                  # integers that a float64 does not hold


def copy(draft: Draft, file: parquet.ParquetFile, types: Mapping[str, Kind], budget: Budget) -> Warnings:
    schema, rows = file.schema_arrow, file.metadata.num_rows
    check_width(len(schema), budget.limits.columns)
    check_names(schema.names)
    check_types(types, list(schema.names))
    if len(schema) == 0:
        raise DatasetError("no_columns", "the Parquet file has no columns")
    if rows < 1:
        raise DatasetError("no_rows", "the Parquet file has no rows")
    most = min(MAX_CLASSES, max(64, DISTINCT // len(schema)))
    columns = [made(field, types, most) for field in schema]
    width = sum(width_of(column.type) for column in columns)
    budget.fits(rows * width, f"a table of {rows:,} rows")
    step = max(1, min(ROWS, BYTES // width))
    if guessed := [column for column in columns if column.texts]:
        for batch in batches(file, step, budget, [column.name for column in guessed]):
            for column, values in zip(guessed, batch, strict=True):
                assert column.guess is not None
                as_texts(values).see(column.guess)
    for column in columns:
        begin(column, draft, rows)
    found = 0
    for batch in batches(file, step, budget):
        found += len(batch[0])
        for column, values in zip(columns, batch, strict=True):
            append(column, values)
    if found != rows:
        raise DatasetError("malformed_parquet", f"the file promises {rows:,} rows and has {found:,}")
    return [warning for column in columns for warning in told(column)]


def batches(file: parquet.ParquetFile, step: int, budget: Budget, names: list[str] | None = None) -> Iterator[list[pa.Array]]:
    """Some rows at a time, as arrays; their bytes are taken from a budget of this pass."""
    left = Budget(budget.limits)
    for group in range(file.num_row_groups):
        for batch in file.iter_batches(step, [group], columns=names, use_threads=False):
            left.take(batch.nbytes)
            yield batch.columns


# ---------------------------------------------------------------- columns

def made(field: pa.Field, types: Mapping[str, Kind], most: int) -> Made:
    """What becomes of a column; refused are those that are no column of a table."""
    kind, wanted = bare(field.type), types.get(field.name)
    texts = is_text(kind)
    if not texts and not pa.types.is_boolean(kind) and not is_number(kind) and not is_date(kind) and tensor_shape(kind) is None:
        what = "nested" if pa.types.is_nested(kind) else f"of type {kind}"
        detail = f"column {field.name!r} is {what} ({str(field.type)[:80]}); columns hold numbers, booleans, texts, dates or fixed-size lists"
        raise DatasetError("unsupported_dtype", f"{detail} of numbers: {ADVICE}", column=field.name[:256])
    if wanted is not None and tensor_shape(kind) is not None:
        raise DatasetError("bad_types", f"column {field.name!r} holds arrays: its type is that of its numbers", column=field.name)
    natural = "number" if is_number(kind) else "datetime" if is_date(kind) else "boolean"
    if texts or (wanted is not None and wanted != natural):
        return Made(field.name, kind, True, Guess(wanted, most))
    return Made(field.name, kind)


def begin(column: Made, draft: Draft, rows: int) -> None:
    """Make the files of a column."""
    if column.guess is not None:
        column.reading = reading_of(column, column.guess, rows)
        column.writer = draft.column(column.name, column.reading.kind, column.reading.dtype, classes=column.reading.classes)
    elif (found := tensor_shape(column.type)) is not None:
        column.writer = draft.column(column.name, "tensor", kept(found[1]), found[0], array=True)
    elif pa.types.is_boolean(column.type):
        column.writer = draft.column(column.name, "boolean", np.int32, classes=(False, True))
    else:
        column.writer = draft.column(column.name, "datetime" if is_date(column.type) else "number", np.float64)


def reading_of(column: Made, guess: Guess, rows: int) -> Reading:
    """Texts are classes where they are few; they are never numbers or dates unless they were said to be."""
    try:
        if guess.kind is not None:
            return guess.reading()
    except BadCell as bad:
        raise DatasetError(f"not_a_{guess.kind}", f"column {column.name!r}, row {bad.index}: {bad}", row=bad.index, column=column.name) from None
    classes = guess.distinct is not None and (few(guess.distinct, rows) or pa.types.is_dictionary(column.type))
    return Reading("category", ordered(guess.distinct or set())) if classes else Reading("text")


def append(column: Made, values: pa.Array) -> None:
    """Write some rows of a column."""
    assert column.writer is not None
    if column.reading is not None:
        try:
            as_texts(values).append(column.writer, column.reading)
        except BadCell as bad:
            row = column.writer.rows + bad.index
            raise DatasetError(f"not_a_{column.reading.kind}", f"column {column.name!r}, row {row}: {bad}", row=row, column=column.name) from None
    elif (found := tensor_shape(column.type)) is not None:
        column.writer.append(tensors(column.name, values, *found, column.writer.rows))
    elif pa.types.is_boolean(column.type):
        column.writer.append(pc.fill_null(pc.cast(values, pa.int8()), -1).to_numpy(zero_copy_only=False))
    else:
        found, wide = numbers(column.name, values)
        column.writer.append(found)
        column.wide = column.wide or wide


def told(column: Made) -> Warnings:
    """What a reader of the column should know."""
    found = column.guess.warnings() if column.guess is not None and column.guess.kind is not None else []
    if pa.types.is_null(column.type) or (column.guess is not None and not column.guess.anything and not found):
        found = [("all_missing", "no row has a value")]
    if column.wide:
        found.append(("precision_lost", "whole numbers beyond 2**53 are rounded: give it the type category if it is a code"))
    return [{"code": code, "column": column.name, "detail": detail} for code, detail in found]
