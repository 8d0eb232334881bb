"""A schedule that looks at a score instead of a count."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from engine.autodiff.tree import leaves


class Plateau:
    """A callback of `train` that multiplies all learning rates of a state by `factor` when a score has not fallen for `patience` epochs.

    state              what `setup` made, or a part of it
    score              of an event of the epoch's end: its loss, where left out
    min_delta          a score is better if it is lower than the best by more than this
    cooldown           epochs after a reduction that do not count
    min_learning_rate  below which no rate falls

    What it remembers can be saved: `plateau.state()`, `plateau.restore(...)`.
    """

    at = "epoch"

    def __init__(self, state: Any, factor: float = 0.1, patience: int = 5, *, score: Callable[[Any], float] = lambda event: event.loss,
                 min_delta: float = 1e-4, cooldown: int = 0, min_learning_rate: float = 0.0):
        self.leaves = list({id(leaf): leaf for _, leaf in leaves(state) if leaf is not None}.values())
        self.factor, self.patience, self.score = factor, patience, score
        self.min_delta, self.cooldown, self.min_learning_rate = min_delta, cooldown, min_learning_rate
        self.best, self.waited, self.resting = math.inf, 0, 0

    def __call__(self, event: Any) -> None:
        score = float(self.score(event))
        better = score < self.best - self.min_delta
        self.best = score if better else self.best
        self.waited = 0 if better else self.waited + 1
        if self.resting:
            self.resting, self.waited = self.resting - 1, 0
        if self.waited >= self.patience:
            self.resting, self.waited = self.cooldown, 0
            for leaf in self.leaves:
                leaf.steps = tuple(map(self._slowed, leaf.steps))

    def _slowed(self, step: Any) -> Any:
        rate = getattr(step, "learning_rate", None)
        return step if rate is None else step.adjusted({"learning_rate": min(rate, max(rate * self.factor, self.min_learning_rate))})

    def state(self) -> dict[str, Any]:
        return {"best": self.best, "waited": self.waited, "resting": self.resting}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.best, self.waited, self.resting = state["best"], state["waited"], state["resting"]
