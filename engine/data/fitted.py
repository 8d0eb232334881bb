"""Preprocessing once it has been fitted on training rows: plain values that are stored with the model, and the feeds that apply them.

    FittedColumn    one input column: what it was, and the numbers that turn it into features
    FittedInput     the columns of one input of the model, side by side
    FittedTarget    the columns of one target
    Fitted          all of it; `Fitted.model_validate(json)` takes back `fitted.model_dump(mode="json")`
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from engine.data.feed import Feed
from engine.data.inference import BadCell, Class, Kind, Reading
from engine.data.preprocess import Part
from engine.data.table import Column, cell
from engine.errors import Problem, SpecError

Numbers = tuple[float, ...] | float


class Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def key(value: Class, strip: str = "") -> str:
    """The text by which equal classes of different tables are known: 7 and 7.0 are one class, `"007"` is another."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    text = cell(value).strip()
    return text.strip(strip).strip() if strip else text


def lookup(column: Column, classes: tuple[Class, ...], strip: str) -> np.ndarray:
    """int32 [column's classes]: the place of each of the column's classes in `classes`, or -1."""
    places = {key(value): place for place, value in enumerate(classes)}
    return np.array([places.get(key(value, strip), -1) for value in column.classes or ()] or [-1], np.int32)


def codes_of_numbers(data: np.ndarray, classes: tuple[Class, ...]) -> np.ndarray:
    """int32 [rows]: the place of each number in `classes` (sorted numbers), -1 for others and NaN."""
    known = np.array([float(c) for c in classes], np.float64)
    if not len(known):
        return np.full(len(data), -1, np.int32)
    values = np.asarray(data, np.float64)
    places = np.minimum(np.searchsorted(known, values), len(known) - 1)
    return np.where(known[places] == values, places, -1).astype(np.int32)


def as_kind(column: Column, kind: Kind) -> Column:
    """The column read as another kind, as when its file had been typed so. Raises SpecError where a value does not allow it."""
    if column.kind == kind or {column.kind, kind} <= {"number", "tensor"} or {column.kind, kind} == {"number", "boolean"}:
        return column
    if kind == "text":
        kind = "category"
    texts = [cell(column.python(row)) for row in range(column.rows)]
    try:
        if kind == "category":
            distinct = dict.fromkeys(text.strip() for text in texts if text.strip())
            return Column(column.name, kind, Reading(kind, tuple(distinct)).encode(texts), tuple(distinct))
        reading = Reading(kind, (False, True)) if kind == "boolean" else Reading("number" if kind == "tensor" else kind)
        return Column(column.name, reading.kind, reading.encode(texts), reading.classes)
    except BadCell as bad:
        raise SpecError([Problem(f"/{column.name}", f"not_a_{kind}", f"column {column.name!r}, row {bad.index}: {bad}")]) from None


def date_parts(seconds: np.ndarray, parts: tuple[Part, ...]) -> np.ndarray:
    """float64 [rows, parts] of seconds since 1970 UTC; NaN where they are missing. Monday is weekday 0."""
    found = np.full((len(seconds), len(parts)), np.nan)
    for row in np.flatnonzero(np.isfinite(seconds)):
        when = datetime.fromtimestamp(float(seconds[row]), UTC)
        values = {"year": when.year, "month": when.month, "day": when.day, "weekday": when.weekday(), "day_of_year": when.timetuple().tm_yday,
                  "hour": when.hour, "minute": when.minute}
        found[row] = [values[part] for part in parts]
    return found


