"""Fitting the preprocessing of one column on the training rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from engine.data import preprocess as kinds
from engine.data.fitted import FittedColumn
from engine.data.inference import Class
from engine.data.reading import as_kind, date_parts, key
from engine.data.table import Column
from engine.errors import Problem

ONE_HOT_LIMIT = 32
NEAR_UNIQUE = 0.9       # of the rows that have a value
NEAR_UNIQUE_ROWS = 10


@dataclass
class Notes:
    """What is found on the way: problems refuse the job, warnings go with it. Each has a pointer into the job."""

    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)

    def problem(self, pointer: str, code: str, detail: str, suggestion: str | None = None) -> None:
        self.problems.append(Problem(pointer, code, detail, suggestion))

    def warn(self, pointer: str, code: str, detail: str) -> None:
        self.warnings.append(Problem(pointer, code, detail))


@dataclass(frozen=True)
class Fit:
    """One column to be fitted: the rows to learn from, what was asked for, whether the model's first layer looks up class numbers itself."""

    column: Column
    spec: Any
    rows: np.ndarray
    lookup: bool
    pointer: str
    notes: Notes

    def values(self) -> np.ndarray:
        """float64 [rows, width] of the training rows, NaN where missing."""
        data = np.asarray(self.column.data[self.rows], np.float64).reshape(len(self.rows), -1)
        return np.where(data < 0, np.nan, data) if self.column.classes is not None else data

    def made(self, **settings: Any) -> FittedColumn:
        column = self.column
        return FittedColumn(name=column.name, kind=column.kind, array=column.array, shape=column.shape, strip=self.spec.strip,
                            channels=self.spec.channels or 0, **settings)

    def leave_out(self, reason: str) -> None:
        self.notes.warn(self.pointer, "left_out", f"column {self.column.name!r} {reason} and is left out of the inputs")

    def refuse(self, code: str, detail: str, suggestion: str | None = None) -> None:
        self.notes.problem(self.pointer, code, detail, suggestion)


def fit_column(column: Column, spec: Any, rows: np.ndarray, lookup: bool, pointer: str, notes: Notes) -> FittedColumn | None:
    """The fitted column, or None where it is left out or cannot be used (see `notes`)."""
    task = Fit(column, spec, rows, lookup, pointer, notes)
    return _RULES[spec.kind](task)


# ---------------------------------------------------------------- automatic

def _auto(task: Fit) -> FittedColumn | None:
    column = task.column
    if column.kind == "text":
        return task.leave_out("is free text")
    if task.lookup and (column.classes is not None or _whole(column)):
        return _code(task)
    if column.array or column.kind == "boolean":
        return _numbers(task, scale=1 / 255) if column.image else _numbers(task)
    if column.kind == "category":
        return _auto_category(task)
    return _datetime(task, kinds.PARTS) if column.kind == "datetime" else _standardise(task)


def _whole(column: Column) -> bool:
    """Whether a column has whole numbers only, which can be looked up."""
    if column.array or column.kind != "number":
        return column.data.dtype.kind == "i"
    return bool(np.all(np.isnan(column.data) | (np.mod(column.data, 1) == 0)))


def _auto_category(task: Fit) -> FittedColumn | None:
    used = task.column.data[task.rows]
    present = int(np.count_nonzero(used >= 0))
    distinct = len(np.unique(used[used >= 0]))
    if present >= NEAR_UNIQUE_ROWS and distinct >= NEAR_UNIQUE * present:
        return task.leave_out(f"is nearly unique ({distinct} values in {present} rows)")
    return _one_hot(task) if distinct <= ONE_HOT_LIMIT else _embedding(task)


# ---------------------------------------------------------------- numbers

def _numeric(task: Fit) -> bool:
    """Whether the column has numbers to be computed with; notes a problem where it has not."""
    if task.column.kind in ("number", "tensor", "boolean"):
        return True
    better = {"category": "one_hot", "datetime": "datetime"}.get(task.column.kind, "ignore")
    task.refuse("not_numbers", f"column {task.column.name!r} is a {task.column.kind}: {task.spec.kind!r} is for numbers", better)
    return False


