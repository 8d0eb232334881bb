"""The workloads: a multilayer perceptron each, its batch size, its data and its initial weights, the same for everyone who runs it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Workload:
    """`sizes` of the layers, input first; relu between them; softmax cross-entropy; Adam at 0.001.

    Enough rows that the first 100 steps see few of them twice: memorised noise would make losses differ by rounding alone.
    """

    name: str
    sizes: tuple[int, ...]
    batch: int
    rows: int
    steps: int      # steps per measurement, a few tenths of a second

    def data(self) -> dict[str, np.ndarray]:
        """Rows x [rows, features], classes y, and weights w0, b0, w1, ... [in, out]."""
        rng = np.random.default_rng(7)
        arrays = {"x": rng.standard_normal((self.rows, self.sizes[0])).astype(np.float32),
                  "y": rng.integers(0, self.sizes[-1], self.rows).astype(np.int32)}
        for i, (fan_in, fan_out) in enumerate(zip(self.sizes, self.sizes[1:], strict=False)):
            arrays[f"w{i}"] = (rng.standard_normal((fan_in, fan_out)) * np.sqrt(2 / fan_in)).astype(np.float32)
            arrays[f"b{i}"] = np.zeros(fan_out, np.float32)
        return arrays

    def save(self, folder: Path) -> Path:
        path = folder / f"{self.name}.npz"
        np.savez(path, **self.data())  # type: ignore[arg-type]
        return path


WORKLOADS = {w.name: w for w in (
    Workload("W1", (16, 32, 3), 32, 32 * 64, 20_000),
    Workload("W2", (64, 128, 10), 32, 32 * 64, 8_000),
    Workload("W3", (784, 128, 10), 64, 64 * 64, 1_000),
    Workload("W4", (784, 512, 512, 10), 128, 128 * 104, 104),
    Workload("W9", (64, 100, 10), 200, 1600, 4_000),
)}
