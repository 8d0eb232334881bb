"""The rows of a job: those with a target, cut into training, validation and test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from engine.data import splits
from engine.data.feed import Feed
from engine.data.fit import Notes
from engine.data.table import Column, Table
from engine.data.target import MOST_CLASSES, present
from engine.errors import Problem, SpecError
from engine.train.job_data import Data, Split

Targets = Mapping[str, tuple[str, ...]]
"""The columns of each target, by its name; "@inputs" stands for the inputs."""


@dataclass
class Part:
    """Some rows of one table, and how they are fed. `labels` are class numbers of these rows, where there is one target of classes."""

    table: Table
    rows: np.ndarray
    feeds: list[Feed] = field(default_factory=list)
    labels: np.ndarray | None = None


def target_columns(data: Data) -> dict[str, tuple[str, ...]]:
    """The columns of each target by its name; "@inputs" stands for the inputs."""
    target = data.target
    if target is None:
        return {}
    if isinstance(target, Mapping):
        return {name: (column,) for name, column in target.items()}
    return {"y": (target,) if isinstance(target, str) else tuple(target)}


def _usable(table: Table, data: Data, targets: Targets, pointer: str, notes: Notes) -> np.ndarray:
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
    rows = _usable(table, data, targets, "/data/dataset", notes)
    total, kept, parts = len(rows), {}, {}
    for name, field_name, split in (("test", "test", data.test), ("valid", "validation", data.validation)):
        if split is None:
            continue
        pointer, before = f"/data/{field_name}", len(notes.problems)
        if split.dataset is not None:
            parts[name] = _other(split, tables, data, targets, f"{pointer}/dataset", notes)
            size = len(parts[name].rows)
        else:
            assert split.fraction is not None
            kept[name] = _take(split, table, rows, round(split.fraction * total), targets, seed, name, pointer, notes)
            rows, size = splits.without(rows, [kept[name]]), len(kept[name])
        if not size and len(notes.problems) == before:
            notes.problem(pointer, "empty_split", f"the {field_name} part has no rows: {total} rows are there")
    if not len(rows):
        notes.problem("/data/dataset", "empty_split", f"no rows are left for training, of {table.rows}")
    order = {name: parts.get(name) or Part(table, kept[name]) for name in ("valid", "test") if name in parts or name in kept}
    return {"train": Part(table, rows), **order}


def _other(split: Split, tables: Mapping[str, Table], data: Data, targets: Targets, pointer: str, notes: Notes) -> Part:
    table = tables.get(split.dataset or "")
    if table is None:
        raise SpecError([*notes.problems, Problem(pointer, "unknown_dataset", f"there is no data set {split.dataset!r}")])
    return Part(table, _usable(table, data, targets, pointer, notes))


def _take(split: Split, table: Table, rows: np.ndarray, size: int, targets: Targets, seed: int, purpose: str, pointer: str,
          notes: Notes) -> np.ndarray:
    if split.by == "last":
        return splits.last(rows, size)
    if split.by == "group":
        return splits.grouped(rows, size, _values(table.columns[split.group or ""], rows), seed, purpose)
    if not split.stratify:
        return splits.random(rows, size, seed, purpose)
    columns = [c for names in targets.values() for c in names if c != "@inputs"]
    name = split.stratify if isinstance(split.stratify, str) else columns[0] if columns else ""
    labels = _values(table.columns[name], rows) if name in table.columns and not table.columns[name].shape else None
    if labels is None or len(np.unique(labels)) > MOST_CLASSES:
        detail = f"stratify needs classes, and {name!r} has none" if name else "there is no target to stratify by"
        notes.problem(f"{pointer}/stratify", "continuous_target", detail)
        return rows[:0]
    return splits.stratified(rows, size, labels, seed, purpose)


def _values(column: Column, rows: np.ndarray) -> np.ndarray:
    """One comparable value for each row: class numbers, numbers, or for texts their numbers among the distinct ones."""
    if column.kind == "text":
        return np.unique([column.text(int(row)) for row in rows], return_inverse=True)[1]
    return np.nan_to_num(column.data[rows], nan=-np.inf) if column.data.dtype.kind == "f" else column.data[rows]
