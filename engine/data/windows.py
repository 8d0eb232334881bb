"""Windows: samples of consecutive rows. Inputs are `length` rows, the target the next `horizon` values; of a text, characters and those that follow.

A window is told by the place of its first row in the order of the table, so no row is ever copied: `Span` says which rows a feed takes.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

import numpy as np
from pydantic import Field

from engine.data.feed import Span
from engine.data.table import Column, Table
from engine.errors import Problem, SpecError
from engine.spec import Spec

Count = Annotated[int, Field(strict=True, ge=1)]


class Windows(Spec):
    """How windows are cut. `stride` is 1, and for a text its `length`, where it is left out; rows keep their order where none is named."""

    length: Count
    horizon: Count = 1
    stride: Count | None = None
    order: str | None = None
    group: str | None = None

    @property
    def span(self) -> int:
        """Rows of a window and of its target."""
        return self.length + self.horizon

    def inputs(self, order: np.ndarray | None = None) -> Span:
        """The rows that its inputs are."""
        return Span(0, self.length, order)

    def target(self, text: bool, order: np.ndarray | None = None) -> Span:
        """The rows that its target is: those after the inputs; of a text the inputs' own, one further on."""
        return Span(1, self.length, order) if text else Span(self.length, self.horizon, order)


@dataclass(frozen=True, eq=False)
class Line:
    """The rows of a table as windows go over them: `order` [places] are rows (None: as they stand), `groups` [places] comparable numbers or None."""

    places: int
    order: np.ndarray | None = None
    groups: np.ndarray | None = None

    def rows(self, places: np.ndarray) -> np.ndarray:
        """The rows at these places."""
        return places if self.order is None else self.order[places]

    def at(self, wanted: np.ndarray) -> np.ndarray:
        """bool [places]: whether the row at a place is one of `wanted`, bool [rows]."""
        return wanted if self.order is None else wanted[self.order]


def line_of(table: Table, windows: Windows, usable: np.ndarray | None = None) -> Line:
    """The rows of a table by group, in each by `order`; columns that are not there order nothing. Rows that are not `usable` are left out."""
    columns = table.columns
    order = columns.get(windows.order or "")
    group = columns.get(windows.group or "")
    rows = np.arange(table.rows, dtype=np.int64) if usable is None else np.flatnonzero(usable)
    if order is None and group is None:
        return Line(len(rows), None if len(rows) == table.rows else rows)
    keys = [values_of(column)[rows] for column in (order, group) if column is not None]     # the last key is the first to be sorted by
    places = np.lexsort(keys)
    found = rows[places]
    groups = None if group is None else keys[-1][places]
    return Line(len(found), None if len(found) == table.rows and np.array_equal(found, np.arange(table.rows)) else found, groups)


def values_of(column: Column) -> np.ndarray:
    """One comparable number for each row: class numbers, numbers, or for texts their numbers among the distinct ones."""
    if column.kind == "text":
        return np.unique([column.text(row) for row in range(column.rows)], return_inverse=True)[1].reshape(-1)
    return np.nan_to_num(column.data, nan=-np.inf) if column.data.dtype.kind == "f" else column.data


def runs(line: Line, chosen: np.ndarray) -> list[tuple[int, int]]:
    """[begin, end) of consecutive places that are `chosen`, bool [places], and of one group."""
    breaks = np.flatnonzero(np.diff(chosen)) + 1
    if line.groups is not None:
        breaks = np.union1d(breaks, np.flatnonzero(line.groups[1:] != line.groups[:-1]) + 1)
    edges = [0, *breaks.tolist(), line.places]
    return [(a, b) for a, b in pairwise(edges) if b > a and chosen[a]]


def starts(line: Line, chosen: np.ndarray, windows: Windows, complete: np.ndarray, horizon: bool) -> np.ndarray:
    """int64 [windows]: the places where windows begin that lie in one run of chosen places; their targets lie where `complete`, bool [places]."""
    length, ahead = windows.length, windows.horizon if horizon else 0
    found = [np.arange(a, b - length - ahead + 1, windows.stride or 1, dtype=np.int64) for a, b in runs(line, chosen)]
    places = np.concatenate([*found, np.zeros(0, np.int64)])
    if complete.all() or not ahead:
        return places
    missing = np.concatenate([[0], np.cumsum(~complete)])
    return places[missing[places + length + ahead] == missing[places + length]]


def last_starts(line: Line, windows: Windows) -> np.ndarray:
    """int64 [groups]: where the last `length` rows of each group begin, in the order of the groups' first rows. SpecError where there are fewer."""
    ends = runs(line, np.ones(line.places, bool))
    short = [(a, b) for a, b in ends if b - a < windows.length]
    if short or not ends:
        a, b = short[0] if short else (0, 0)
        which = f" in one of {len(ends)} groups" if len(ends) > 1 else ""
        raise SpecError([Problem("", "too_few_rows", f"the model takes the last {windows.length} rows, found {b - a}{which}")])
    places = np.array([b - windows.length for _, b in ends], np.int64)
    return places[np.argsort([int(line.rows(np.arange(a, b)).min()) for a, b in ends], kind="stable")]


def last_places(line: Line, free: np.ndarray, share: float) -> np.ndarray:
    """bool [places]: the last free places of each group, as many as the `share` of all its places."""
    taken = np.zeros(line.places, bool)
    for a, b in runs(line, np.ones(line.places, bool)):
        inside = a + np.flatnonzero(free[a:b])
        taken[inside[max(0, len(inside) - round(share * (b - a))):]] = True
    return taken
