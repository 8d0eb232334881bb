"""Which rows train, which validate, which test. Every choice is a function of the seed and the row, never of call order."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np


def shuffled(count: int, seed: int, purpose: str) -> np.ndarray:
    """int64 [count]: a permutation, from one Philox counter stream per (seed, purpose)."""
    generator = np.random.Philox(key=np.array([seed % 2**64, zlib.crc32(purpose.encode())], np.uint64))
    return np.argsort(generator.random_raw(count), kind="stable").astype(np.int64)


def last(rows: np.ndarray, size: int) -> np.ndarray:
    return rows[len(rows) - size:] if size else rows[:0]


def random(rows: np.ndarray, size: int, seed: int, purpose: str) -> np.ndarray:
    return np.sort(rows[shuffled(len(rows), seed, purpose)[:size]])


def stratified(rows: np.ndarray, size: int, labels: np.ndarray, seed: int, purpose: str) -> np.ndarray:
    """`size` of the rows with the shares that each label has among them; rounded by largest remainder. `labels` belongs to `rows`."""
    values, places, counts = np.unique(labels, return_inverse=True, return_counts=True)
    exact = counts * (size / max(1, len(rows)))
    take = np.floor(exact).astype(np.int64)
    take[np.argsort(take - exact, kind="stable")[: size - int(take.sum())]] += 1
    order = shuffled(len(rows), seed, purpose)
    chosen = [order[places[order] == place][: take[place]] for place in range(len(values))]
    return np.sort(rows[np.concatenate(chosen)]) if chosen else rows[:0]


def grouped(rows: np.ndarray, size: int, groups: np.ndarray, seed: int, purpose: str) -> np.ndarray:
    """Whole groups, taken in random order while they bring the part nearer to `size` rows. `groups` belongs to `rows`."""
    values, places, counts = np.unique(groups, return_inverse=True, return_counts=True)
    taken: list[int] = []
    total = 0
    for place in shuffled(len(values), seed, purpose):
        if abs(total + counts[place] - size) < abs(total - size) and len(taken) < len(values) - 1:
            taken.append(int(place))
            total += int(counts[place])
    return rows[np.isin(places, taken)]


def without(rows: np.ndarray, parts: Sequence[np.ndarray]) -> np.ndarray:
    """The rows that are in none of the parts, in order."""
    return np.setdiff1d(rows, np.concatenate(parts)) if parts else rows
