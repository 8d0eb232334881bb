"""Runs that end badly: what went wrong, in words, and what to try."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from engine.train.expression import FORMULA
from engine.train.job import Limits
from engine.train.run.events import Event, number


@dataclass(frozen=True)
class Trouble:
    """A loss or gradient that is not finite. `layer` says where the first such value came from, if that was found."""

    epoch: int
    step: int
    value: float
    action: str
    layer: str | None

    @property
    def sentence(self) -> str:
        loss = "The loss became NaN" if math.isnan(self.value) else "The loss became infinite"
        what = "The gradient became NaN or infinite" if math.isfinite(self.value) else loss
        return f"{what} in epoch {self.epoch}, step {self.step}."

    def event(self, times: int = 0) -> Event:
        """`times` tells one from another where a step may be tried again."""
        data = {"epoch": self.epoch, "step": self.step, "value": self.value, "action": self.action} | ({"layer": self.layer} if self.layer else {})
        return Event("nonfinite", self.sentence, data, level="warn", key=f"nonfinite:{self.step}" + (f":{times}" if times else ""))


def explained(reason: str, limits: Limits, trouble: Trouble | None, learning_rate: float) -> dict[str, Any]:
    """The job's `error` without its epoch and step, and a `hint`."""
    if reason == "time_limit":
        return _error("timeout", reason, f"The job took longer than {number(limits.max_seconds)} seconds.",
                      "Raise limits.max_seconds, or use the callback time_limit to end well.")
    if reason == "step_limit" or trouble is None:
        return _error("user", reason, f"The job needs more than {limits.max_steps} steps.",
                      "Raise limits.max_steps, or use the callback step_limit to end well.")
    first = f"First non-finite value: {trouble.layer}. " if trouble.layer else ""
    hint = f"{first}Try learning_rate {number(learning_rate / 10)} (now {number(learning_rate)}) or clip_global_norm."
    of_loss = {"pointer": "/loss"} if trouble.layer and FORMULA in trouble.layer else {}
    return _error("user", reason, trouble.sentence, hint) | ({"layer": trouble.layer} if trouble.layer else {}) | of_loss


def _error(kind: str, code: str, message: str, hint: str) -> dict[str, Any]:
    return {"kind": kind, "code": code, "message": message, "hint": hint, "retryable": False}
