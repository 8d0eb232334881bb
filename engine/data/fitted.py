"""Preprocessing once it has been fitted on training rows: plain values that are stored with the model, and the feeds that apply them.

    FittedColumn    one input column: what it was, and the numbers that turn it into features
    FittedInput     the columns of one input of the model, side by side
    FittedTarget    the columns of one target
    Fitted          all of it; `Fitted.model_validate(json)` takes back `fitted.model_dump(mode="json")`
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from engine.data.characters import code_points, places
from engine.data.feed import Feed
from engine.data.inference import Class, Kind
from engine.data.preprocess import Part
from engine.data.reading import as_kind, codes_of_numbers, date_parts, lookup
from engine.data.table import Column
from engine.data.windows import Windows
from engine.errors import Problem, SpecError

Numbers = tuple[float, ...] | float


class Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FittedColumn(Value):
    """One input column. `encoding` says how it becomes features; shift, scale and fill are numbers for all its values or for each.

    `code` leaves class numbers to the model's own embedding layer; `embedding` brings its own trained vectors; `characters` are those of a text.
    """

    name: str
    kind: Kind
    array: bool
    shape: tuple[int, ...] = ()
    encoding: Literal["number", "log", "one_hot", "code", "embedding", "datetime", "characters"] = "number"
    shift: Numbers = 0.0
    scale: Numbers = 1.0
    fill: Numbers | None = None
    indicator: bool = False
    classes: tuple[Class, ...] | None = None
    default: int = -1           # the class that a missing value is taken for
    strip: str = ""
    parts: tuple[Part, ...] = ()
    units: int = 0
    channels: int = 0           # of images without, which get an axis for them
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
        if self.encoding == "characters":
            return [character_feed(column, target, self.classes or ())]
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
        if self.classes is None or self.kind not in ("category", "text") or self.encoding == "characters":
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


def character_feed(column: Column, target: str, alphabet: tuple[Class, ...]) -> Feed:
    """The numbers of a text's characters in an alphabet; a column of numbers has them already."""
    if column.content is None:
        return Feed(target, column.data, "code", 0, 1, classes=len(alphabet))
    return Feed(target, code_points(column), "code", 0, 1, lookup=places([str(c) for c in alphabet]), classes=len(alphabet))


class FittedInput(Value):
    """The columns of one input of the model, side by side. `shape` is that of one row (or window) as it is fed, without embeddings."""

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
    """One target. `class`: class numbers int32 [rows, *shape]. `number`: [rows, *shape], standardised where shift and scale are given. `inputs`: the
    inputs.

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
    text: bool = False                  # the classes are the characters of a text

    @property
    def leaf(self) -> str:
        return "y" if self.name == "y" else f"y.{self.name}"

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
        if self.kind == "class" and self.text:
            return [character_feed(columns[self.columns[0]], self.leaf, self.classes or ())]
        if self.kind == "class":
            return [Feed(self.leaf, self.codes(columns[self.columns[0]]), "code", 0, 1, classes=len(self.classes or ()))]
        made, offset = [], 0
        found = [as_kind(columns[name], "number") for name in self.columns]
        stride = sum(math.prod(column.shape) for column in found)
        for place, column in enumerate(found):
            width = math.prod(column.shape)
            shift, scale = (self.shift[place], self.scale[place]) if self.shift and self.scale else (0.0, 1.0)
            made.append(Feed(self.leaf, column.data, "number", offset, stride, width, shift, 1.0 / scale))
            offset += width
        return made


class Fitted(Value):
    """Everything about the data that a model needs to be used. `known` are all columns of the data set, so that unused ones can be ignored."""

    inputs: tuple[FittedInput, ...]
    targets: tuple[FittedTarget, ...] = ()
    weight: str | None = None
    known: tuple[str, ...] = ()
    windows: Windows | None = None

    @property
    def columns(self) -> list[FittedColumn]:
        return [column for item in self.inputs for column in item.columns]

    @property
    def text(self) -> bool:
        """Whether the model reads a text, character by character."""
        return any(column.encoding == "characters" for column in self.columns)

    def input_feeds(self, columns: dict[str, Column], order: np.ndarray | None = None) -> list[Feed]:
        """The feeds of inputs; `order` are the rows as windows go over them."""
        feeds = [feed for item in self.inputs for feed in item.feeds(columns)]
        return feeds if self.windows is None else [replace(feed, span=self.windows.inputs(order)) for feed in feeds]

    def feeds(self, columns: dict[str, Column], order: np.ndarray | None = None) -> list[Feed]:
        """The feeds of inputs, targets and weights. The weight of a window is that of the first row of its target."""
        targets = [feed for target in self.targets for feed in target.feeds(columns)]
        weights = [] if self.weight is None else [Feed("weight", columns[self.weight].data, "number", 0, 1)]
        if self.windows is not None:
            ahead = self.windows.target(self.text, order)
            targets = [replace(feed, span=ahead) for feed in targets]
            weights = [replace(feed, span=replace(ahead, steps=1)) for feed in weights]
        return [*self.input_feeds(columns, order), *targets, *weights]