def _numbers(task: Fit, shift: Any = 0.0, scale: Any = 1.0, encoding: str = "number", fill: Any = None) -> FittedColumn | None:
    """Numbers with a shift and a scale. Missing values: as `impute` says, else the mean and an indicator; in a numeric array they stay."""
    if not _numeric(task):
        return None
    if task.column.array and task.spec.kind in ("auto", "none") and task.spec.impute is None:
        if task.column.data.dtype.kind == "f" and any(np.isnan(block).any() for block in task.column.blocks()):
            task.notes.warn(task.pointer, "missing_values", f"column {task.column.name!r} has missing values, which reach the model as NaN; "
                                                            "preprocess it with 'impute'")
        return task.made(encoding=encoding, shift=shift, scale=scale)
    values = task.values()
    missing = bool(np.isnan(values).any())
    if fill is None:
        fill = _fill(task, values)
    if fill is None:
        return None
    indicator = missing and task.spec.impute is None and not task.column.array and task.spec.kind != "none"
    return task.made(encoding=encoding, shift=shift, scale=scale, fill=fill, indicator=indicator)


def _fill(task: Fit, values: np.ndarray) -> Any:
    """What stands for a missing value: a number for each position, or None (noted) where there is none."""
    impute = task.spec.impute
    if isinstance(impute, bool | int | float):
        return float(impute)
    if isinstance(impute, str) and impute not in ("mean", "median", "most_frequent"):
        try:
            return float(impute)
        except ValueError:
            return task.refuse("invalid_impute", f"column {task.column.name!r} has numbers: impute is 'mean', 'median', 'most_frequent' or a number, "
                                                 f"found {impute!r}")
    if np.isnan(values).all(axis=0).any():
        return task.leave_out("has no value in the training rows")
    with np.errstate(over="ignore"):
        if impute == "median":
            return plain(np.nanmedian(values, axis=0))
        if impute == "most_frequent":
            return plain(np.array([_mode(part[~np.isnan(part)]) for part in values.T]))
        return plain(np.nanmean(values, axis=0))


def _mode(values: np.ndarray) -> float:
    found, counts = np.unique(values, return_counts=True)
    return float(found[np.argmax(counts)])


def plain(values: np.ndarray) -> Any:
    """A number where there is one, else a tuple of numbers."""
    return float(values[0]) if len(values) == 1 else tuple(float(v) for v in values)


def _filled(task: Fit) -> tuple[np.ndarray, Any] | None:
    """The training values with missing ones filled as they will be, and the fill; None where the column cannot be used."""
    if not _numeric(task):
        return None
    values = task.values()
    fill = _fill(task, values)
    return None if fill is None else (np.where(np.isnan(values), fill, values), fill)


def _moments(values: np.ndarray) -> tuple[Any, Any]:
    """(mean, 1 / standard deviation) of each position; a constant one is only shifted."""
    mean, std = values.mean(axis=0), values.std(axis=0)
    return plain(mean), plain(1.0 / np.where(std > 1e-12 * (1 + np.abs(mean)), std, 1.0))


def _standardise(task: Fit) -> FittedColumn | None:
    found = _filled(task)
    return found and _numbers(task, *_moments(found[0]), fill=found[1])


def _min_max(task: Fit) -> FittedColumn | None:
    found = _filled(task)
    if found is None:
        return None
    low, high = found[0].min(axis=0), found[0].max(axis=0)
    return _numbers(task, plain(low), plain(1.0 / np.where(high > low, high - low, 1.0)), fill=found[1])


def _log(task: Fit) -> FittedColumn | None:
    found = _filled(task)
    return found and _numbers(task, *_moments(np.log1p(np.maximum(found[0], 0))), encoding="log", fill=found[1])


# ---------------------------------------------------------------- classes and dates

