"""From the data of a job and its tables to fitted preprocessing, and for each part of the rows (train, valid, test) its feeds."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.data.augment import Changes, changes_of
from engine.data.characters import alphabet, code_points
from engine.data.columns import check_names, select
from engine.data.encode import Leaf
from engine.data.fit import Notes, fit_column
from engine.data.fitted import Fitted, FittedColumn, FittedInput, FittedTarget
from engine.data.precision import loses
from engine.data.preprocess import Auto, Unchanged
from engine.data.table import Column, Table
from engine.data.target import Goal, check_part, fit_target, present, shown
from engine.data.windows import Windows
from engine.errors import Problem, SpecError
from engine.train.job_data import Data
from engine.train.rows.parts import PLACES, Part, Targets, check_others, target_columns
from engine.train.rows.windows import check_windows, parts_of


@dataclass
class Prepared:
    """The data of a job, ready to be fed: `parts` has "train", and "valid" and "test" where asked for. `changes` augment the training rows."""

    fitted: Fitted
    parts: dict[str, Part]
    changes: Changes


def prepare(data: Data, tables: Mapping[str, Table], goals: Sequence[Goal], lookups: Sequence[str], seed: int, dtype: str, notes: Notes,
            images: Sequence[str] = ()) -> Prepared:
    """Everything about the data. `lookups` names the inputs whose first layer is an embedding, `images` those that want channels.

    Raises SpecError with every problem so far.
    """
    table = main_table(data, tables, notes)
    targets = target_columns(data)
    check_columns(data, table, targets, notes)
    check_others(data, tables, notes)
    check_windows(data, table.kind == "text", notes)
    _stop(notes)
    parts = parts_of(data, table, tables, targets, seed, notes)
    _stop(notes)
    train = parts["train"]
    if table.kind == "text" and data.windows is not None:
        fitted = fit_text(table, data.windows)
    else:
        inputs = _fit_inputs(data, train, lookups, images, dtype, notes)
        found = [_fit_one(goal, targets[goal.name], data, train, dtype, notes) for goal in goals if targets.get(goal.name) is not None]
        fitted = Fitted(inputs=inputs, targets=tuple(t for t in found if t), weight=data.weight, known=tuple(table.columns),
                        windows=data.windows and data.windows.model_copy(update={"stride": data.windows.stride or 1}))
    changes = changes_of(data.augment, fitted.inputs, data.windows is not None, notes)
    if not notes.problems:
        for name, part in parts.items():
            _feed(name, part, fitted, data, notes)
    _stop(notes)
    return Prepared(fitted, parts, changes)


def _stop(notes: Notes) -> None:
    if notes.problems:
        raise SpecError(notes.problems)


def main_table(data: Data, tables: Mapping[str, Table], notes: Notes) -> Table:
    table = tables.get(data.source)
    if table is None:
        raise SpecError([*notes.problems, Problem("/data/dataset", "unknown_dataset", f"there is no data set {data.source!r}")])
    if table.kind == "text" and data.windows is None:
        detail = "plain text is trained on in windows of characters: say how long they are"
        raise SpecError([*notes.problems, Problem("/data/windows", "missing_field", detail, '"windows": {"length": 64}')])
    if not table.rows:
        raise SpecError([*notes.problems, Problem("/data/dataset", "no_rows", "the data set has no rows")])
    return table


def reserved(data: Data) -> list[str]:
    """Columns that a `*` does not choose: targets, weight, groups and what orders rows."""
    target = data.target
    names = [] if target is None else [target] if isinstance(target, str) else list(target.values()) if isinstance(target, Mapping) else list(target)
    groups = [part.group for part in (data.validation, data.test) if part]
    windows = [data.windows.order, data.windows.group] if data.windows else []
    return [*names, *(name for name in (*groups, *windows, data.weight) if name)]


def check_columns(data: Data, table: Table, targets: Targets, notes: Notes) -> None:
    """Every column that the data names must be there; patterns of inputs are looked at when they are chosen."""
    names = {"/data/weight": data.weight} if data.weight else {}
    for field in ("order", "group") if data.windows and table.kind != "text" else ():
        names |= {f"/data/windows/{field}": column} if (column := getattr(data.windows, field)) else {}
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

def _fit_inputs(data: Data, train: Part, lookups: Sequence[str], images: Sequence[str], dtype: str, notes: Notes) -> tuple[FittedInput, ...]:
    known = list(train.table.columns)
    named = data.inputs if isinstance(data.inputs, Mapping) else {"x": data.inputs}
    inputs = []
    for name, patterns in named.items():
        pointer = f"/data/inputs/{name}" if isinstance(data.inputs, Mapping) else "/data/inputs"
        before = len(notes.problems)
        chosen = select(patterns, known, reserved(data), pointer, notes, past=data.windows is not None)
        columns = [c for c in (_fit_column(data, train, column, name in lookups, notes) for column in chosen) if c]
        if not columns and len(notes.problems) == before:
            past = [column for names in target_columns(data).values() for column in names] if data.windows and data.inputs is None else []
            detail = "no column is left as an input" + (": name the target's to learn from its past" if past else "")
            notes.problem(pointer, "no_inputs", detail, f'"inputs": {json.dumps(past)}' if past else None)
        elif columns:
            if len(columns) == 1 and name in images and train.table.columns[columns[0].name].image and len(columns[0].shape) == 2:
                columns = [columns[0].model_copy(update={"channels": 1})]
            given = [train.table.columns[c.name] for c in columns if c.array and c.encoding == "number" and c.scale == 1.0]
            _warn_of_loss(given, dtype, pointer, notes)
            inputs.append(windowed(_side_by_side(name, columns, dtype, pointer, notes), data.windows))
    return tuple(inputs)


def _warn_of_loss(columns: Sequence[Column], dtype: str, pointer: str, notes: Notes) -> None:
    """Arrays reach the model as given, but in the job's number type."""
    for column in columns:
        if lost := loses(column, dtype):
            notes.warn(pointer, "precision_lost", f"column {column.name!r} {lost}: say \"dtype\": \"float64\", or standardise it")


