"""JSON: columns or rows in one document, or NDJSON, one object on each line."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

from engine.data.inference import Kind
from engine.data.table import Table, cell
from engine.errors import Problem, SpecError
from service.datasets.draft import Draft
from service.datasets.formats import check_types
from service.datasets.limits import DatasetError, Limits
from service.datasets.texts import Block, Open, Plain, Warnings, block_size, check_width, write
from service.notation import NO_TEXT, UNFIT, is_text

DEPTH = 32


def parse(text: bytes, where: str = "") -> Any:
    """A JSON value of finite numbers, whose names are text. DatasetErrors say the place."""
    try:
        characters = text.decode(json.detect_encoding(text))
        value = json.loads(characters, parse_constant=refuse, parse_float=size)
        wrong = UNFIT.search(characters) and next((name for name in names_in(value) if not is_text(name)), None)
    except RecursionError:
        raise DatasetError("too_deep", f"{where}the JSON is nested more than {DEPTH} deep") from None
    except ValueError as error:
        raise DatasetError("malformed_json", f"{where}not JSON: {error}") from None
    if wrong:
        raise DatasetError("invalid_text", f"{where}the name {wrong[:80]!r} cannot be kept: {NO_TEXT}")
    return value


def names_in(value: Any) -> Iterator[str]:
    """The names of every object."""
    if isinstance(value, dict):
        yield from value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from names_in(item)


def refuse(word: str) -> None:
    raise ValueError(f"{word} is not a JSON number; write null for a missing one")


def size(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is too large for a number")
    return value


def read(stream: BinaryIO, types: Mapping[str, Kind], limits: Limits) -> Table:
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


def table_of(data: Any, part: str, types: Mapping[str, Kind], limits: Limits) -> Table:
    """The table of inline `columns` or `rows`; every problem with a pointer into the request."""
    if not isinstance(data, dict if part == "columns" else list):
        wanted = "an object of columns: {name: [values]}" if part == "columns" else "a list of rows: [{name: value}]"
        raise DatasetError("invalid_request", f"{part} is {wanted}", pointer=f"/{part}")
    if not data:
        raise DatasetError("no_rows", f"{part} is empty", pointer=f"/{part}")
    if part == "columns" and types:
        raise DatasetError("bad_types", "types are for tables; inline columns have the types of their values")
    make: Any = Table.from_columns if part == "columns" else Table.from_rows
    try:
        table = make(data) if part == "columns" else make(data, types)
    except SpecError as error:
        raise refused([problem.under(f"/{part}") for problem in error.problems]) from None
    if not table.columns:
        raise DatasetError("no_columns", "no row has a field: one row is {name: value}", pointer=f"/{part}")
    check_types(types, list(table.columns))
    check_width(len(table.columns), limits.columns)
    if deep := next((c for c in table.columns.values() if c.data.ndim > limits.axes), None):
        raise DatasetError("bad_shape", f"column {deep.name!r} has {deep.data.ndim} axes; at most {limits.axes} are kept", column=deep.name)
    return table


def refused(problems: list[Problem]) -> DatasetError:
    error = DatasetError(problems[0].code, problems[0].detail, pointer=problems[0].pointer, suggestion=problems[0].suggestion)
    error.errors = problems
    return error


def read_lines(draft: Draft, opened: Open, types: Mapping[str, Kind], limits: Limits) -> Warnings:
    """Write NDJSON into a draft, a block of lines at a time; returns the warnings. The columns are the fields of all rows."""
    names: dict[str, None] = {}
    for _, _, row in objects(opened, limits):
        names.update(dict.fromkeys(row))
        check_width(len(names), limits.columns)
    if not names:
        raise DatasetError("empty", "the file has no rows")
    check_types(types, list(names))
    return write(draft, list(names), types, lambda: blocks(opened, list(names), limits))


def objects(opened: Open, limits: Limits) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """(line, bytes, row) of each line that is not blank."""
    with opened() as stream:
        number = 0
        while line := stream.readline(limits.row_characters + 1):
            number += 1
            if len(line) > limits.row_characters:
                raise DatasetError("row_too_long", f"line {number} is longer than {limits.row_characters:,} bytes", line=number)
            if line.strip():
                row = parse(line, f"line {number}: ")
                if not isinstance(row, dict):
                    raise DatasetError("not_an_object", f"line {number} is not an object: one row is {{name: value}}", line=number)
                yield number, len(line), row


def blocks(opened: Open, names: list[str], limits: Limits) -> Iterator[Block]:
    first, size, lines, rows = 0, 0, [], []
    for number, length, row in objects(opened, limits):
        try:
            rows.append([cell(row.get(name)) for name in names])
        except TypeError as error:
            detail = f"line {number}: {error}; send arrays as .npy, or as JSON columns"
            raise DatasetError("not_a_cell", detail, row=first + len(rows), line=number) from None
        lines.append(number)
        size += length
        if size > block_size(len(names)):
            yield Block(first, lines.__getitem__, list(map(Plain, zip(*rows, strict=True))))
            first, size, lines, rows = first + len(rows), 0, [], []
    if rows:
        yield Block(first, lines.__getitem__, list(map(Plain, zip(*rows, strict=True))))
