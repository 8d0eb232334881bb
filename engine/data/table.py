"""Columns and tables: data sets as the engine sees them, in memory or mapped from files."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import chain
from typing import Any, Literal

import numpy as np

from engine.data.inference import EPOCH, BadCell, Class, Guess, Kind, encode_text
from engine.data.summary import Summary
from engine.errors import Problem, SpecError

BLOCK = 1 << 20  # numbers looked at together where a column may be larger than memory
MOST_AXES = 32
# Number types that come in (kind and bytes of a numpy dtype) and the type each is kept as; others are refused. Booleans: see `plain`.
KEPT = {
    "u1": "uint8", "i1": "int32", "i2": "int32", "u2": "int32", "i4": "int32", "u4": "int64", "i8": "int64", "u8": "int64",
    "f2": "float32", "f4": "float32", "f8": "float64", "b1": "float32",
}


@dataclass(frozen=True, eq=False)
class Column:
    """One named column, rows first.

    number             float64 [rows], NaN missing; with `array`, its own type
    boolean, category  int32 [rows], places in `classes`, -1 missing
    datetime           float64 [rows], seconds since 1970 UTC, NaN missing
    text               int64 offsets [rows + 1] into `content`, the UTF-8 bytes; a text ends in a line feed, a missing one is empty
    tensor             [rows, ...], always `array`

    `array`: came as numbers in an array, and reaches a model as given.
    """

    name: str
    kind: Kind
    data: np.ndarray
    classes: tuple[Class, ...] | None = None
    array: bool = False
    content: np.ndarray | None = None

    @property
    def rows(self) -> int:
        return len(self.data) - (self.kind == "text")

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one row."""
        return () if self.kind == "text" else self.data.shape[1:]

    @property
    def image(self) -> bool:
        """Images come as bytes, and a model takes them divided by 255."""
        return self.array and self.data.dtype == np.uint8 and self.data.ndim >= 3

    def text(self, row: int) -> str:
        assert self.content is not None, "only columns of text have texts"
        return self.content[self.data[row] : self.data[row + 1]].tobytes().removesuffix(b"\n").decode()

    def python(self, row: int) -> Any:
        """The value of a row as JSON, as it was uploaded; None where it is missing."""
        if self.kind == "text":
            return self.text(row) if self.data[row + 1] > self.data[row] else None
        value = self.data[row].tolist()
        if self.classes is not None:
            return self.classes[value] if value >= 0 else None
        if isinstance(value, list):
            return finite(value)
        if not math.isfinite(value):
            return None
        if self.kind == "datetime":
            moment = EPOCH + timedelta(seconds=value)
            return moment.date().isoformat() if value % 86400 == 0 else moment.isoformat().replace("+00:00", "Z")
        return int(value) if not self.array and value.is_integer() and abs(value) < 2**53 else value

    def blocks(self) -> Iterator[np.ndarray]:
        """The rows in order, some at a time."""
        step = max(1, BLOCK // max(1, math.prod(self.data.shape[1:])))
        for start in range(0, len(self.data), step):
            yield self.data[start : start + step]

    def summary(self) -> dict[str, Any]:
        """What the Dataset JSON says of a column."""
        found = Summary(self.name, self.kind, "utf8" if self.kind == "text" else self.data.dtype.name, self.shape, self.classes)
        if self.kind == "text":
            found.see(np.diff(self.data))
        else:
            for block in self.blocks():
                found.see(block)
        return found.about()


@dataclass(frozen=True, eq=False)
class Table:
    """Named columns with the same number of rows. `kind` says how they came: read from texts, as arrays, or as lines of text."""

    columns: dict[str, Column]
    rows: int
    kind: Literal["table", "arrays", "text"] = "table"

    @classmethod
    def from_columns(cls, columns: Mapping[str, Sequence[Any] | np.ndarray]) -> Table:
        """Numbers in lists (all rows of one shape) stay arrays; texts are read as a table's. Raises SpecError with pointers `/column/row`."""
        made = {}
        for name, values in columns.items():
            made[name] = column_of_array(name, values) if isinstance(values, np.ndarray) else column_of_list(name, values)
        return cls(made, equal_rows(made), "arrays")

    @classmethod
    def from_rows(cls, rows: Sequence[Mapping[str, Any]], kinds: Mapping[str, Kind] | None = None) -> Table:
        """Objects, one for each row; absent fields are missing. `kinds` fixes the kind of a column. Raises SpecError with pointers `/row/column`."""
        check_rows(rows)
        names = list(dict.fromkeys(chain.from_iterable(rows)))
        made = {}
        for name in names:
            values = [row.get(name) for row in rows]
            try:
                tensor = any(isinstance(value, list) for value in values)
                made[name] = column_of_list(name, values) if tensor else column_of_cells(name, values, (kinds or {}).get(name))
            except SpecError as error:
                raise SpecError([Problem(swapped(p.pointer), p.code, p.detail, p.suggestion) for p in error.problems]) from None
        return cls(made, len(rows), "table")

    def preview(self, offset: int = 0, limit: int = 20) -> list[dict[str, Any]]:
        """Rows as JSON, as they were uploaded."""
        chosen = range(max(0, offset), min(self.rows, max(0, offset) + max(0, limit)))
        return [{name: column.python(row) for name, column in self.columns.items()} for row in chosen]


def check_rows(rows: Sequence[Any]) -> None:
    """Rows must be objects. Raises SpecError with pointers `/row`."""
    wrong = [Problem(f"/{i}", "not_an_object", f"row {i} is not an object of column names and values")
             for i, row in enumerate(rows) if not isinstance(row, Mapping)][:10]
    if wrong:
        raise SpecError(wrong)


def finite(value: Any) -> Any:
    """Nested lists of numbers with None for what is not finite."""
    if isinstance(value, list):
        return [finite(item) for item in value]
    return value if math.isfinite(value) else None


def cell(value: Any) -> str:
    """A JSON value as a CSV file would write it. TypeError for lists and objects."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value if value.isascii() else value.encode(errors="replace").decode()  # JSON can say half a surrogate pair
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    raise TypeError(f"a cell holds a number, a text, true, false or null, not a {type(value).__name__}")


def pointer(*parts: object) -> str:
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in parts)


def swapped(path: str) -> str:
    """`/column/row` as `/row/column`."""
    name, _, row = path[1:].partition("/")
    return f"/{row or 0}/{name}"


def equal_rows(columns: Mapping[str, Column]) -> int:
    """The rows of all columns; SpecError when they differ."""
    if not columns:
        raise SpecError([Problem("", "no_columns", "there are no columns")])
    first, *others = columns.values()
    wrong = [Problem(pointer(c.name), "unequal_rows", f"column {c.name!r} has {c.rows} rows where {first.name!r} has {first.rows}")
             for c in others if c.rows != first.rows]
    if wrong:
        raise SpecError(wrong)
    return first.rows


def column_of_cells(name: str, values: Sequence[Any], kind: Kind | None = None) -> Column:
    """JSON values, one for each row, read as a CSV file's would be."""
    texts = []
    for row, value in enumerate(values):
        try:
            texts.append(cell(value))
        except TypeError as error:
            raise SpecError([Problem(pointer(name, row), "not_a_cell", f"column {name!r}, row {row}: {error}")]) from None
    return column_of_texts(name, texts, kind)


def column_of_texts(name: str, values: Sequence[str], kind: Kind | None = None) -> Column:
    guess = Guess(kind)
    guess.see(values)
    try:
        reading = guess.reading()
        return text_column(name, values) if reading.kind == "text" else Column(name, reading.kind, reading.encode(values), reading.classes)
    except BadCell as bad:
        raise SpecError([Problem(pointer(name, bad.index), f"not_a_{kind}", f"column {name!r}, row {bad.index}: {bad}")]) from None


def text_column(name: str, values: Sequence[str]) -> Column:
    lengths, content = encode_text(values)
    return Column(name, "text", np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]), content=np.frombuffer(content, np.uint8))


