"""The best weights so far, by one metric."""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.devices.session import Session
from engine.train.callbacks.actions import Scores
from engine.train.run.checkpoint import Checkpoint, numbers, written


class Best:
    """A copy of parameters and buffers as they were after the epoch whose `monitor` was best. `label` is its name in checkpoints."""

    def __init__(self, session: Session, monitor: str, scores: Scores):
        self.session, self.monitor, self.maximise = session, monitor, scores.maximise.get(monitor, False)
        self.label = "best" if monitor == scores.monitor else f"best_{monitor}"
        self.value: float | None = None
        self.epoch: int | None = None
        self.metrics: dict[str, float] = {}
        self.kept: dict[str, np.ndarray] = {}

    def _live(self) -> dict[str, np.ndarray]:
        groups = {self.label: self.session.evaluated, f"{self.label}_buffers": self.session.buffers}
        return {f"{group}/{path}": array for group, arrays in groups.items() for path, array in arrays.items()}

    def look(self, values: dict[str, float], epoch: int) -> bool:
        """Whether this epoch is the best so far; then its weights are kept."""
        value = values.get(self.monitor, float("nan"))
        if np.isnan(value) or (self.value is not None and (value <= self.value if self.maximise else value >= self.value)):
            return False
        self.value, self.epoch, self.metrics = value, epoch, dict(values)
        self.kept = {name: array.copy() for name, array in self._live().items()}
        return True

    def restore(self) -> None:
        """Give the parameters and buffers the values of the best epoch."""
        for name, array in self._live().items():
            if name in self.kept:
                array[...] = self.kept[name]
        for path in self.session.program.averages:
            self.session.parameters[path][...] = self.session.evaluated[path]

    def state(self) -> dict[str, Any]:
        return {"value": self.value, "epoch": self.epoch, "metrics": written(self.metrics)}

    def load(self, checkpoint: Checkpoint) -> None:
        state = checkpoint.meta[self.label]
        self.value, self.epoch = state["value"], state["epoch"]
        self.metrics = numbers(state["metrics"])
        self.kept = {name: array.copy() for name, array in checkpoint.arrays.items() if name.startswith((f"{self.label}/", f"{self.label}_buffers/"))}
