"""Graphs at work on batches, outside of a run: for predictions and evaluations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from engine.core import Node, evaluate

CHUNK = 1024    # rows computed at once
Arrays = dict[str, np.ndarray]


@dataclass
class Bound:
    """A graph whose parameters have values: batch leaves go in, results by name come out."""

    batch: Mapping[str, Node]
    results: Mapping[str, Node]

    def run(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        for name, node in self.batch.items():
            node.value = arrays[name]
        for node in self.results.values():
            node.value = None
        evaluate(list(self.results.values()))
        return {name: np.array(node.value) for name, node in self.results.items()}


@dataclass
class Machine:
    """Runs a graph over any number of rows, some at a time. `make` gives the bound graph of a number of rows; graphs are kept."""

    make: Callable[[int], Bound]
    kept: dict[int, Bound] = field(default_factory=dict)

    def run(self, rows: np.ndarray, gather: Callable[[np.ndarray], Arrays], length: int = 1) -> Iterator[tuple[Arrays, Arrays]]:
        """(batch, results) of each chunk; fewer rows at once where each stands for a window of a `length`."""
        size = max(1, CHUNK // length)
        for start in range(0, len(rows), size):
            chunk = rows[start:start + size]
            if len(chunk) not in self.kept:
                if len(self.kept) >= 16:
                    self.kept.pop(next(iter(self.kept)))
                self.kept[len(chunk)] = self.make(len(chunk))
            batch = gather(chunk)
            yield batch, self.kept[len(chunk)].run(batch)
