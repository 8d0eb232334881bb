"""What kind of column a list of texts is, and the numbers it becomes. CSV files, NDJSON and JSON rows are all read by these rules.

A `Guess` looks at the texts block by block and keeps little; its `Reading` then turns the same texts into an array:

    missing    empty, `?`, `NA`, `NaN` (spaces around them do not count)
    number     every value is a number; infinite ones become missing
    boolean    true and false, or yes and no, in any case of letters
    datetime   2024-05-31, 2024/5/31 or 31.5.2024, with or without a time; without a zone it is UTC
    category   at most max(32, one row in five) different values, none longer than 256 characters
    text       the rest
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, get_args

import numpy as np

Kind = Literal["number", "boolean", "category", "datetime", "text", "tensor"]
Class = str | int | float | bool

KINDS = tuple(kind for kind in get_args(Kind) if kind != "tensor")
MISSING = frozenset({"", "?", "NA", "NaN"})
AS_NAN = dict.fromkeys(MISSING, "nan")
MAX_CLASSES = 65_536
FEW = 32
LONGEST_CLASS = 256
STRAYS = 8  # so many different values that are no numbers, and the column is given up as one of numbers
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FIRST_SECOND, LAST_SECOND = -62_135_596_800, 253_402_300_800  # the years 1 to 9999
PAIRS: tuple[tuple[Class, Class], ...] = ((False, True), ("no", "yes"), (0, 1))  # the last one only when asked for
YEAR_FIRST = re.compile(r"(\d{4})[-/](\d{1,2})[-/](\d{1,2})(?:[T ]\s*(\d.*))?", re.ASCII)
DAY_FIRST = re.compile(r"(\d{1,2})\.(\d{1,2})\.(\d{4})(?:[T ]\s*(\d.*))?", re.ASCII)


class BadCell(ValueError):
    """The value at `index` of a block cannot be read as the kind asked for."""

    def __init__(self, index: int, value: str, expected: str):
        self.index, self.value, self.expected = index, value, expected
        super().__init__(f"{value[:80]!r} is not a {expected}")


def number(text: str) -> float:
    """The number a text says; infinite ones are NaN. ValueError when it says none."""
    if "_" in text:
        raise ValueError(text)
    value = float(text)
    return value if math.isfinite(value) else math.nan


def few(distinct: set[str], rows: int) -> bool:
    """Whether so many different texts in so many rows are classes: each is there five times on average, which is enough to learn something of it."""
    return len(distinct) <= max(FEW, rows // 5)


def seconds(text: str) -> float:
    """Seconds since 1970 UTC of a written date or time. ValueError when it is none."""
    if found := YEAR_FIRST.fullmatch(text):
        year, month, day, time = found.groups()
    elif found := DAY_FIRST.fullmatch(text):
        day, month, year, time = found.groups()
    else:
        raise ValueError(f"{text!r} is not a date such as 2024-05-31 or 2024-05-31T12:30:00Z")
    moment = datetime.fromisoformat(f"{year}-{month:0>2}-{day:0>2}T{time or '00:00'}")
    since = ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - EPOCH).total_seconds()
    if not FIRST_SECOND <= since < LAST_SECOND:
        raise ValueError(f"{text!r} is not in the years 1 to 9999 of UTC")
    return since


def numbers(values: Sequence[str]) -> np.ndarray | None:
    """All values at once as float64, infinite ones left so; None where one may be no number and each must be looked at."""
    try:
        found = np.fromiter(map(float, map(AS_NAN.get, values, values)), np.float64, len(values))
    except ValueError:
        return None
    return None if "_" in "".join(values) else found


def says(read, text: str) -> bool:
    try:
        read(text)
    except ValueError:
        return False
    return True


def ordered(values: set[str]) -> tuple[Class, ...]:
    """Classes in order: numbers by size, then texts. All plain numbers become numbers; one like "007" keeps all of them texts."""
    sizes = {value: number(value) for value in values if says(number, value) and math.isfinite(number(value))}
    if len(sizes) == len(values) and all(value in (repr(size), repr(whole(size))) for value, size in sizes.items()):
        return tuple(sorted({whole(size) for size in sizes.values()}))
    by_size = sorted(sorted(sizes), key=sizes.__getitem__)
    return (*by_size, *sorted(values - sizes.keys()))


def whole(value: float) -> int | float:
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


@dataclass(frozen=True)
class Reading:
    """How the texts of one column become an array."""

    kind: Kind
    classes: tuple[Class, ...] | None = None

    @property
    def dtype(self) -> type[np.generic]:
        return np.int64 if self.kind == "text" else np.float64 if self.classes is None else np.int32

    def key(self, text: str) -> str:
        """What a class and the texts that mean it have in common."""
        if self.kind == "boolean":
            return text.lower()
        sized = self.classes and not isinstance(self.classes[0], str) and says(number, text)
        return repr(whole(number(text))) if sized else text

    def encode(self, values: Sequence[str]) -> np.ndarray:
        """float64 [rows] (NaN missing) for numbers and datetimes, int32 codes [rows] (-1 missing or unknown) for classes.

        Raises BadCell when a value is not of this kind.
        """
        read = number if self.kind == "number" else seconds
        if self.kind == "number" and (found := numbers(values)) is not None:
            found[np.isinf(found)] = math.nan
            return found
        codes = {self.key(str(c)): i for i, c in enumerate(self.classes or ())}
        absent = math.nan if self.classes is None else -1
        table: dict[str, float] = {}
        for value in dict.fromkeys(values):      # in their order, so that the first that is wrong is told of
            text = value.strip()
            try:
                table[value] = absent if text in MISSING else read(text) if self.classes is None else codes.get(self.key(text), -1)
            except ValueError:
                raise BadCell(values.index(value), text, self.kind) from None
        return np.fromiter(map(table.__getitem__, values), self.dtype, len(values))


def encode_text(values: Sequence[str]) -> tuple[np.ndarray, bytes]:
    """Lengths int64 [rows] and the UTF-8 bytes of texts: each ends in a line feed, a missing one has length 0."""
    parts = [b"" if v in MISSING else v.encode(errors="replace") + b"\n" for v in values]
    return np.fromiter(map(len, parts), np.int64, len(parts)), b"".join(parts)


class Guess:
    """Looks at a column of texts block by block, then says how to read it. `kind` fixes the answer beforehand."""

    def __init__(self, kind: Kind | None = None, most: int = MAX_CLASSES):
        self.kind: Kind | None = kind
        self.most = most
        self.rows = self.numbers = 0
        self.distinct: set[str] | None = set()
        self.strays: dict[str, int] = {}
        self.infinite = self.anything = False
        self.dated = True

    def see(self, values: Sequence[str], rows: int | None = None, first: Callable[[int], int] = int) -> None:
        """The next values. They may be the distinct ones of so many `rows`; `first` then tells which row has the value at a place first."""
        rows = len(values) if rows is None else rows
        if self.distinct is None and not self.strays and (found := numbers(values)) is not None:
            self.see_numbers(found, rows)
            return
        fresh = {value.strip() for value in set(values)} - MISSING
        if self.distinct is not None:
            fresh -= self.distinct
        self.anything = self.anything or bool(fresh)
        if len(self.strays) <= STRAYS:
            self._number(fresh, values, first)
        self.dated = self.dated and all(says(seconds, value) for value in fresh)
        self._remember(fresh)
        self.rows += rows

    def see_numbers(self, found: np.ndarray, rows: int) -> None:
        """The next rows, all of which are numbers."""
        self.infinite = self.infinite or bool(np.isinf(found).any())
        self.numbers += rows
        self.rows += rows

    @property
    def asks(self) -> Literal["numbers", "dates", "values", "nothing"]:
        """What further rows can still tell, if they are all numbers, or all dates; `values`: each different one must be looked at."""
        if self.distinct is not None or (self.strays and len(self.strays) <= STRAYS):
            return "values"
        return "numbers" if not self.strays else "dates" if self.dated else "nothing"

    def _number(self, fresh: set[str], values: Sequence[str], first: Callable[[int], int]) -> None:
        for value in [value for text in dict.fromkeys(values) if (value := text.strip()) in fresh]:      # in their order: the first is told of
            try:
                self.infinite = self.infinite or (math.isnan(number(value)) and value.lower().lstrip("+-") != "nan")
                self.numbers += 1
            except ValueError:
                if value not in self.strays:
                    self.strays[value] = self.rows + first(next(i for i, v in enumerate(values) if v.strip() == value))
                if len(self.strays) > STRAYS:
                    return

    def _remember(self, fresh: set[str]) -> None:
        """Keeps the distinct values while the column may still be a category; a column of numbers only so far rarely becomes one."""
        if self.distinct is None:
            return
        self.distinct |= fresh
        most = self.most if self.strays or self.kind == "category" else min(self.most, 1024)
        if len(self.distinct) > most or (self.kind != "category" and any(len(value) > LONGEST_CLASS for value in fresh)):
            self.distinct = None

    def reading(self) -> Reading:
        """Raises BadCell when the column was fixed as a boolean or category and cannot be one."""
        kind: Kind = self.kind or self._likely()
        values = self.distinct
        if kind == "boolean":
            pair = pair_of(values)
            if pair is None:
                stray, row = next(((v, row) for v, row in self.strays.items() if pair_of({v}) is None), ("a mixture", 0))
                raise BadCell(row, stray, "boolean: a column has true and false, yes and no, or 1 and 0")
            return Reading(kind, spelled(pair, values or set()))
        if kind == "category":
            if values is None:
                raise BadCell(0, f"a column of more than {self.most} different values", "category")
            return Reading(kind, ordered(values))
        return Reading(kind)

    def _likely(self) -> Kind:
        if not self.strays:
            return "number"
        if pair_of(self.distinct):
            return "boolean"
        if self.dated:
            return "datetime"
        return "category" if self.distinct is not None and few(self.distinct, self.rows) else "text"

    def warnings(self) -> list[tuple[str, str]]:
        """(code, sentence) of what a reader of the column should know."""
        found = []
        if not self.anything:
            found.append(("all_missing", "no row has a value"))
        elif not self.kind and self.strays and len(self.strays) <= STRAYS and self.numbers > 8 * len(self.strays):
            value, row = next(iter(self.strays.items()))
            found.append(("mixed_numbers", f"nearly all values are numbers, but row {row} has {value[:80]!r}: leave it empty if it means missing"))
        if self.infinite and not self.strays:
            found.append(("infinite", "infinite values are read as missing"))
        return found


def pair_of(values: set[str] | None) -> tuple[Class, Class] | None:
    """The two classes that all the values name, in any case of letters."""
    if values is None or len(values) > STRAYS:
        return None
    lowered = {value.lower() for value in values}
    return next((pair for pair in PAIRS if lowered <= {str(c).lower() for c in pair}), None)


def spelled(pair: tuple[Class, Class], values: set[str]) -> tuple[Class, Class]:
    """Yes and no as the file writes them, where it writes them in one way only."""
    if pair == PAIRS[0]:
        return pair
    found = {value.lower(): value for value in values}
    return (found.get("no", "no"), found.get("yes", "yes")) if len(found) == len(values) else pair