def plain(name: str, array: np.ndarray) -> np.ndarray:
    """The array in a type that is kept, in the machine's byte order, rows in C order. SpecError for other types and for integers beyond int64."""
    kept = KEPT.get(f"{array.dtype.kind}{array.dtype.itemsize}")
    if kept is None:
        detail = f"column {name!r} has dtype {array.dtype}; use float32, float64, int32, int64 or uint8"
        raise SpecError([Problem(pointer(name), "unsupported_dtype", detail)])
    if array.dtype.kind == "u" and array.dtype.itemsize == 8 and array.size and int(array.max()) >= 2**63:
        raise SpecError([Problem(pointer(name), "out_of_range", f"column {name!r} has integers beyond 2**63; use int64 or float64")])
    return np.ascontiguousarray(array, kept)


def column_of_array(name: str, array: np.ndarray) -> Column:
    if array.ndim == 0:
        raise SpecError([Problem(pointer(name), "no_rows", f"column {name!r} is one number, not an array of rows")])
    if array.dtype == np.bool_ and array.ndim == 1:
        return Column(name, "boolean", array.astype(np.int32), (False, True), array=True)
    return Column(name, "number" if array.ndim == 1 else "tensor", plain(name, array), array=True)


def column_of_list(name: str, values: Sequence[Any]) -> Column:
    """JSON values of one column. Lists are walked level by level, so that nothing is allocated before every row is known to fit."""
    if not isinstance(values, (list, tuple)):
        raise SpecError([Problem(pointer(name), "not_a_list", f"column {name!r} is a {type(values).__name__}, not a list of rows")])
    level, shape = list(values), [len(values)]
    while any(isinstance(value, list) for value in level):
        if len(shape) == MOST_AXES:
            raise SpecError([Problem(pointer(name), "too_deep", f"column {name!r} is nested more than {MOST_AXES} deep")])
        length = next(len(value) for value in level if isinstance(value, list))
        for i, value in enumerate(level):
            if not isinstance(value, list) or len(value) != length:
                row = i // math.prod(shape[1:])
                found = f"{len(value)} values" if isinstance(value, list) else "a single value"
                raise SpecError([Problem(pointer(name, row), "ragged", f"column {name!r}: row {row} has {found} where row 0 has {length}")])
        shape.append(length)
        level = list(chain.from_iterable(level))
    if 0 in shape:
        raise SpecError([Problem(pointer(name), "no_rows", f"column {name!r} is empty: its shape is {shape}")])
    types = set(map(type, level))
    if types == {bool} and len(shape) == 1:
        return Column(name, "boolean", np.array(level, np.int32), (False, True), array=True)
    if types <= {int, float, bool} or (types <= {int, float, bool, type(None)} and types & {int, float}):
        return numbers(name, level, tuple(shape), int in types and not types & {float, type(None)})
    if len(shape) > 1:
        raise SpecError([Problem(pointer(name), "not_numbers", f"column {name!r}: its rows are lists, so all its values must be numbers")])
    return column_of_cells(name, level)


def numbers(name: str, level: list[Any], shape: tuple[int, ...], whole: bool) -> Column:
    """An array of flat JSON numbers: int64 when all are whole, else float64 with NaN for null."""
    kept = np.int64 if whole else np.float64
    try:
        data = np.array([math.nan if v is None else v for v in level] if None in level else level, kept)
    except OverflowError:
        raise SpecError([Problem(pointer(name), "out_of_range", f"column {name!r} has a number too large for {kept.__name__}")]) from None
    return Column(name, "number" if len(shape) == 1 else "tensor", data.reshape(shape), array=True)
