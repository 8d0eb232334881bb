"""CSV: delimiter and header are found by looking; the file is read in blocks, so that it may be larger than memory.

Each error says the line and what to do.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice

from engine.data.inference import MISSING, PAIRS, number, says, seconds
from service.datasets.draft import Draft
from service.datasets.formats import Options, check_types
from service.datasets.limits import DatasetError, Limits
from service.datasets.texts import Block, Open, Warnings, block_size, check_width, write

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


@dataclass(frozen=True)
class Piece:
    """Whole rows of a file, as lines; `before` counts the lines of the file before them."""

    lines: list[str]
    before: int
    delimiter: str

    def reader(self):
        return csv.reader(self.lines, delimiter=self.delimiter, skipinitialspace=True, strict=True)

    def line(self, row: int) -> int:
        """The line where a row ends: looked for only when an error must say it."""
        reader = self.reader()
        next(islice(filter(filled, reader), row, None))
        return self.before + reader.line_num


def filled(row: list[str]) -> bool:
    """Not a blank line."""
    return len(row) > 1 or bool(row and row[0].strip())


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


def lines_of(text: str, before: int, limits: Limits) -> list[str]:
    """The lines of a text as CSV has them, each within the cap."""
    lines = io.StringIO(text, newline="").readlines()
    if max(map(len, lines), default=0) > limits.row_characters:
        line = before + 1 + next(i for i, line in enumerate(lines) if len(line) > limits.row_characters)
        raise DatasetError("row_too_long", f"line {line} is longer than {limits.row_characters:,} characters: has the file rows?", line=line)
    if "\0" in text:
        line = before + 1 + next(i for i, line in enumerate(lines) if "\0" in line)
        raise DatasetError("nul_byte", f"line {line} has a NUL byte: this is not text; save the file as UTF-8 text", line=line)
    return lines


def pieces(opened: Open, layout: Layout, limits: Limits) -> Iterator[tuple[Piece, list[list[str]]]]:
    """The rows of a file that are not blank, a piece at a time: each ends with a line, outside quotes."""
    size = block_size(len(layout.names))
    with opened() as stream:
        text, rest, before, fresh = io.TextIOWrapper(stream, layout.encoding, newline=""), "", 0, "."
        while fresh:
            fresh = text.read(size)
            rest += fresh
            lines = lines_of(rest, before, limits)
            piece = Piece(lines[:-1] if fresh else lines, before, layout.delimiter)
            reader = piece.reader()
            try:
                rows = list(filter(filled, reader))
            except csv.Error as error:
                if fresh and "unexpected end of data" in str(error) and len(rest) <= size + limits.row_characters:
                    continue
                line = before + reader.line_num
                detail = f"line {line}: {error}; a text that contains quotes or the delimiter is written in quotes, with quotes in it doubled"
                raise DatasetError("malformed_row", detail, line=line) from None
            yield piece, rows
            rest, before = "".join(lines[-1:]), before + len(piece.lines)


def sample_of(opened: Open, encoding: str, limits: Limits) -> list[str]:
    """The first lines of a file: at least two, where it has them."""
    with opened() as stream:
        text = io.TextIOWrapper(stream, encoding, newline="")
        start, fresh = text.read(SAMPLE), text.read(SAMPLE)
        while fresh and len(lines_of(start, 0, limits)) < 3:
            start, fresh = start + fresh, text.read(SAMPLE)
    lines = lines_of(start, 0, limits)
    return lines[:-1] if fresh else lines


def look(opened: Open, encoding: str, options: Options, limits: Limits) -> Layout:
    """Find the delimiter and the header in the first lines."""
    sample = sample_of(opened, encoding, limits)
    delimiter = options.delimiter or likely_delimiter(sample)
    rows = list(filter(filled, csv.reader(sample, delimiter=delimiter, skipinitialspace=True)))
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
    width, first, header = len(layout.names), 0, int(layout.header)
    for piece, rows in pieces(opened, layout, limits):
        if set(map(len, rows)) - {width}:
            place = next(i for i, row in enumerate(rows) if len(row) != width)
            row, line = first + place - header, piece.line(place)
            detail = f"line {line} (row {row}) has {len(rows[place])} fields where the {'header' if layout.header else 'first row'} has {width}"
            detail += f": mend the row, or say delimiter= if it is not {layout.delimiter!r}"
            raise DatasetError("ragged_row", detail, row=row, line=line)
        if len(rows) > header:
            yield Block(first, partial(line_after, piece, header), list(zip(*rows[header:], strict=True)))
            first += len(rows) - header
        header = 0 if rows else header


def line_after(piece: Piece, skipped: int, row: int) -> int:
    return piece.line(row + skipped)
