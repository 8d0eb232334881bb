"""What is told of a column, from its rows some at a time and in little memory: gaps, extremes, moments, how many values there are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

MOST_DISTINCT = 1 << 20     # values remembered of a column
SHOWN_CLASSES = 1000
_ODD, _PRIME, _STEP = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F), np.uint64(0x100000001B3)


def mixed(bits: np.ndarray) -> np.ndarray:
    """64-bit hashes of 64-bit values: each bit of a value changes all of its hash."""
    found = bits * _ODD
    found ^= found >> np.uint64(29)
    found *= _PRIME
    found ^= found >> np.uint64(32)
    return found


def hashes(block: np.ndarray) -> np.ndarray:
    """uint64 [rows]: equal rows of one dtype have equal hashes. Missing values are equal, 0.0 and -0.0 too."""
    if block.ndim > 1 and block[0].nbytes >= 64:
        return np.fromiter((hash(row.tobytes()) & 0xFFFFFFFFFFFFFFFF for row in block), np.uint64, len(block))
    if block.dtype.kind == "f":
        block = np.where(np.isnan(block), np.nan, block.astype(np.float64) + 0.0)
    bits = np.ascontiguousarray(block.astype(np.int64) if block.dtype.kind != "f" else block).view(np.uint64)
    return joined([mixed(part) for part in bits.reshape(len(bits), -1).T])


def text_hashes(offsets: np.ndarray, content: np.ndarray) -> np.ndarray:
    """uint64 [texts] of the UTF-8 bytes between offsets (which begin at 0)."""
    data = content.tobytes()
    ends = offsets.tolist()
    return np.fromiter((hash(data[a:b]) & 0xFFFFFFFFFFFFFFFF for a, b in pairwise(ends)), np.uint64, len(ends) - 1)


def joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    """The hashes of rows that have several parts, in order."""
    found = parts[0].copy()
    for part in parts[1:]:
        found *= _STEP
        found ^= part
        found *= _ODD
    return found


class Distinct:
    """How many different values there are, and how many of them come again.

    At most `most` hashes are remembered: when there are more, only those below a limit, which is halved as often as needed. All copies of a value
    have one hash, so what is remembered is a fair sample of the values with all their copies.
    """

    def __init__(self, most: int = MOST_DISTINCT):
        self.most, self.halvings = max(most, 256), 0
        self.values, self.counts = np.zeros(0, np.uint64), np.zeros(0, np.int64)
        self._waiting: list[np.ndarray] = []
        self._waits = 0

    def see(self, found: np.ndarray) -> None:
        if self.halvings:
            found = found[found >> np.uint64(64 - self.halvings) == 0]
        self._waiting.append(found)
        self._waits += len(found)
        if self._waits >= self.most:
            self._settle()

    def _settle(self) -> None:
        if not self._waits:
            return
        fresh, counts = np.unique(np.concatenate(self._waiting), return_counts=True)
        self._waiting, self._waits = [], 0
        self.values, places = np.unique(np.concatenate([self.values, fresh]), return_inverse=True)
        self.counts = np.bincount(places.reshape(-1), np.concatenate([self.counts, counts]), len(self.values)).astype(np.int64)
        while len(self.values) > self.most:
            self.halvings += 1
            kept = int(np.searchsorted(self.values, np.uint64(1 << (64 - self.halvings))))
            self.values, self.counts = self.values[:kept], self.counts[:kept]

    @property
    def exact(self) -> bool:
        """Whether all values are remembered."""
        self._settle()
        return not self.halvings

    @property
    def count(self) -> int:
        """Different values: exact, or an estimate."""
        self._settle()
        return len(self.values) << self.halvings

    @property
    def repeated(self) -> float:
        """The share of values that are copies of another one, 0 to 1."""
        self._settle()
        total = int(self.counts.sum())
        return 1 - len(self.values) / total if total else 0.0


class Summary:
    """One column of numbers, of classes or of texts (`dtype` utf8; told their lengths and hashes): `see` its rows in order, then ask `about` them."""

    def __init__(self, name: str, kind: str, dtype: str, shape: Sequence[int], classes: Sequence[Any] | None = None, most: int = MOST_DISTINCT):
        self.about_it: dict[str, Any] = {"name": name, "kind": kind, "dtype": dtype, "shape": list(shape)}
        self.classes = classes
        self.distinct = Distinct(most) if classes is None and not shape else None
        self.rows = self.missing = self.count = 0
        self.mean = self.spread = 0.0
        self.low, self.high = math.inf, -math.inf
        self.counts = np.zeros(0 if classes is None else len(classes) + 1, np.int64)
        self.whole = self.rising = True
        self._last = -math.inf

    def see(self, block: np.ndarray, found: np.ndarray | None = None) -> None:
        """Rows in order; `found` are their hashes, where they are known already. Texts come as their lengths."""
        self.rows += len(block)
        if self.about_it["kind"] == "text":
            self.missing += int(np.count_nonzero(block == 0))
            if self.distinct is not None and found is not None:
                self.distinct.see(found[block > 0])
        elif self.classes is not None:
            self.counts += np.bincount(block + 1, minlength=len(self.counts))
        else:
            self._numbers(block, found)

    def _numbers(self, block: np.ndarray, found: np.ndarray | None) -> None:
        """Moments by Chan's formula."""
        with np.errstate(over="ignore", invalid="ignore"):
            values = block.astype(np.float64, copy=False).ravel()
            absent = np.isnan(values)
            self.missing += int(np.count_nonzero(absent))
            if self.distinct is not None:
                found = hashes(block) if found is None else found
                self.distinct.see(found[~absent] if absent.any() else found)
            values = values[np.isfinite(values)]
            if not len(values):
                return
            centre, n = float(values.mean()), len(values)
            shift = centre - self.mean
            self.spread += float(((values - centre) ** 2).sum()) + shift * shift * self.count * n / (self.count + n)
            self.mean += shift * n / (self.count + n)
            self.count, self.low, self.high = self.count + n, min(self.low, float(values.min())), max(self.high, float(values.max()))
            if self.distinct is not None and self.whole:
                self.whole = bool((np.mod(values, 1) == 0).all())
                self.rising = self.rising and values[0] > self._last and bool((values[1:] > values[:-1]).all())
                self._last = float(values[-1])

    def about(self) -> dict[str, Any]:
        """What the Dataset JSON says of the column."""
        if self.about_it["kind"] == "text":
            return {**self.about_it, "missing": self.missing}
        if self.classes is not None:
            found = {**self.about_it, "missing": int(self.counts[0]), "unique": int(np.count_nonzero(self.counts[1:]))}
            return found | ({"classes": list(self.classes)} if len(self.classes) <= SHOWN_CLASSES else {})
        found = {**self.about_it, "missing": self.missing}
        if self.distinct is not None and self.distinct.exact:
            found["unique"] = self.distinct.count
        std = math.sqrt(self.spread / self.count) if self.count and math.isfinite(self.spread) else math.nan
        moments = {"min": self.low, "max": self.high, "mean": self.mean if self.count else math.nan, "std": std}
        return found | {name: value for name, value in moments.items() if math.isfinite(value)}
