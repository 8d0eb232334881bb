"""CSV: delimiter, header and kinds are found by looking; the file is read twice, so that it may be larger than memory.

The first pass guesses each column's kind from every row, the second writes the columns. Each error says the line and what to do.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import BinaryIO

from engine.data.inference import MAX_CLASSES, MISSING, PAIRS, BadCell, Guess, number, says, seconds
from service.datasets.draft import Draft
from service.datasets.formats import Reading, check_types
from service.datasets.limits import DatasetError, Limits

Open = Callable[[], BinaryIO]
Warnings = list[dict[str, str]]
SAMPLE = 1 << 16
BLOCK = 1 << 21       # characters parsed together
DISTINCT = 4_000_000  # different values remembered, over all columns
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
                detail = f"a row that ends at line {self.number} or after is longer than {self.most:,} characters: is a quote never closed, or the delimiter another?"
                raise DatasetError("row_too_long", detail, line=self.number)
            if "\0" in line:
                raise DatasetError("nul_byte", f"line {self.number} has a NUL byte: this is not text; save the file as UTF-8 text", line=self.number)
            yield line


def read(draft: Draft, opened: Open, reading: Reading, limits: Limits) -> Warnings:
    """Write the columns of a CSV file into a draft; returns the warnings."""
    with opened() as stream:
        start = stream.read(4)
    if not start:
        raise DatasetError("empty", "the file is empty")
    encoding = "utf-16" if start[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        layout = look(opened, encoding, reading, limits)
        guesses = guess(opened, layout, reading, limits)
    except UnicodeError:
        layout = look(opened, "latin-1", reading, limits)
        guesses = guess(opened, layout, reading, limits)
        layout.warnings.append({"code": "not_utf8", "detail": "the file is not UTF-8 text, and was read as Latin-1: check accented letters"})
    write(draft, opened, layout, guesses, limits)
    for name, found in zip(layout.names, guesses, strict=True):
        layout.warnings.extend({"code": code, "column": name, "detail": detail} for code, detail in found.warnings())
    return layout.warnings


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


def look(opened: Open, encoding: str, reading: Reading, limits: Limits) -> Layout:
    """Find the delimiter and the header in the first lines."""
    with opened() as stream:
        lines = Lines(stream, encoding, limits)
        sample = []
        for line in lines:
            sample.append(line)
            if lines.total > SAMPLE:
                break
            lines.record = 0
    delimiter = reading.delimiter or likely_delimiter(sample)
    rows = [row for row in csv.reader(sample, delimiter=delimiter, skipinitialspace=True) if row and (len(row) > 1 or row[0].strip())]
    if not rows:
        raise DatasetError("empty", "the file has no rows: every line is blank")
    if len(rows[0]) > limits.columns:
        raise DatasetError("too_many_columns", f"line 1 has {len(rows[0]):,} columns, more than {limits.columns:,}: send arrays (.npy) instead", line=1)
    header, sure = (reading.header, True) if reading.header is not None else likely_header(rows)
    names, warnings = named(rows[0]) if header else ([f"c{i}" for i in range(len(rows[0]))], [])
    if not sure:
        warnings.append({"code": "header_guessed", "detail": "the first row was taken for the names of the columns; say header=false if it is data"})
    check_types(reading.types, names)
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
    if not rest or any(typed(value) or value.strip() in MISSING - {""} for value in first):
        return False, True
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
                   for i, name in enumerate(row) if not name.strip()]  # fmt: skip


def blocks(opened: Open, layout: Layout, limits: Limits) -> Iterator[tuple[int, list[int], list[Sequence[str]]]]:
    """(first row, line of each row, columns of texts), some rows at a time; a row of another width is an error."""
    width, first, rows, places, until = len(layout.names), 0, [], [], BLOCK
    source = records(opened, layout.encoding, layout.delimiter, limits)
    if layout.header:
        next(source, None)
    for lines, record in source:
        if len(record) != width:
            row = first + len(rows)
            detail = f"line {lines.number} (row {row}) has {len(record)} fields where the {'header' if layout.header else 'first row'} has {width}"
            raise DatasetError("ragged_row", f"{detail}: mend the row, or say delimiter= if it is not {layout.delimiter!r}", row=row, line=lines.number)
        rows.append(record)
        places.append(lines.number)
        if lines.total > until:
            yield first, places, list(zip(*rows, strict=True))
            first, rows, places, until = first + len(rows), [], [], lines.total + BLOCK
    if rows:
        yield first, places, list(zip(*rows, strict=True))


def guess(opened: Open, layout: Layout, reading: Reading, limits: Limits) -> list[Guess]:
    most = min(MAX_CLASSES, max(64, DISTINCT // len(layout.names)))
    guesses = [Guess(reading.types.get(name), most) for name in layout.names]  # type: ignore[arg-type]  # kinds were checked
    for _, _, columns in blocks(opened, layout, limits):
        for found, values in zip(guesses, columns, strict=True):
            found.see(values)
    if not guesses[0].rows:
        raise DatasetError("no_rows", "the file has a header and no rows" if layout.header else "the file has no rows")
    return guesses


def write(draft: Draft, opened: Open, layout: Layout, guesses: list[Guess], limits: Limits) -> None:
    """The second pass: texts become arrays."""
    readings = []
    for name, found in zip(layout.names, guesses, strict=True):
        try:
            readings.append(found.reading())
        except BadCell as bad:
            raise DatasetError(f"not_a_{found.kind}", f"column {name!r}, row {bad.index}: {bad}", row=bad.index, column=name) from None
    writers = [draft.column(name, r.kind, r.dtype, classes=r.classes) for name, r in zip(layout.names, readings, strict=True)]
    for first, places, columns in blocks(opened, layout, limits):
        for name, reading, writer, values in zip(layout.names, readings, writers, columns, strict=True):
            try:
                if reading.kind == "text":
                    writer.append_texts(values)
                else:
                    writer.append(reading.encode(values))
            except BadCell as bad:
                row, line = first + bad.index, places[bad.index]
                detail = f"line {line} (row {row}), column {name!r}: {bad}; mend it, leave it empty if it is missing, or give the column another type"
                raise DatasetError(f"not_a_{bad.expected}", detail, row=row, line=line, column=name) from None