def classes_of(column: Column, rows: np.ndarray, strip: str = "") -> tuple[Column, tuple[Class, ...], np.ndarray]:
    """(the column with classes, its distinct values in these rows, how many rows have each); numbers in order, then text."""
    if column.kind == "text":
        column = as_kind(column, "category")
    if column.classes is None:
        values, counts = np.unique(column.data[rows], return_counts=True)
        known = ~np.isnan(values) if values.dtype.kind == "f" else np.ones(len(values), bool)
        return column, tuple(int(v) if float(v).is_integer() else float(v) for v in values[known]), counts[known]
    used = column.data[rows]
    counts = np.bincount(used[used >= 0], minlength=len(column.classes))
    merged: dict[Class, int] = {}
    for value, count in zip(column.classes, counts, strict=True):
        if count:
            value = key(value, strip) if strip and isinstance(value, str) else value
            merged[value] = merged.get(value, 0) + int(count)
    order = sorted(merged, key=_order)
    return column, tuple(order), np.array([merged[value] for value in order], np.int64)


def _order(value: Class) -> tuple[int, float, str]:
    """Numbers by size, also those written as texts, then texts."""
    try:
        return 0, float(value), str(value)
    except ValueError:
        return 1, 0.0, str(value)


def _categories(task: Fit) -> dict[str, Any] | None:
    """Classes and the class that stands for missing values."""
    column, impute = task.column, task.spec.impute
    if column.kind in ("tensor", "datetime"):
        return task.refuse("not_classes", f"column {column.name!r} is a {column.kind}: {task.spec.kind!r} is for classes")
    _, classes, counts = classes_of(column, task.rows, task.spec.strip)
    if not classes:
        return task.leave_out("has no value in the training rows")
    if impute is None:
        return {"classes": classes}
    if impute == "most_frequent":
        return {"classes": classes, "default": int(np.argmax(counts))}
    places = {key(value): place for place, value in enumerate(classes)}
    if key(impute) not in places:
        return task.refuse("invalid_impute", f"column {column.name!r} has classes: impute is 'most_frequent' or one of them, found {impute!r}")
    return {"classes": classes, "default": places[key(impute)]}


def _one_hot(task: Fit) -> FittedColumn | None:
    found = _categories(task)
    return task.made(encoding="one_hot", **found) if found else None


def _embedding(task: Fit) -> FittedColumn | None:
    found = _categories(task)
    if not found:
        return None
    classes = len(found["classes"])
    units = getattr(task.spec, "units", None) or min(50, (classes + 1) // 2)
    return task.made(encoding="embedding", units=units, vocabulary=classes + 1, **found)


def _code(task: Fit) -> FittedColumn | None:
    """Class numbers for an embedding layer of the model: of the classes, or of an array as they are."""
    if task.column.array and task.column.classes is None:
        data = task.column.data
        low, high = (int(data.min()), int(data.max())) if data.size else (0, 0)
        if low < 0:
            return task.refuse("negative_index", f"column {task.column.name!r} goes to an embedding and has the number {low}; it takes 0, 1, 2 ...")
        return task.made(encoding="code", vocabulary=high + 1)
    found = _categories(task)
    return task.made(encoding="code", vocabulary=len(found["classes"]) + 1, **found) if found else None


def _datetime(task: Fit, parts: tuple[Any, ...]) -> FittedColumn | None:
    if task.column.kind != "datetime":
        return task.refuse("not_datetime", f"column {task.column.name!r} is a {task.column.kind}, not a datetime")
    values = date_parts(task.column.data[task.rows], parts)
    present = values[~np.isnan(values).any(axis=1)]
    if not len(present):
        return task.leave_out("has no value in the training rows")
    fill = plain(present.mean(axis=0))
    shift, scale = _moments(present)
    return task.made(encoding="datetime", parts=parts, shift=shift, scale=scale, fill=fill, indicator=len(present) < len(values))


_RULES: dict[str, Callable[[Fit], FittedColumn | None]] = {
    "auto": _auto, "none": _numbers, "standardise": _standardise, "min_max": _min_max, "log": _log,
    "scale": lambda task: _numbers(task, scale=task.spec.by), "one_hot": _one_hot, "embedding": _embedding,
    "datetime": lambda task: _datetime(task, task.spec.parts), "ignore": lambda task: None,
}