class FittedColumn(Value):
    """One input column. `encoding` says how it becomes features; shift, scale and fill are numbers for all its values or for each.

    `code` leaves class numbers to the model's own embedding layer; `embedding` brings its own trained vectors.
    """

    name: str
    kind: Kind
    array: bool
    shape: tuple[int, ...] = ()
    encoding: Literal["number", "log", "one_hot", "code", "embedding", "datetime"] = "number"
    shift: Numbers = 0.0
    scale: Numbers = 1.0
    fill: Numbers | None = None
    indicator: bool = False
    classes: tuple[Class, ...] | None = None
    default: int = -1           # the class that a missing value is taken for
    strip: str = ""
    parts: tuple[Part, ...] = ()
    units: int = 0
    vocabulary: int = 0         # class numbers that there are, with the one for missing and unknown

    @property
    def width(self) -> int:
        """Numbers per row in the batch leaf of its input; an embedding has its own leaf."""
        if self.encoding == "embedding":
            return 0
        base = len(self.classes or ()) if self.encoding == "one_hot" else len(self.parts) if self.encoding == "datetime" else math.prod(self.shape)
        return base + self.indicator

    @property
    def leaf(self) -> str:
        """The batch leaf of an embedding's class numbers."""
        return f"codes.{self.name}"

    @property
    def parameter(self) -> str:
        return f"columns.{self.name}.weight"

    def feeds(self, column: Column, target: str, offset: int, stride: int) -> list[Feed]:
        """The feeds that write this column's features into `target` from `offset` on. SpecError where the column's values are not of its kind."""
        column = as_kind(column, self.kind)
        if self.encoding in ("one_hot", "code", "embedding"):
            return [self._classes(column, target, offset, stride)]
        source = column.data
        if self.encoding == "datetime":
            source = date_parts(column.data, self.parts)
        elif column.kind == "text" or column.shape != self.shape:
            raise SpecError([Problem(f"/{self.name}", "shape_mismatch", f"column {self.name!r} has rows of shape {list(column.shape)}; the model was "
                                                                        f"trained on {list(self.shape)}")])
        missing = -1 if column.classes is not None else None
        fill = np.nan if self.fill is None else _array(self.fill)
        width = self.width - self.indicator
        kind: Literal["number", "log"] = "log" if self.encoding == "log" else "number"
        made = [Feed(target, source, kind, offset, stride, width, _array(self.shift), _array(self.scale), fill, missing)]
        if self.indicator:
            made.append(Feed(target, column.data, "indicator", offset + width, stride, missing=missing))
        return made

    def _classes(self, column: Column, target: str, offset: int, stride: int) -> Feed:
        classes = self.classes or ()
        if self.classes is None:
            return Feed(target, column.data, "code", offset, stride, self.width, classes=self.vocabulary)
        if column.kind == "text":
            column = as_kind(column, "category")
        if column.classes is None:
            source, table = codes_of_numbers(column.data, classes), None
        else:
            source, table = column.data, lookup(column, classes, self.strip)
        if self.default >= 0:
            source, table = _defaulted(source, table, self.default)
        if self.encoding == "one_hot":
            return Feed(target, source, "one_hot", offset, stride, missing=-1, lookup=table, classes=len(classes))
        leaf, offset, stride = (self.leaf, 0, 1) if self.encoding == "embedding" else (target, offset, stride)
        return Feed(leaf, source, "code", offset, stride, missing=-1, lookup=table, classes=self.vocabulary, unknown=len(classes))

    def unseen(self, column: Column, rows: np.ndarray | None = None) -> list[Class]:
        """Classes of the column (in these rows) that were not there in training."""
        if self.classes is None or self.kind not in ("category", "text"):
            return []
        column = as_kind(column, "category") if column.classes is None else column
        used = np.unique(column.data if rows is None else column.data[rows])
        table, classes = lookup(column, self.classes, self.strip), column.classes or ()
        return [classes[int(code)] for code in used if code >= 0 and table[code] < 0]


def _defaulted(source: np.ndarray, table: np.ndarray | None, default: int) -> tuple[np.ndarray, None]:
    """Codes with missing values taken for the class `default`; unknown ones stay unknown."""
    known = source if table is None else np.where(source >= 0, table[np.maximum(source, 0)], -1)
    return np.where(source < 0, default, known).astype(np.int32), None


