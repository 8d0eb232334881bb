"""JSON: columns or rows in one document, or NDJSON, one object on each line."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, BinaryIO

from engine.data.inference import Kind
from engine.data.table import Table
from engine.errors import Problem, SpecError
from service.datasets.csv import Open
from service.datasets.formats import check_types
from service.datasets.limits import DatasetError, Limits

DEPTH = 32


def parse(text: bytes, where: str = "") -> Any:
    """A JSON value of finite numbers. DatasetErrors say the place."""
    try:
        return json.loads(text, parse_constant=refuse, parse_float=size)
    except RecursionError:
        raise DatasetError("too_deep", f"{where}the JSON is nested more than {DEPTH} deep") from None
    except ValueError as error:
        raise DatasetError("malformed_json", f"{where}not JSON: {error}") from None


def refuse(word: str) -> None:
    raise ValueError(f"{word} is not a JSON number; write null for a missing one")


def size(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is too large for a number")
    return value


def read(stream: BinaryIO, types: Mapping[str, str], limits: Limits) -> Table:
    """{"columns": {name: [values]}} or {"rows": [{name: value}]}, with an optional "name"."""
    body = stream.read(limits.inline_bytes + 1)
    if len(body) > limits.inline_bytes:
        raise DatasetError("too_large", f"JSON of more than {limits.inline_bytes:,} bytes is not read: send CSV, NDJSON or .npy", 413)
    value = parse(body)
    if not isinstance(value, dict) or len(parts := value.keys() & {"columns", "rows"}) != 1:
        raise DatasetError("invalid_request", 'send {"columns": {name: [values]}} or {"rows": [{name: value}]}')
    if unknown := sorted(value.keys() - {"columns", "rows", "name"}):
        raise DatasetError("unknown_field", f"a dataset has no field {unknown[0][:80]!r}", pointer=f"/{unknown[0]}")
    (part,) = parts
    return table_of(value[part], part, types, limits)


def table_of(data: Any, part: str, types: Mapping[str, str], limits: Limits) -> Table:
    """The table of inline `columns` or `rows`; every problem with a pointer into the request."""
    if not isinstance(data, dict if part == "columns" else list):
        wanted = "an object of columns: {name: [values]}" if part == "columns" else "a list of rows: [{name: value}]"
        raise DatasetError("invalid_request", f"{part} is {wanted}", pointer=f"/{part}")
    if not data:
        raise DatasetError("no_rows", f"{part} is empty", pointer=f"/{part}")
    if part == "columns" and types:
        raise DatasetError("bad_types", "types are for tables; inline columns have the types of their values")
    try:
        table = Table.from_columns(data) if part == "columns" else Table.from_rows(data, kinds(types))
    except SpecError as error:
        raise refused([problem.under(f"/{part}") for problem in error.problems]) from None
    check_types(types, list(table.columns))
    if len(table.columns) > limits.columns:
        raise DatasetError("too_many_columns", f"{len(table.columns):,} columns are more than {limits.columns:,}")
    return table


def kinds(types: Mapping[str, str]) -> dict[str, Kind]:
    return dict(types)  # type: ignore[arg-type]  # checked by `formats.reading`


def refused(problems: list[Problem]) -> DatasetError:
    error = DatasetError(problems[0].code, problems[0].detail, pointer=problems[0].pointer, suggestion=problems[0].suggestion)
    error.errors = problems
    return error


def read_lines(opened: Open, types: Mapping[str, str], limits: Limits) -> Table:
    """NDJSON, read into memory; each error says its line."""
    rows = []
    with opened() as stream:
        number = 0
        while line := stream.readline(limits.row_characters + 1):
            number += 1
            if len(line) > limits.row_characters:
                raise DatasetError("row_too_long", f"line {number} is longer than {limits.row_characters:,} characters", line=number)
            if line.strip():
                row = parse(line, f"line {number}: ")
                if not isinstance(row, dict):
                    raise DatasetError("not_an_object", f"line {number} is not an object: one row is {{name: value}}", line=number)
                rows.append(row)
    if not rows:
        raise DatasetError("empty", "the file has no rows")
    try:
        table = Table.from_rows(rows, kinds(types))
    except SpecError as error:
        raise refused(error.problems) from None
    check_types(types, list(table.columns))
    if len(table.columns) > limits.columns:
        raise DatasetError("too_many_columns", f"{len(table.columns):,} columns are more than {limits.columns:,}")
    return table