def _fit_column(data: Data, train: Part, name: str, lookup: bool, notes: Notes) -> FittedColumn | None:
    preprocess = data.preprocess
    spec: Any = Unchanged() if preprocess == "none" else Auto() if preprocess == "auto" else preprocess.get(name, Auto())  # type: ignore[union-attr]
    explicit = isinstance(preprocess, Mapping) and name in preprocess
    pointer = f"/data/preprocess/{name}" if explicit else "/data/preprocess" if preprocess == "none" else "/data/inputs"
    return fit_column(train.table.columns[name], spec, train.known, lookup, pointer, notes)


def _side_by_side(name: str, columns: list[FittedColumn], dtype: str, pointer: str, notes: Notes) -> FittedInput:
    """The input that columns make: one column keeps its shape, several must have one axis at most; class numbers and features do not mix."""
    codes = [column for column in columns if column.encoding == "code"]
    if codes and len(codes) < len(columns):
        notes.problem(pointer, "mixed_inputs", f"input {name!r} goes to an embedding, which takes class numbers; "
                                               f"{next(c.name for c in columns if c.encoding != 'code')!r} has none; give it an input of its own")
    deep = [column for column in columns if len(column.shape) > 1]
    if len(columns) == 1 and columns[0].shape and not columns[0].indicator:
        shape = (*columns[0].shape, *([1] if columns[0].channels and len(columns[0].shape) == 2 else []))
    else:
        shape = (sum(column.width for column in columns),)
        if deep and len(columns) > 1:
            detail = f"column {deep[0].name!r} has rows of shape {list(deep[0].shape)} and cannot stand beside others; give it an input of its own"
            notes.problem(pointer, "shape_mismatch", detail)
    return FittedInput(name=name, columns=tuple(columns), shape=shape, dtype="int32" if codes else dtype)


def _fit_one(goal: Goal, names: tuple[str, ...], data: Data, train: Part, dtype: str, notes: Notes) -> FittedTarget | None:
    if names == ("@inputs",):
        return FittedTarget(name=goal.name, kind="inputs")
    spec = data.preprocess.get(names[0]) if isinstance(data.preprocess, Mapping) else None
    columns = [train.table.columns[name] for name in names]
    rows = train.known if data.windows is None else train.known[present(columns)[train.known]]
    found = fit_target(goal, columns, rows, spec.strip if spec else "", notes)
    if found is not None and found.kind == "number" and found.shift is None:
        _warn_of_loss(columns, dtype, goal.pointer, notes)
    if found is None or data.windows is None or data.windows.horizon == 1:
        return found
    shape = (data.windows.horizon, *(() if found.shape == (1,) else found.shape))
    return found.model_copy(update={"shape": shape})


