"""Targets: the loss decides whether a column is a class or a number. Fitted on training rows only."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.data.characters import code_points, unknown
from engine.data.fit import Notes, classes_of
from engine.data.fitted import FittedTarget
from engine.data.inference import Class
from engine.data.reading import key
from engine.data.table import Column

MOST_CLASSES = 1000
SHOWN = 12


@dataclass(frozen=True)
class Goal:
    """What a loss wants of its target: classes (two of them, if `binary`) or numbers, standardised inside where it is a `distance`.

    With `numbered`, whole numbers are class numbers already, and there may be more classes than the rows show.
    """

    name: str = "y"
    classes: bool = False
    binary: bool = False
    distance: bool = False
    numbered: bool = False
    pointer: str = "/data/target"


def present(columns: Sequence[Column]) -> np.ndarray:
    """bool [rows]: whether all of these columns have a value."""
    found = np.ones(columns[0].rows, bool)
    for column in columns:
        if column.kind == "text":
            found &= np.diff(column.data) > 0
        elif column.classes is not None:
            found &= column.data >= 0
        elif column.data.dtype.kind == "f":
            found &= ~np.isnan(column.data).reshape(column.rows, -1).any(axis=1)
    return found


def fit_target(goal: Goal, columns: Sequence[Column], rows: np.ndarray, strip: str, notes: Notes) -> FittedTarget | None:
    """The fitted target, or None where it cannot be used (see `notes`)."""
    if goal.classes and len(columns) == 1 and columns[0].kind != "tensor":
        return _fit_classes(goal, columns[0], rows, strip, notes)
    return _fit_numbers(goal, columns, rows, notes)


def _fit_classes(goal: Goal, column: Column, rows: np.ndarray, strip: str, notes: Notes) -> FittedTarget | None:
    if column.kind == "datetime":
        return notes.problem(goal.pointer, "not_classes", f"the target {column.name!r} is a datetime, the loss needs classes")
    values = column.data[rows]
    if column.kind == "number" and values.dtype.kind == "f" and not np.equal(np.mod(values, 1), 0).all():
        return notes.problem(goal.pointer, "continuous_target", f"the target {column.name!r} has numbers that are not whole, such as "
                             f"{float(values[np.mod(values, 1) != 0][0])!r}; a loss for classes cannot use them", "mse")
    _, classes, counts = classes_of(column, rows, strip)
    if goal.numbered and column.kind == "number" and classes and float(classes[0]) >= 0 and float(classes[-1]) < MOST_CLASSES:
        classes = tuple(range(max(2, int(classes[-1]) + 1)))
        return FittedTarget(name=goal.name, columns=(column.name,), kind="class", classes=classes, numbered=True)
    if len(classes) > MOST_CLASSES:
        return notes.problem(goal.pointer, "continuous_target", f"the target {column.name!r} has {len(classes)} different values; "
                                                                f"at most {MOST_CLASSES} can be classes", "mse")
    if len(classes) < 2:
        only = f"only the class {classes[0]!r}" if classes else "no value"
        return notes.problem(goal.pointer, "single_class", f"the target {column.name!r} has {only} in the {len(rows)} training rows")
    if goal.binary and len(classes) != 2:
        detail = f"the loss is for two classes, the target {column.name!r} has {len(classes)}: {shown(classes)}"
        return notes.problem("/loss", "output_mismatch", detail, "logit_cross_entropy")
    return FittedTarget(name=goal.name, columns=(column.name,), kind="class", classes=classes, counts=tuple(int(n) for n in counts), strip=strip)


def _fit_numbers(goal: Goal, columns: Sequence[Column], rows: np.ndarray, notes: Notes) -> FittedTarget | None:
    wrong = [column for column in columns if column.kind not in ("number", "tensor", "boolean") or (len(columns) > 1 and column.kind == "tensor")]
    for column in wrong:
        better = "logit_cross_entropy" if column.kind == "category" else None
        notes.problem(goal.pointer, "not_numbers", f"the target {column.name!r} is a {column.kind}, the loss needs numbers", better)
    if wrong:
        return None
    shape = columns[0].shape if len(columns) == 1 and columns[0].shape else (len(columns),)
    names = tuple(column.name for column in columns)
    classes = tuple(range(shape[-1])) if goal.classes and not goal.binary and shape[-1] > 1 else None
    if not goal.distance or any(column.array for column in columns):
        return FittedTarget(name=goal.name, columns=names, kind="number", shape=shape, classes=classes)
    values = np.stack([np.asarray(column.data[rows], np.float64) for column in columns], axis=1)
    std = values.std(axis=0)
    shift, scale = tuple(map(float, values.mean(axis=0))), tuple(map(float, np.where(std > 0, std, 1.0)))
    return FittedTarget(name=goal.name, columns=names, kind="number", shape=shape, shift=shift, scale=scale)


def check_part(fitted: FittedTarget, columns: Sequence[Column], rows: np.ndarray, part: str, pointer: str, notes: Notes) -> None:
    """Labels of another part: one that training has not is a problem, one that the part has not is a warning."""
    if fitted.kind != "class" or not len(rows):
        return
    classes = fitted.classes or ()
    if fitted.text:
        if new := unknown(code_points(columns[0]), [str(c) for c in classes]):
            notes.problem(pointer, "unseen_class", f"the {part} text has characters that training has not: {shown(new)}")
        return
    _, found, _ = classes_of(columns[0], rows, fitted.strip)
    known = {key(value) for value in classes}
    unseen = [value for value in found if key(value) not in known]
    if unseen:
        detail = f"the {part} rows have labels that training has not: {shown(unseen)}; training has {shown(classes)}"
        notes.problem(pointer, "unseen_class", detail, strip_suggestion(columns[0].name, unseen, known))
    missing = known - {key(value) for value in found}
    if missing and not unseen:
        notes.warn(pointer, "missing_class", f"the {part} rows have no {shown(tuple(c for c in classes if key(c) in missing))}")


def strip_suggestion(name: str, unseen: Sequence[Class], known: set[str]) -> str | None:
    """Preprocessing that would make the labels fit, where cutting characters off their ends does."""
    ends = {c for value in unseen for text in [str(value)] if text for c in (text[0], text[-1]) if c in string.punctuation or c.isspace()}
    for cut in [*sorted(ends), "".join(sorted(ends))]:
        cut_known = {key(value, cut) for value in known}
        if cut and len(cut_known) == len(known) and all(key(str(value), cut) in cut_known for value in unseen):
            return f'"preprocess": {{"{name}": {{"kind": "auto", "strip": "{cut}"}}}}'
    return None


def shown(values: Sequence[Class]) -> str:
    """Values in words, the first dozen of many."""
    text = ", ".join(repr(value) for value in values[:SHOWN])
    return text + (f" and {len(values) - SHOWN} more" if len(values) > SHOWN else "")
