"""CSV: delimiter and header are found by looking; the file is read in blocks, so that it may be larger than memory.

Each error says the line and what to do.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import BinaryIO

from engine.data.inference import MISSING, PAIRS, number, says, seconds
from service.datasets.draft import Draft
from service.datasets.formats import Options, check_types
from service.datasets.limits import DatasetError, Limits
from service.datasets.texts import BLOCK, Block, Open, Warnings, check_width, write

SAMPLE = 1 << 16  # characters in which delimiter and header are looked for
DELIMITERS = ",;\t|"
WORDS = {str(word).lower() for word in chain.from_iterable(PAIRS)}


@dataclass(frozen=True)
class Layout:
    encoding: str
    delimiter: str
    header: bool
    names: list[str]
    warnings: Warnings


class Lines:
    """Lines of a text, with a cap on the characters of a record (which may go over lines, within quotes)."""

    def __init__(self, stream: BinaryIO, encoding: str, limits: Limits):
        self.text, self.most = io.TextIOWrapper(stream, encoding, newline=""), limits.row_characters
        self.number = self.record = self.total = 0

    def __iter__(self) -> Iterator[str]:
        while line := self.text.readline(self.most + 1):
            self.number += 1
            self.record += len(line)
            self.total += len(line)
            if self.record > self.most:
                detail = f"the row at line {self.number} is longer than {self.most:,} characters: is a quote never closed?"
                raise DatasetError("row_too_long", detail, line=self.number)
            if "\0" in line:
                raise DatasetError("nul_byte", f"line {self.number} has a NUL byte: this is not text; save the file as UTF-8 text", line=self.number)
            yield line


def read(draft: Draft, opened: Open, options: Options, limits: Limits) -> Warnings:
    """Write the columns of a CSV file into a draft; returns the warnings."""
    with opened() as stream:
        start = stream.read(2)
    encoding = "utf-16" if start in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return read_as(encoding, draft, opened, options, limits)
    except UnicodeError:
        draft.clear()
        latin = {"code": "not_utf8", "detail": "the file is not UTF-8 text, and was read as Latin-1: check accented letters"}
        return [latin, *read_as("latin-1", draft, opened, options, limits)]


def read_as(encoding: str, draft: Draft, opened: Open, options: Options, limits: Limits) -> Warnings:
    layout = look(opened, encoding, options, limits)
    return layout.warnings + write(draft, layout.names, options.types, lambda: blocks(opened, layout, limits))


def records(opened: Open, encoding: str, delimiter: str, limits: Limits) -> Iterator[tuple[Lines, list[str]]]:
    """Rows that are not blank."""
    with opened() as stream:
        lines = Lines(stream, encoding, limits)
        reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=True)
        try:
            for record in reader:
                lines.record = 0
                if record and (len(record) > 1 or record[0].strip()):
                    yield lines, record
        except csv.Error as error:
            detail = f"line {lines.number}: {error}; a text that contains quotes or the delimiter is written in quotes, with quotes in it doubled"
            raise DatasetError("malformed_row", detail, line=lines.number) from None


def look(opened: Open, encoding: str, options: Options, limits: Limits) -> Layout:
    """Find the delimiter and the header in the first lines."""
    with opened() as stream:
        lines = Lines(stream, encoding, limits)
        sample = []
        for line in lines:
            sample.append(line)
            if lines.total > SAMPLE:
                break
            lines.record = 0
    delimiter = options.delimiter or likely_delimiter(sample)
    rows = [row for row in csv.reader(sample, delimiter=delimiter, skipinitialspace=True) if row and (len(row) > 1 or row[0].strip())]
    if not rows:
        raise DatasetError("empty", "the file has no rows: every line is blank")
    check_width(len(rows[0]), limits.columns)
    header, sure = (options.header, True) if options.header is not None else likely_header(rows)
    names, warnings = named(rows[0]) if header else ([f"c{i}" for i in range(len(rows[0]))], [])
    if not sure:
        warnings.append({"code": "header_guessed", "detail": "the first row was taken for the names of the columns; say header=false if it is data"})
    check_types(options.types, names)
    return Layout(encoding, delimiter, header, names, warnings)


def likely_delimiter(sample: list[str]) -> str:
    """The delimiter that cuts most rows into one same number of fields, more than one."""
    best, found = (0.0, 0), ","
    for delimiter in DELIMITERS:
        widths = Counter(len(row) for row in csv.reader(sample, delimiter=delimiter, skipinitialspace=True) if row)
        width, count = widths.most_common(1)[0] if widths else (0, 0)
        score = (round(count / max(1, widths.total()), 1), width)
        if width > 1 and score > best:
            best, found = score, delimiter
    return found


def typed(value: str) -> bool:
    """A value that is seldom a column's name."""
    value = value.strip()
    return says(number, value) or says(seconds, value) or value.lower() in WORDS


def likely_header(rows: list[list[str]]) -> tuple[bool, bool]:
    """Whether the first row names the columns, and whether that is sure."""
    first, rest = rows[0], rows[1:]
    if any(typed(value) or value.strip() in MISSING - {""} for value in first):
        return False, True
    if not rest:
        return True, True
    columns = [[row[i] for row in rest if i < len(row) and row[i].strip() not in MISSING] for i in range(len(first))]
    if any(values and all(map(typed, values)) for values in columns):
        return True, True
    return not any(name in values for name, values in zip(first, columns, strict=True)), False


def named(row: Sequence[str]) -> tuple[list[str], Warnings]:
    """The names in a header; blank ones are c0, c1 … by their place."""
    names = [name.strip() or f"c{i}" for i, name in enumerate(row)]
    for i, name in enumerate(names):
        if (first := names.index(name)) < i:
            detail = f"columns {first + 1} and {i + 1} are both called {name[:80]!r}: rename one, or say header=false if the first row is data"
            raise DatasetError("duplicate_column", detail, line=1, column=name)
    return names, [{"code": "unnamed_column", "column": names[i], "detail": f"column {i + 1} has no name in the header"}
                   for i, name in enumerate(row) if not name.strip()]


def blocks(opened: Open, layout: Layout, limits: Limits) -> Iterator[Block]:
    """Some rows at a time; a row of another width is an error."""
    width, first, rows, places, until = len(layout.names), 0, [], [], BLOCK
    source = records(opened, layout.encoding, layout.delimiter, limits)
    if layout.header:
        next(source, None)
    for lines, record in source:
        if len(record) != width:
            row = first + len(rows)
            detail = f"line {lines.number} (row {row}) has {len(record)} fields where the {'header' if layout.header else 'first row'} has {width}"
            detail += f": mend the row, or say delimiter= if it is not {layout.delimiter!r}"
            raise DatasetError("ragged_row", detail, row=row, line=lines.number)
        rows.append(record)
        places.append(lines.number)
        if lines.total > until:
            yield Block(first, places, list(zip(*rows, strict=True)))
            first, rows, places, until = first + len(rows), [], [], lines.total + BLOCK
    if rows:
        yield Block(first, places, list(zip(*rows, strict=True)))
