"""The rows of a job: those with a target, cut into training, validation and test."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from engine.data import splits
from engine.data.feed import Feed
from engine.data.fit import Notes
from engine.data.table import Table
from engine.data.target import MOST_CLASSES, present
from engine.data.windows import Line, values_of
from engine.train.job_data import Data, Split

Targets = Mapping[str, tuple[str, ...]]
"""The columns of each target, by its name; "@inputs" stands for the inputs."""


@dataclass
class Part:
    """Some rows of one table, and how they are fed. `labels` are class numbers of these rows, where there is one target of classes.

    With windows `rows` are the places where windows begin, in the order of `line` (None: of the characters of a text), and `inside` the rows of the
    table that they are cut from.
    """

    table: Table
    rows: np.ndarray
    feeds: list[Feed] = field(default_factory=list)
    labels: np.ndarray | None = None
    line: Line | None = None
    inside: np.ndarray | None = None

    @property
    def known(self) -> np.ndarray:
        """The rows of the table that preprocessing may learn from."""
        return self.rows if self.inside is None else self.inside

    @property
    def order(self) -> np.ndarray | None:
        return self.line.order if self.line else None


def target_columns(data: Data) -> dict[str, tuple[str, ...]]:
    """The columns of each target by its name; "@inputs" stands for the inputs."""
    target = data.target
    if target is None:
        return {}
    if isinstance(target, Mapping):
        return {name: (column,) for name, column in target.items()}
    return {"y": (target,) if isinstance(target, str) else tuple(target)}


def usable(table: Table, data: Data, targets: Targets, pointer: str, notes: Notes) -> np.ndarray:
    """The rows that have a target and a weight, in order; the others are left out with a warning."""
    names = [name for columns in targets.values() for name in columns if name != "@inputs"] + ([data.weight] if data.weight else [])
    absent = [name for name in names if name not in table.columns]
    for name in absent:
        notes.problem(pointer, "missing_column", f"the data set has no column {name!r}, which is a target or the weight")
    if not names or absent:
        return np.arange(table.rows, dtype=np.int64)
    found = present([table.columns[name] for name in names])
    left_out = int(np.count_nonzero(~found))
    if left_out:
        notes.warn("/data/target", "missing_target", f"{left_out} of {table.rows} rows have no target or weight and are left out")
    return np.flatnonzero(found).astype(np.int64)


def split_rows(data: Data, table: Table, tables: Mapping[str, Table], targets: Targets, seed: int, notes: Notes) -> dict[str, Part]:
    """The rows of each part: "train", "valid" and "test" where asked for, and further ones by name."""
    rows = usable(table, data, targets, "/data/dataset", notes)
    total, kept = len(rows), {}
    parts = {name: Part(other, usable(other, data, targets, pointer, notes)) for name, other, pointer in other_tables(data, tables)}
    for name, place, split in (("test", "test", data.test), ("valid", "validation", data.validation)):
        if split is not None and split.fraction is not None:
            taken = _take(split, table, rows, round(split.fraction * total), targets, seed, name, f"/data/{place}", notes)
            rows, kept[name] = splits.without(rows, [taken]), Part(table, taken)
    return ordered({"train": Part(table, rows), **parts, **kept}, data, f"{total} rows are there", notes)


def check_others(data: Data, tables: Mapping[str, Table], notes: Notes) -> None:
    """The data sets of the other parts must be there."""
    for reference, pointer in data.others.values():
        if reference not in tables:
            notes.problem(pointer, "unknown_dataset", f"there is no data set {reference!r}")


def other_tables(data: Data, tables: Mapping[str, Table]) -> Iterator[tuple[str, Table, str]]:
    """(part, table, pointer) of the parts that are other data sets, which are there."""
    for name, (reference, pointer) in data.others.items():
        yield name, tables[reference], pointer


def ordered(parts: Mapping[str, Part], data: Data, there: str, notes: Notes) -> dict[str, Part]:
    """Training first, test last. An empty part is a problem, unless something was wrong before."""
    names = sorted(parts, key=lambda name: {"train": 0, "valid": 1, "test": 3}.get(name, 2))
    places = {"train": "/data/dataset", "valid": "/data/validation", "test": "/data/test"}
    for name in names if not notes.problems else ():
        if not len(parts[name].rows):
            detail = f"no rows are left for training: {there}" if name == "train" else f"the {PLACES.get(name, name)} part has no rows: {there}"
            notes.problem(places.get(name) or data.others[name][1], "empty_split", detail)
    return {name: parts[name] for name in names}


PLACES = {"valid": "validation"}
"""What a part is called in the spec, where its name in events is another."""


def _take(split: Split, table: Table, rows: np.ndarray, size: int, targets: Targets, seed: int, purpose: str, pointer: str,
          notes: Notes) -> np.ndarray:
    if split.by == "last":
        return splits.last(rows, size)
    if split.by == "group":
        return splits.grouped(rows, size, values_of(table.columns[split.group or ""])[rows], seed, purpose)
    if not split.stratify:
        return splits.random(rows, size, seed, purpose)
    columns = [c for names in targets.values() for c in names if c != "@inputs"]
    name = split.stratify if isinstance(split.stratify, str) else columns[0] if columns else ""
    labels = values_of(table.columns[name])[rows] if name in table.columns and not table.columns[name].shape else None
    if labels is None or len(np.unique(labels)) > MOST_CLASSES:
        detail = f"stratify needs classes, and {name!r} has none" if name else "there is no target to stratify by"
        notes.problem(f"{pointer}/stratify", "continuous_target", detail)
        return rows[:0]
    return splits.stratified(rows, size, labels, seed, purpose)
