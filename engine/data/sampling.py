"""Splitting, resampling and encoding arrays, and small datasets to try things on. Rows are along the first axis; choices are functions of `seed`.

Data are an array, a tuple of arrays or a dict of arrays, and come back as what they were.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import numpy as np

from engine.data.loader import arrays, rows_of, take
from engine.data.permutation import permutation
from engine.errors import ShapeError, TrainyardError


def shuffle(data: Any, seed: int = 0) -> Any:
    """The rows in another order."""
    data = arrays(data)
    return take(data, permutation(rows_of(data), seed, 0))


def split(data: Any, at: float | int | Sequence[float | int] = 0.8, *, shuffle: bool = False, seed: int = 0) -> tuple[Any, ...]:
    """Parts of `at` (a share or a number of rows, or several) and one part with the rest.

    >>> [len(part) for part in split(np.arange(15), (0.2, 0.3))]
    [3, 4, 8]
    """
    data = arrays(data)
    rows = rows_of(data)
    order = permutation(rows, seed, 0) if shuffle else np.arange(rows)
    return tuple(take(data, part) for part in np.split(order, np.cumsum(_sizes(rows, at))))


def stratified(data: Any, labels: Any, at: float | Sequence[float] = 0.8, *, shuffle: bool = False, seed: int = 0) -> tuple[Any, ...]:
    """As `split`, with each label's rows split in the same shares. Rows stay in order, or each part is shuffled."""
    data = arrays(data)
    groups = [np.split(rows, np.cumsum(_sizes(len(rows), at))) for rows in _by_label(data, labels, seed if shuffle else None)]
    parts = [np.concatenate(part) for part in zip(*groups, strict=True)]
    return tuple(take(data, part[permutation(len(part), seed, 1)] if shuffle else np.sort(part)) for part in parts)


def _sizes(rows: int, at: float | int | Sequence[float | int]) -> list[int]:
    """Rows of each part but the last. Shares are of all rows, rounded half to even."""
    shares = at if isinstance(at, Sequence) else [at]
    for share in shares:
        if isinstance(share, float) and not 0 <= share <= 1:
            raise ValueError(f"a share lies in [0, 1], found {share}; give whole numbers for numbers of rows")
    sizes = [round(rows * share) if isinstance(share, float) else int(share) for share in shares]
    if sum(sizes) > rows or min(sizes, default=0) < 0:
        raise ShapeError(f"parts of {', '.join(map(str, sizes))} rows do not fit into {rows}")
    return sizes


def kfolds(data: Any, k: int = 5, *, shuffle: bool = False, seed: int = 0) -> list[tuple[Any, Any]]:
    """`k` pairs (train, validation): each row validates once. Folds are contiguous, the first ones a row longer where `k` does not divide."""
    data = arrays(data)
    rows = rows_of(data)
    if not 2 <= k <= rows:
        raise ValueError(f"k lies between 2 and the {rows} rows there are, found {k}")
    folds = np.array_split(permutation(rows, seed, 0) if shuffle else np.arange(rows), k)
    return [(take(data, np.concatenate([*folds[:i], *folds[i + 1:]])), take(data, folds[i])) for i in range(k)]


def oversample(data: Any, labels: Any, *, fraction: float = 1.0, shuffle: bool = True, seed: int = 0) -> tuple[Any, np.ndarray]:
    """Rows of rare labels repeated until each has `fraction` of the most frequent one's; with the labels that belong to them."""
    groups = _by_label(arrays(data), labels, None)
    least = int(np.ceil(fraction * max((len(rows) for rows in groups), default=0)))
    return _resampled(data, labels, [np.resize(rows, max(len(rows), least)) for rows in groups], shuffle, seed)


def undersample(data: Any, labels: Any, *, shuffle: bool = True, seed: int = 0) -> tuple[Any, np.ndarray]:
    """As many rows of each label as the rarest has, chosen by `seed`; with the labels that belong to them."""
    groups = _by_label(arrays(data), labels, seed)
    least = min((len(rows) for rows in groups), default=0)
    return _resampled(data, labels, [rows[:least] for rows in groups], shuffle, seed)


def _by_label(data: Any, labels: Any, seed: int | None) -> list[np.ndarray]:
    """The rows of each label, in order or shuffled."""
    rows = rows_of((*(data if isinstance(data, tuple) else data.values() if isinstance(data, dict) else (data,)), np.asarray(labels)))
    places = np.unique(np.asarray(labels), return_inverse=True)[1].reshape(rows)
    groups = [np.flatnonzero(places == place) for place in range(int(places.max(initial=-1)) + 1)]
    return groups if seed is None else [rows[permutation(len(rows), seed, 2 + i)] for i, rows in enumerate(groups)]