def _array(value: Numbers) -> float | np.ndarray:
    return np.array(value, np.float64) if isinstance(value, tuple) else value


class FittedInput(Value):
    """The columns of one input of the model, side by side. `shape` is that of one row as it is fed, without embeddings."""

    name: str
    columns: tuple[FittedColumn, ...]
    shape: tuple[int, ...]
    dtype: str

    @property
    def leaf(self) -> str:
        return "x" if self.name == "x" else f"x.{self.name}"

    @property
    def embeddings(self) -> list[FittedColumn]:
        return [column for column in self.columns if column.encoding == "embedding"]

    @property
    def width(self) -> int:
        return sum(column.width for column in self.columns)

    def feeds(self, columns: dict[str, Column]) -> list[Feed]:
        made, offset, stride = [], 0, self.width
        for column in self.columns:
            made += column.feeds(columns[column.name], self.leaf, offset, stride)
            offset += column.width
        return made


class FittedTarget(Value):
    """One target. `class`: class numbers int32 [rows]. `number`: [rows, *shape], standardised where shift and scale are given. `inputs`: the inputs.

    A numeric array of one-hot or soft rows for a class loss is a `number` with `classes`.
    """

    name: str = "y"
    columns: tuple[str, ...] = ()
    kind: Literal["class", "number", "inputs"]
    shape: tuple[int, ...] = ()
    classes: tuple[Class, ...] | None = None
    counts: tuple[int, ...] = ()        # training rows of each class
    numbered: bool = False              # the classes are those that the rows show, of perhaps more
    shift: tuple[float, ...] | None = None
    scale: tuple[float, ...] | None = None
    strip: str = ""

    @property
    def leaf(self) -> str:
        return "y" if self.name == "y" else f"y.{self.name}"

    @property
    def width(self) -> int:
        return math.prod(self.shape)

    def codes(self, column: Column) -> np.ndarray:
        """int32 [rows]: the class number of each row, -1 where it is missing or unknown."""
        classes = self.classes or ()
        if column.kind == "text":
            column = as_kind(column, "category")
        if column.classes is None:
            if all(isinstance(c, int | float) for c in classes):
                return codes_of_numbers(column.data, classes)
            column = as_kind(column, "category")
        table = lookup(column, classes, self.strip)
        return np.where(column.data >= 0, table[np.maximum(column.data, 0)], -1).astype(np.int32)

    def feeds(self, columns: dict[str, Column]) -> list[Feed]:
        if self.kind == "inputs":
            return []
        if self.kind == "class":
            return [Feed(self.leaf, self.codes(columns[self.columns[0]]), "code", 0, 1, classes=len(self.classes or ()))]
        made, offset = [], 0
        for place, name in enumerate(self.columns):
            column = as_kind(columns[name], "number")
            width = math.prod(column.shape)
            shift, scale = (self.shift[place], self.scale[place]) if self.shift and self.scale else (0.0, 1.0)
            made.append(Feed(self.leaf, column.data, "number", offset, self.width, width, shift, 1.0 / scale))
            offset += width
        return made


class Fitted(Value):
    """Everything about the data that a model needs to be used. `known` are all columns of the data set, so that unused ones can be ignored."""

    inputs: tuple[FittedInput, ...]
    targets: tuple[FittedTarget, ...] = ()
    weight: str | None = None
    known: tuple[str, ...] = ()

    @property
    def columns(self) -> list[FittedColumn]:
        return [column for item in self.inputs for column in item.columns]

    def input_feeds(self, columns: dict[str, Column]) -> list[Feed]:
        return [feed for item in self.inputs for feed in item.feeds(columns)]

    def feeds(self, columns: dict[str, Column]) -> list[Feed]:
        """The feeds of inputs, targets and weights."""
        weight = [] if self.weight is None else [Feed("weight", columns[self.weight].data, "number", 0, 1)]
        return [*self.input_feeds(columns), *(feed for target in self.targets for feed in target.feeds(columns)), *weight]
