"""How an op is tested: samples of inputs, cases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from engine.core.shape import Shape


@dataclass(frozen=True)
class Sample:
    """How a test makes one input: uniform in [low, high), farther than 0.05 from every value of `avoid` (kinks, poles).

    `dtype` "float" stands for the float type under test; an integer type draws whole numbers.
    """

    shape: Shape
    low: float = -2.0
    high: float = 2.0
    dtype: str = "float"
    avoid: tuple[float, ...] = ()
    distinct: bool = False

    def array(self, rng: np.random.Generator, dtype: str = "float64") -> np.ndarray:
        if self.dtype != "float":
            return rng.integers(int(self.low), int(self.high), self.shape).astype(self.dtype)
        if self.distinct:
            count = int(np.prod(self.shape))
            return rng.permutation(np.linspace(self.low, self.high, count)).reshape(self.shape).astype(dtype)
        x = rng.uniform(self.low, self.high, self.shape)
        for point in self.avoid:
            near = np.abs(x - point) < 0.05
            x = np.where(near, point + np.where(x < point, -0.05, 0.05) * 2, x)
        return x.astype(dtype)


@dataclass(frozen=True)
class Case:
    """One set of inputs and attributes on which an op is checked: against its oracle, and its derivatives against differences."""

    name: str
    inputs: tuple[Sample, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    gradient: bool = True   # False where the op is not smooth on this case