def _resampled(data: Any, labels: Any, groups: Sequence[np.ndarray], shuffle: bool, seed: int) -> tuple[Any, np.ndarray]:
    rows = np.concatenate(groups) if groups else np.zeros(0, np.int64)
    rows = rows[permutation(len(rows), seed, 1)] if shuffle else np.sort(rows)
    return take(arrays(data), rows), np.asarray(labels)[rows]


def one_hot(labels: Any, classes: int | Iterable[Hashable] | None = None, *, default: Hashable | None = None, dtype: str = "float32") -> np.ndarray:
    """Rows of zeros with a one at the label's class, on a new last axis.

    `classes`: how many (labels are class numbers), or the labels themselves in order; by default those that occur, sorted. A label that is none of
    them becomes `default`, or is refused.
    """
    found = np.asarray(labels)
    names = list(range(classes)) if isinstance(classes, int) else np.unique(found).tolist() if classes is None else list(classes)
    places = {name: place for place, name in enumerate(names)}
    unknown = None if default is None else places[default]
    codes = [places.get(label, unknown) for label in found.ravel().tolist()]
    if None in codes:
        wrong = found.ravel().tolist()[codes.index(None)]
        raise TrainyardError(f"the label {wrong!r} is none of the {len(names)} classes; give a default for unknown ones")
    return np.eye(len(names), dtype=dtype)[np.array(codes, np.int64).reshape(found.shape)]


def one_cold(y: Any, classes: Sequence[Any] | None = None) -> np.ndarray:
    """The class of the largest number along the last axis: its number, or its label. Raises TrainyardError where that is NaN."""
    y = np.asarray(y)
    if classes is not None and len(classes) != y.shape[-1]:
        raise ShapeError(f"{len(classes)} labels for {y.shape[-1]} classes")
    if np.isnan(y).any():
        raise TrainyardError("there is NaN among the numbers whose largest is asked for")
    codes = y.argmax(-1)
    return codes if classes is None else np.asarray(list(classes))[codes]


def normalise(x: Any, axis: int | tuple[int, ...] | None = 0, epsilon: float = 1e-5) -> np.ndarray:
    """(x - mean) / (standard deviation + epsilon), both along `axis`: over the rows, by default."""
    x = np.asarray(x)
    return (x - x.mean(axis, keepdims=True)) / (x.std(axis, keepdims=True) + np.asarray(epsilon, x.dtype if x.dtype.kind == "f" else "float64"))


def make_sin(rows: int = 100, noise: float = 0.3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """x [rows, 1] from 0 to 2 pi and y = sin(x) with normal noise [rows, 1], float32."""
    x = np.linspace(0, 2 * np.pi, rows)[:, None]
    return x.astype(np.float32), (np.sin(x) + noise * _normal(x.shape, seed)).astype(np.float32)


def make_moons(rows: int = 100, noise: float = 0.1, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two half circles, each reaching into the other: points [rows, 2] float32 and labels [rows] int32."""
    upper = rows // 2
    t = np.concatenate([np.linspace(0, np.pi, upper), np.linspace(0, np.pi, rows - upper)])
    label = np.arange(rows) >= upper
    points = np.stack([np.where(label, 1 - np.cos(t), np.cos(t)), np.where(label, 0.5 - np.sin(t), np.sin(t))], -1)
    return _mixed(points, label, noise, seed)


def make_spiral(rows: int = 100, noise: float = 0.01, turns: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two Archimedean spirals, one turned by half a circle: points [rows, 2] float32 and labels [rows] int32."""
    first = rows // 2
    t = np.sqrt(np.concatenate([np.linspace(0, 1, first), np.linspace(0, 1, rows - first)])) * 2 * np.pi * turns
    label = np.arange(rows) >= first
    points = np.where(label, -1.0, 1.0)[:, None] * np.stack([t * np.cos(t), t * np.sin(t)], -1)
    return _mixed(points, label, noise, seed)


def _mixed(points: np.ndarray, label: np.ndarray, noise: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    order = permutation(len(points), seed, 0)
    return (points + noise * _normal(points.shape, seed))[order].astype(np.float32), label[order].astype(np.int32)


def _normal(shape: tuple[int, ...], seed: int) -> np.ndarray:
    return np.random.Generator(np.random.Philox(seed)).standard_normal(shape)
