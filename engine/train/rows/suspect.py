"""What is suspicious about a job's data: an input that is the target, rows that are in two parts, classes of which there are hardly any.

None of it stops a job. Rows are looked at, not learnt from; of large tables some stand for all.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.data.fit import Notes
from engine.data.fitted import Fitted, FittedTarget
from engine.data.reading import key
from engine.data.summary import hashes, joined, mixed
from engine.data.table import Column
from engine.data.target import MOST_CLASSES
from engine.data.windows import values_of
from engine.train.job_data import Data
from engine.train.rows.parts import PLACES, Part

MOST_ROWS = 50_000          # looked at for leaks
MOST_BYTES = 1 << 28        # of rows compared with each other; larger data is not
FEW_ROWS = 20               # fewer prove nothing
SAME = 1e-6                 # from a correlation of 1
SHARE = 0.01                # of a part that may be among the training rows by chance, where both are of one table
RATIO = 20                  # of the largest class to the smallest


def suspect(data: Data, fitted: Fitted, parts: dict[str, Part], weighted: bool, notes: Notes) -> None:
    """Warn of what looks like a mistake. `weighted`: the loss weighs its classes."""
    if data.windows is not None:
        return
    targets = [target for target in fitted.targets if target.columns]
    for target in targets:
        _leaks(fitted, target, parts["train"], notes)
        if not weighted and data.sampling != "balanced":
            _imbalance(target, notes)
    names = [*dict.fromkeys(column.name for column in fitted.columns), *(name for target in targets for name in target.columns)]
    _overlaps(names, parts, data, notes)


# ---------------------------------------------------------------- leaks

def _leaks(fitted: Fitted, target: FittedTarget, train: Part, notes: Notes) -> None:
    """Inputs that tell the target."""
    rows = train.rows[np.linspace(0, len(train.rows) - 1, min(len(train.rows), MOST_ROWS)).astype(np.int64)]
    if len(rows) < FEW_ROWS or len(target.columns) != 1:
        return
    truth = train.table.columns[target.columns[0]]
    if truth.shape or truth.kind == "text":
        return
    for name in dict.fromkeys(column.name for column in fitted.columns):
        column = train.table.columns[name]
        if name != truth.name and not column.shape and column.kind != "text" and (how := leak(column, truth, rows)):
            notes.warn("/data/inputs", "target_leak", f"column {name!r} {how} the target {truth.name!r}: leave it out ([\"*\", \"!{name}\"]) "
                                                      "unless it is known when the model is used")


def leak(column: Column, truth: Column, rows: np.ndarray) -> str | None:
    """How a column tells the target; None where it does not."""
    x, y = column.data[rows], truth.data[rows]
    if column.classes is None and truth.classes is None:
        known = np.isfinite(x) & np.isfinite(y) if x.dtype.kind == "f" or y.dtype.kind == "f" else np.ones(len(x), bool)
        x, y = x[known].astype(np.float64), y[known].astype(np.float64)
        if len(x) < FEW_ROWS:
            return None
        if np.array_equal(x, y) and x.min() < x.max():
            return "is equal to"
        with np.errstate(all="ignore"):
            x, y = x - x.mean(), y - y.mean()
            found = float((x * y).sum() / np.sqrt((x * x).sum() * (y * y).sum()))
        if abs(found) >= 1 - SAME:
            return f"has a correlation of {found:.6f} with"
    return "has one value for each value of" if bijective(values_of(column)[rows], values_of(truth)[rows]) else None


def bijective(x: np.ndarray, y: np.ndarray) -> bool:
    """Whether each value of one belongs to one value of the other, of a few."""
    values, places = np.unique(x, return_inverse=True)
    if not 2 <= len(values) <= min(MOST_CLASSES, len(x) // 4):
        return False
    others, other_places = np.unique(y, return_inverse=True)
    if len(others) != len(values):
        return False
    return len(np.unique(places.reshape(-1).astype(np.int64) * len(others) + other_places.reshape(-1))) == len(values)


# ---------------------------------------------------------------- classes

def _imbalance(target: FittedTarget, notes: Notes) -> None:
    if target.kind != "class" or not target.counts or sum(target.counts) < FEW_ROWS:
        return
    least, most = int(np.argmin(target.counts)), int(np.argmax(target.counts))
    if target.counts[most] >= RATIO * target.counts[least] and target.classes:
        detail = f"the class {target.classes[least]!r} has {target.counts[least]:,} training rows where {target.classes[most]!r} has"
        notes.warn("/data/target", "class_imbalance", f"{detail} {target.counts[most]:,}: \"class_weights\": \"balanced\" in the loss, or "
                                                      "\"sampling\": \"balanced\", makes them count alike")


# ---------------------------------------------------------------- overlap

def _overlaps(names: Sequence[str], parts: dict[str, Part], data: Data, notes: Notes) -> None:
    """Rows of validation and test that training has too."""
    others = {name: part for name, part in parts.items() if name != "train"}
    train = parts["train"]
    looked_at = [(part, [part.table.columns[name] for name in names if name in part.table.columns]) for part in parts.values()]
    if not others or sum(len(part.rows) * width(columns) for part, columns in looked_at) > MOST_BYTES:
        return
    known = np.unique(row_hashes(train, names))
    for name, part in others.items():
        if any(column not in part.table.columns for column in names):
            continue
        count, total = int(np.isin(row_hashes(part, names), known).sum()), len(part.rows)
        if count > (SHARE * total if part.table is train.table else 0):
            place = PLACES.get(name, name)
            pointer = data.others[name][1] if name in data.others else f"/data/{place}"
            notes.warn(pointer, "overlap", f"{count:,} of the {total:,} {place} rows are among the training rows too, inputs and target alike: "
                                           "they tell nothing about new data")


def width(columns: Sequence[Column]) -> int:
    """Bytes of a row, about."""
    return sum(column.data.dtype.itemsize * int(np.prod(column.shape, dtype=np.int64)) if column.kind != "text" else
               len(column.content if column.content is not None else ()) // max(1, column.rows) for column in columns)


def row_hashes(part: Part, names: Sequence[str]) -> np.ndarray:
    """uint64 [rows] of a part: equal rows, also of other tables, have equal hashes."""
    return joined([column_hashes(part.table.columns[name], part.rows) for name in names])


def column_hashes(column: Column, rows: np.ndarray) -> np.ndarray:
    if column.kind == "text":
        assert column.content is not None
        starts, ends = column.data[:-1][rows].tolist(), column.data[1:][rows].tolist()
        texts = (column.content[a:b].tobytes() for a, b in zip(starts, ends, strict=True))
        return np.fromiter((hash(text) & 0xFFFFFFFFFFFFFFFF for text in texts), np.uint64, len(rows))
    if column.classes is None:
        values = column.data[rows]
        return hashes(values if values.ndim > 1 else values.astype(np.float64))
    table = np.array([hash(key(value)) & 0xFFFFFFFFFFFFFFFF for value in column.classes] + [0], np.uint64)
    return mixed(table[column.data[rows]])      # a missing one, -1, is the last

