"""From the data of a job and its tables to fitted preprocessing, and for each part of the rows (train, valid, test) its feeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.data.columns import check_names, select
from engine.data.encode import Leaf
from engine.data.fit import Notes, fit_column
from engine.data.fitted import Fitted, FittedColumn, FittedInput, FittedTarget
from engine.data.preprocess import Auto, Unchanged
from engine.data.table import Column, Table
from engine.data.target import Goal, check_part, fit_target, shown
from engine.errors import Problem, SpecError
from engine.train.job_data import Data
from engine.train.parts import Part, Targets, split_rows, target_columns


@dataclass
class Prepared:
    """The data of a job, ready to be fed: `parts` has "train", and "valid" and "test" where asked for."""

    fitted: Fitted
    parts: dict[str, Part]


def prepare(data: Data, tables: Mapping[str, Table], goals: Sequence[Goal], lookups: Sequence[str], seed: int, dtype: str, notes: Notes) -> Prepared:
    """Everything about the data. `lookups` names the inputs whose first layer is an embedding. Raises SpecError with every problem so far."""
    table = main_table(data, tables, notes)
    targets = target_columns(data)
    check_columns(data, table, targets, notes)
    _stop(notes)
    parts = split_rows(data, table, tables, targets, seed, notes)
    _stop(notes)
    train = parts["train"]
    inputs = _fit_inputs(data, train, lookups, dtype, notes)
    found = [_fit_one(goal, targets[goal.name], data, train, notes) for goal in goals if targets.get(goal.name) is not None]
    fitted = Fitted(inputs=inputs, targets=tuple(t for t in found if t), weight=data.weight, known=tuple(table.columns))
    if not notes.problems:
        for name, part in parts.items():
            _feed(name, part, fitted, data, notes)
    _stop(notes)
    return Prepared(fitted, parts)


def _stop(notes: Notes) -> None:
    if notes.problems:
        raise SpecError(notes.problems)


def main_table(data: Data, tables: Mapping[str, Table], notes: Notes) -> Table:
    table = tables.get(data.source)
    if table is None:
        raise SpecError([*notes.problems, Problem("/data/dataset", "unknown_dataset", f"there is no data set {data.source!r}")])
    if table.kind == "text":
        raise SpecError([*notes.problems, Problem("/data/dataset", "not_built_yet", "training on plain text is not built yet")])
    if not table.rows:
        raise SpecError([*notes.problems, Problem("/data/dataset", "no_rows", "the data set has no rows")])
    return table


def reserved(data: Data) -> list[str]:
    """Columns that a `*` does not choose: targets, weight and groups."""
    target = data.target
    names = [] if target is None else [target] if isinstance(target, str) else list(target.values()) if isinstance(target, Mapping) else list(target)
    groups = [part.group for part in (data.validation, data.test) if part and part.group]
    return [*names, *groups, *([data.weight] if data.weight else [])]


def check_columns(data: Data, table: Table, targets: Targets, notes: Notes) -> None:
    """Every column that the data names must be there; patterns of inputs are looked at when they are chosen."""
    names = {"/data/weight": data.weight} if data.weight else {}
    for name, columns in targets.items():
        several = isinstance(data.target, list)
        for place, column in enumerate(columns):
            step = f"/{place}" if several else f"/{name}" if isinstance(data.target, Mapping) else ""
            names |= {} if column == "@inputs" else {f"/data/target{step}": column}
    for part, split in (("validation", data.validation), ("test", data.test)):
        if split and split.group:
            names[f"/data/{part}/group"] = split.group
        if split and isinstance(split.stratify, str):
            names[f"/data/{part}/stratify"] = split.stratify
    if isinstance(data.preprocess, Mapping):
        names |= {f"/data/preprocess/{name}": name for name in data.preprocess}
    check_names(names, list(table.columns), notes)


# ---------------------------------------------------------------- fitting

def _fit_inputs(data: Data, train: Part, lookups: Sequence[str], dtype: str, notes: Notes) -> tuple[FittedInput, ...]:
    known = list(train.table.columns)
    named = data.inputs if isinstance(data.inputs, Mapping) else {"x": data.inputs}
    inputs = []
    for name, patterns in named.items():
        pointer = f"/data/inputs/{name}" if isinstance(data.inputs, Mapping) else "/data/inputs"
        before = len(notes.problems)
        chosen = select(patterns, known, reserved(data), pointer, notes)
        columns = [c for c in (_fit_column(data, train, column, name in lookups, notes) for column in chosen) if c]
        if not columns and len(notes.problems) == before:
            notes.problem(pointer, "no_inputs", "no column is left as an input")
        elif columns:
            inputs.append(_side_by_side(name, columns, dtype, pointer, notes))
    return tuple(inputs)


def _fit_column(data: Data, train: Part, name: str, lookup: bool, notes: Notes) -> FittedColumn | None:
    preprocess = data.preprocess
    spec: Any = Unchanged() if preprocess == "none" else Auto() if preprocess == "auto" else preprocess.get(name, Auto())  # type: ignore[union-attr]
    explicit = isinstance(preprocess, Mapping) and name in preprocess
    pointer = f"/data/preprocess/{name}" if explicit else "/data/preprocess" if preprocess == "none" else "/data/inputs"
    return fit_column(train.table.columns[name], spec, train.rows, lookup, pointer, notes)


def _side_by_side(name: str, columns: list[FittedColumn], dtype: str, pointer: str, notes: Notes) -> FittedInput:
    """The input that columns make: one column keeps its shape, several must have one axis at most; class numbers and features do not mix."""
    codes = [column for column in columns if column.encoding == "code"]
    if codes and len(codes) < len(columns):
        notes.problem(pointer, "mixed_inputs", f"input {name!r} goes to an embedding, which takes class numbers; "
                                               f"{next(c.name for c in columns if c.encoding != 'code')!r} has none; give it an input of its own")
    deep = [column for column in columns if len(column.shape) > 1]
    if len(columns) == 1 and columns[0].shape and not columns[0].indicator:
        shape = columns[0].shape
    else:
        shape = (sum(column.width for column in columns),)
        if deep and len(columns) > 1:
            detail = f"column {deep[0].name!r} has rows of shape {list(deep[0].shape)} and cannot stand beside others; give it an input of its own"
            notes.problem(pointer, "shape_mismatch", detail)
    return FittedInput(name=name, columns=tuple(columns), shape=shape, dtype="int32" if codes else dtype)


def _fit_one(goal: Goal, names: tuple[str, ...], data: Data, train: Part, notes: Notes) -> FittedTarget | None:
    if names == ("@inputs",):
        return FittedTarget(name=goal.name, kind="inputs")
    spec = data.preprocess.get(names[0]) if isinstance(data.preprocess, Mapping) else None
    return fit_target(goal, [train.table.columns[name] for name in names], train.rows, spec.strip if spec else "", notes)


# ---------------------------------------------------------------- feeds

def _feed(name: str, part: Part, fitted: Fitted, data: Data, notes: Notes) -> None:
    """Make the part's feeds. Another data set must have the columns, with values of their kinds."""
    where = {"valid": "validation"}.get(name, name)
    columns = part.table.columns
    absent = [c.name for c in fitted.columns if c.name not in columns]
    for column in absent:
        notes.problem(f"/data/{where}/dataset", "missing_column", f"the data set has no column {column!r}, which is an input")
    if absent:
        return
    for target in fitted.targets:
        if name != "train" and target.columns:
            check_part(target, [columns[c] for c in target.columns], part.rows, where, f"/data/{where}", notes)
    try:
        part.feeds = fitted.feeds(columns)
    except SpecError as error:
        notes.problems += [Problem(f"/data/{where}/dataset", p.code, p.detail) for p in error.problems]
        return
    if data.weight:
        _check_weights(columns[data.weight], part.rows, notes)
    if len(fitted.targets) == 1 and fitted.targets[0].kind == "class":
        part.labels = fitted.targets[0].codes(columns[fitted.targets[0].columns[0]])[part.rows]
    for column in fitted.columns:
        unseen = column.unseen(columns[column.name], part.rows) if name != "train" else []
        if unseen:
            detail = f"column {column.name!r} has categories that training has not, {shown(unseen)}; they count as unknown"
            notes.warn(f"/data/{where}", "unseen_category", detail)


def _check_weights(column: Column, rows: np.ndarray, notes: Notes) -> None:
    if column.kind not in ("number", "boolean"):
        notes.problem("/data/weight", "not_numbers", f"the weight column {column.name!r} is a {column.kind}, not a number")
    elif np.any(column.data[rows] < 0) or not np.any(column.data[rows] > 0):
        notes.problem("/data/weight", "out_of_range", f"the weights in {column.name!r} must be zero or more, and one of them more")


def leaves_of(fitted: Fitted, dtype: str) -> dict[str, Leaf]:
    """Shape of one row and dtype of each batch leaf."""
    leaves: dict[str, Leaf] = {}
    for item in fitted.inputs:
        if math.prod(item.shape):
            leaves[item.leaf] = (item.shape, item.dtype)
        leaves.update({column.leaf: ((), "int32") for column in item.embeddings})
    for target in fitted.targets:
        if target.kind != "inputs":
            leaves[target.leaf] = ((), "int32") if target.kind == "class" else (target.shape, dtype)
    return leaves | ({"weight": ((), dtype)} if fitted.weight else {})
