"""CSV: delimiter and header are found by looking; the file is read in blocks, so that it may be larger than memory.

Each error says the line and what to do. A process that only reads takes large blocks through `quick`, where it can; everything else is read here.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from itertools import chain

from engine.data.inference import MISSING, PAIRS, number, says, seconds
from service.datasets.commas import all_decimal, pointed, told, with_commas
from service.datasets.draft import Draft
from service.datasets.formats import Options, check_types
from service.datasets.limits import DatasetError, Limits
from service.datasets.rows import OPEN, Piece, checked, filled, lines_of, refusal, unfit
from service.datasets.texts import Block, Open, Plain, Texts, Warnings, block_size, check_width, write

LARGE = 1 << 22   # characters that `quick` takes together
SAMPLE = 1 << 16  # characters in which delimiter and header are looked for
DELIMITERS = ",;\t|"
WORDS = {str(word).lower() for word in chain.from_iterable(PAIRS)}


@dataclass(frozen=True)
class Layout:
    encoding: str
    delimiter: str
    header: bool
    names: list[str]
    commas: frozenset[int]      # columns of numbers with a decimal comma
    warnings: Warnings


def read(draft: Draft, opened: Open, options: Options, limits: Limits, quick: bool = False) -> Warnings:
    """Write the columns of a CSV file into a draft; returns the warnings. `quick`: with pyarrow, which stays loaded."""
    with opened() as stream:
        start = stream.read(2)
    encoding = "utf-16" if start in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return read_as(encoding, draft, opened, options, limits, quick)
    except UnicodeError:
        draft.clear()
        latin = {"code": "not_utf8", "detail": "the file is not UTF-8 text, and was read as Latin-1: check accented letters"}
        return [latin, *read_as("latin-1", draft, opened, options, limits, quick)]


def read_as(encoding: str, draft: Draft, opened: Open, options: Options, limits: Limits, quick: bool) -> Warnings:
    layout = look(opened, encoding, options, limits)
    return layout.warnings + write(draft, layout.names, options.types, lambda: blocks(opened, layout, limits, quick))


class Pieces:
    """The rows of a file that are not blank, a piece at a time: each ends with a line, outside quotes."""

    def __init__(self, opened: Open, layout: Layout, limits: Limits, quick: bool):
        self.opened, self.layout, self.limits = opened, layout, limits
        self.size = block_size(len(layout.names))
        self.columns = import_module("service.datasets.quick").columns if quick else None
        self.rest, self.before = "", 0

    def __iter__(self) -> Iterator[tuple[Piece, list[list[str]] | list[Texts]]]:
        with self.opened() as stream:
            text, fresh = io.TextIOWrapper(stream, self.layout.encoding, newline=""), "."
            while fresh:
                fresh = text.read(self.size if self.columns is None else max(LARGE, self.size))
                if (found := self.large(fresh)) is not None:
                    yield found
                    continue
                for start in range(0, max(1, len(fresh)), self.size):
                    yield from self.careful(fresh[start:start + self.size])

    def large(self, fresh: str) -> tuple[Piece, list[Texts]] | None:
        """All rows that are whole by now, at once; None where the careful reader must take them."""
        if self.columns is None:
            return None
        whole = self.rest + fresh
        cut = outside(whole) if fresh else len(whole)
        found = self.columns(whole[:cut].encode(), len(self.layout.names), self.layout.delimiter, self.limits.row_characters)
        if found is None:
            return None
        piece = Piece(whole[:cut], self.before, self.layout.delimiter)
        self.rest, self.before = whole[cut:], self.before + whole.count("\n", 0, cut)
        return piece, found

    def careful(self, fresh: str) -> Iterator[tuple[Piece, list[list[str]]]]:
        """The rows that are whole by now, each looked at; then the error of the next one, if it has any. The file ends with an empty text.

        What is told does not depend on where the pieces of text begin: rows come first, then what is wrong first.
        """
        text = self.rest + fresh
        lines = lines_of(text)
        bad = unfit(text, lines, self.limits)
        piece = Piece(lines[:bad] if bad is not None else lines[:-1] if fresh else lines, self.before, self.layout.delimiter)
        rows, count, wrong = piece.rows(self.limits.row_characters)
        if rows:
            yield piece, rows
        if wrong is not None and (wrong.what != OPEN or not (fresh or bad is not None)):
            raise wrong.error()
        if bad is not None:
            raise refusal(lines[bad], self.before + bad + 1, self.limits)
        self.rest, self.before = "".join(lines[count:]), self.before + count


def outside(text: str) -> int:
    """Where the last row ends that is whole: after a line feed that has no odd number of quotes before it."""
    cut = text.rfind("\n") + 1
    odd = text.count('"', 0, cut) % 2
    while odd:
        end, cut = cut, text.rfind("\n", 0, text.rfind('"', 0, cut)) + 1
        odd ^= text.count('"', cut, end) % 2
    return cut


def sample_of(opened: Open, encoding: str, limits: Limits) -> list[str]:
    """The first lines of a file: at least two, where it has them."""
    with opened() as stream:
        text = io.TextIOWrapper(stream, encoding, newline="")
        start, fresh = text.read(SAMPLE), text.read(SAMPLE)
        while fresh and len(checked(start, limits)) < 3:
            start, fresh = start + fresh, text.read(SAMPLE)
    lines = checked(start, limits)
    return lines[:-1] if fresh else lines


def look(opened: Open, encoding: str, options: Options, limits: Limits) -> Layout:
    """Find the delimiter and the header in the first lines."""
    sample = sample_of(opened, encoding, limits)
    delimiter = options.delimiter or likely_delimiter(sample)
    try:
        rows = list(filter(filled, csv.reader(sample, delimiter=delimiter, skipinitialspace=True)))
    except csv.Error as error:
        raise DatasetError("malformed_row", f"the first lines cannot be read: {error}") from None
    if not rows:
        raise DatasetError("empty", "the file has no rows: every line is blank")
    check_width(len(rows[0]), limits.columns)
    pointed_rows = rows if delimiter == "," else [list(map(pointed, row)) for row in rows]
    header, sure = (options.header, True) if options.header is not None else likely_header(pointed_rows)
    names, warnings = named(rows[0]) if header else ([f"c{i}" for i in range(len(rows[0]))], [])
    if not sure:
        warnings.append({"code": "header_guessed", "detail": "the first row was taken for the names of the columns; say header=false if it is data"})
    check_types(options.types, names)
    commas = frozenset() if delimiter == "," else with_commas(rows[header:], names, options.types)
    return Layout(encoding, delimiter, header, names, commas, warnings + told(names, commas))


def likely_delimiter(sample: list[str]) -> str:
    """The delimiter that cuts most rows into one same number of fields, more than one; not the comma where it is in numbers only."""
    best, found = (0.0, 0), ","
    for delimiter in DELIMITERS:
        rows = cut(sample, delimiter)
        widths = Counter(map(len, rows))
        width, count = widths.most_common(1)[0] if widths else (0, 0)
        score = (round(count / max(1, widths.total()), 1), width)
        decimal = found == "," and score[0] == 1.0 and all_decimal(rows[1:])
        if width > 1 and (score > best or decimal):
            best, found = score, delimiter
    return found


def cut(sample: list[str], delimiter: str) -> list[list[str]]:
    try:
        return [row for row in csv.reader(sample, delimiter=delimiter, skipinitialspace=True) if row]
    except csv.Error:       # a field as long as that is none
        return []


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


def blocks(opened: Open, layout: Layout, limits: Limits, quick: bool) -> Iterator[Block]:
    """Some rows at a time; a row of another width is an error."""
    first, header = 0, int(layout.header)
    for piece, found in Pieces(opened, layout, limits, quick and not layout.commas):
        columns: Sequence[Texts]
        if found and not isinstance(found[0], list):
            columns, count = [column[header:] for column in found], len(found[0])       # type: ignore[misc]
        else:
            count, columns = len(found), table_of(piece, found, layout, first, header)  # type: ignore[arg-type]
        if count > header:
            yield Block(first, partial(line_after, piece, header), columns)
            first += count - header
        header = 0 if count else header


def table_of(piece: Piece, rows: list[list[str]], layout: Layout, first: int, header: int) -> list[Plain]:
    """The columns of rows, which must all have the layout's width."""
    width = len(layout.names)
    if set(map(len, rows)) - {width}:
        place = next(i for i, row in enumerate(rows) if len(row) != width)
        row, line = first + place - header, piece.line(place)
        detail = f"line {line} (row {row}) has {len(rows[place])} fields where the {'header' if layout.header else 'first row'} has {width}"
        detail += f": mend the row, or say delimiter= if it is not {layout.delimiter!r}"
        raise DatasetError("ragged_row", detail, row=row, line=line)
    columns = zip(*rows[header:], strict=True)
    return [Plain(map(pointed, column) if i in layout.commas else column) for i, column in enumerate(columns)]


def line_after(piece: Piece, skipped: int, row: int) -> int:
    return piece.line(row + skipped)
