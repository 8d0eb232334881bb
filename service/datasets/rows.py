"""Rows of CSV text: lines, each within the cap, and whole rows of one line or more. What is wrong with one is said with its line of the file."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import NamedTuple

from service.datasets.limits import DatasetError, Limits

OPEN = "unexpected end of data"     # what `csv` says when lines end within quotes
LONG = "the row that begins here is too long"

csv.field_size_limit(1 << 30)       # how long a field may be is said by `Limits`, of whole rows


def lines_of(text: str) -> list[str]:
    """The lines of a text as CSV has them: they end in LF, CR or CR LF, within quotes too."""
    return io.StringIO(text, newline="").readlines()


def unfit(text: str, lines: list[str], limits: Limits) -> int | None:
    """The place of the first line that no row may have."""
    if max(map(len, lines), default=0) <= limits.row_characters and "\0" not in text:
        return None
    return next(i for i, line in enumerate(lines) if len(line) > limits.row_characters or "\0" in line)


def refusal(text: str, line: int, limits: Limits) -> DatasetError:
    """What is wrong with an unfit line: whatever comes first, so that a part of the line tells it as the whole does."""
    if "\0" in text[:limits.row_characters]:
        return DatasetError("nul_byte", f"line {line} has a NUL byte: this is not text; save the file as UTF-8 text", line=line)
    return DatasetError("row_too_long", f"line {line} is longer than {limits.row_characters:,} characters: has the file rows?", line=line)


def checked(text: str, limits: Limits) -> list[str]:
    """The lines of a file's beginning, all of them fit."""
    lines = lines_of(text)
    if (bad := unfit(text, lines, limits)) is not None:
        raise refusal(lines[bad], bad + 1, limits)
    return lines


def filled(row: list[str]) -> bool:
    """Not a blank line."""
    return len(row) > 1 or bool(row and row[0].strip())


class Wrong(NamedTuple):
    """Why a row cannot be read, and the line of the file that says so."""

    what: str
    line: int

    def error(self) -> DatasetError:
        advice = "a text that contains quotes or the delimiter is written in quotes, with quotes in it doubled"
        return DatasetError("malformed_row", f"line {self.line}: {self.what}; {advice}", line=self.line)


@dataclass(frozen=True)
class Piece:
    """Whole rows of a file, as lines; `before` counts the lines of the file before them."""

    text: str | list[str]
    before: int
    delimiter: str

    @cached_property
    def lines(self) -> list[str]:
        return lines_of(self.text) if isinstance(self.text, str) else self.text

    def reader(self):
        return csv.reader(self.lines, delimiter=self.delimiter, skipinitialspace=True, strict=True)

    def rows(self, most: int) -> tuple[list[list[str]], int, Wrong | None]:
        """The whole rows that are not blank, how many lines they take, and what is wrong with the next one. A row has at most so many characters."""
        rows, end, reader, lines = [], 0, self.reader(), self.lines
        try:
            for row in reader:
                if (line := reader.line_num) > end + 1 and sum(map(len, lines[end:line])) > most:
                    return rows, end, Wrong(LONG, self.before + end + 1)
                end = line
                if len(row) > 1 or filled(row):
                    rows.append(row)
        except csv.Error as error:
            unfinished = str(error) == OPEN
            if sum(map(len, lines[end:reader.line_num - (not unfinished)])) > most:
                return rows, end, Wrong(LONG, self.before + end + 1)
            return rows, end, Wrong(str(error), self.before + (end + 1 if unfinished else reader.line_num))
        return rows, end, None

    def line(self, row: int) -> int:
        """The line where a row ends: looked for only when an error must say it."""
        reader = self.reader()
        next(islice(filter(filled, reader), row, None))
        return self.before + reader.line_num
