"""The numbers of each step since they were last told."""

from __future__ import annotations

import numpy as np


class Series:
    """Collects loss and gradient norm per step."""

    def __init__(self) -> None:
        self.parts: list[tuple[int, np.ndarray]] = []

    def add(self, before: int, values: np.ndarray) -> None:
        """`values` [steps, 2] of the steps after step `before`."""
        if len(values):
            self.parts.append((before, values))

    def take(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """The series so far, by name: (steps from 1, values); the collection is empty afterwards."""
        if not self.parts:
            return {}
        steps = np.concatenate([before + 1 + np.arange(len(values)) for before, values in self.parts])
        values = np.concatenate([values for _, values in self.parts])
        self.parts = []
        return {"loss": (steps, values[:, 0].copy()), "gradient_norm": (steps, values[:, 1].copy())}