def windowed(item: FittedInput, windows: Windows | None) -> FittedInput:
    """The input of windows: `length` rows of it, one below the other. One column of class numbers is a list of them."""
    if windows is None:
        return item
    own = () if item.dtype == "int32" and item.shape == (1,) else item.shape
    return item.model_copy(update={"shape": (windows.length, *own)})


def fit_text(table: Table, windows: Windows) -> Fitted:
    """The characters of a text and those that follow. The alphabet is that of the whole text, so that no part has a character without a number."""
    name, column = next(iter(table.columns.items()))
    characters = alphabet(code_points(column))
    read = FittedColumn(name=name, kind="text", array=False, encoding="characters", classes=characters, vocabulary=len(characters))
    target = FittedTarget(columns=(name,), kind="class", shape=(windows.length,), classes=characters, text=True)
    cut = windows.model_copy(update={"stride": windows.stride or windows.length})
    x = FittedInput(name="x", columns=(read,), shape=(windows.length,), dtype="int32")
    return Fitted(inputs=(x,), targets=(target,), known=(name,), windows=cut)


# ---------------------------------------------------------------- feeds

def _feed(name: str, part: Part, fitted: Fitted, data: Data, notes: Notes) -> None:
    """Make the part's feeds. Another data set must have the columns, with values of their kinds."""
    where = PLACES.get(name, name)
    pointer = f"/data/{where}" if name in ("train", "valid", "test") else data.others[name][1]
    source = data.others[name][1] if name in data.others else "/data/dataset"
    columns = part.table.columns
    absent = [c.name for c in fitted.columns if c.name not in columns]
    for column in absent:
        notes.problem(source, "missing_column", f"the data set has no column {column!r}, which is an input")
    if absent:
        return
    for target in fitted.targets:
        if name != "train" and target.columns:
            check_part(target, [columns[c] for c in target.columns], part.known, where, pointer, notes)
    try:
        part.feeds = fitted.feeds(columns, part.order)
    except SpecError as error:
        notes.problems += [Problem(source, p.code, p.detail) for p in error.problems]
        return
    if data.weight:
        check_weights(columns[data.weight], part.known, "/data/weight", notes)
    part.labels = labels_of(part, fitted)
    for column in fitted.columns if name != "train" else ():
        if unseen := column.unseen(columns[column.name], part.known):
            detail = f"column {column.name!r} has categories that training has not, {shown(unseen)}; they count as unknown"
            notes.warn(pointer, "unseen_category", detail)


def labels_of(part: Part, fitted: Fitted) -> np.ndarray | None:
    """The class number of each row, or of each window with one label; None where there is no one target of classes."""
    target = fitted.targets[0] if len(fitted.targets) == 1 else None
    if target is None or target.kind != "class" or target.shape:
        return None
    codes = target.codes(part.table.columns[target.columns[0]])
    return codes[part.rows] if fitted.windows is None else codes[fitted.windows.target(False, part.order).rows(part.rows)]


def check_weights(column: Column, rows: np.ndarray, pointer: str, notes: Notes) -> None:
    """A problem where these rows cannot be weighted by the column."""
    if column.kind not in ("number", "boolean"):
        notes.problem(pointer, "not_numbers", f"the weight column {column.name!r} is a {column.kind}, not a number")
    elif np.any(column.data[rows] < 0) or not np.any(column.data[rows] > 0):
        notes.problem(pointer, "out_of_range", f"the weights in {column.name!r} must be zero or more, and one of them more")


def leaves_of(fitted: Fitted, dtype: str) -> dict[str, Leaf]:
    """Shape of one row and dtype of each batch leaf, of a model that computes in `dtype`."""
    leaves: dict[str, Leaf] = {}
    for item in fitted.inputs:
        if math.prod(item.shape):
            leaves[item.leaf] = (item.shape, "int32" if item.dtype == "int32" else dtype)
        leaves.update({column.leaf: ((fitted.windows.length,) if fitted.windows else (), "int32") for column in item.embeddings})
    for target in fitted.targets:
        if target.kind != "inputs":
            leaves[target.leaf] = (target.shape, "int32" if target.kind == "class" else dtype)
    return leaves | ({"weight": ((), dtype)} if fitted.weight else {})
