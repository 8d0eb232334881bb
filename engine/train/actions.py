"""What callbacks ask the training loop to do, and the names of the numbers they look at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from engine.errors import Problem, nearest
from engine.spec import FOREIGN_NAMES


@dataclass(frozen=True)
class Stop:
    """End the epoch or the run. `reason` is the job's status_reason; the rest is the data of the `stopped_early` event."""

    level: Literal["epoch", "run"]
    reason: str
    metric: str | None = None
    value: float | None = None
    best_epoch: int | None = None
    failed: bool = False    # the run ended badly


@dataclass(frozen=True)
class RestoreBest:
    """Give the parameters the values of the best epoch, as the job's `monitor` judges it."""


@dataclass(frozen=True)
class KeepCheckpoint:
    """Write a checkpoint now and keep it, beside the `keep_last` newest and the `keep_best` best of them."""

    keep_last: int
    keep_best: int


@dataclass(frozen=True)
class Skip:
    """Leave parameters and optimiser state as they are for this step."""


@dataclass(frozen=True)
class Rollback:
    """Go back to the last checkpoint and multiply the learning rate by `factor`."""

    factor: float


Action = Stop | RestoreBest | KeepCheckpoint | Skip | Rollback


@dataclass(frozen=True)
class Scores:
    """The numbers that an `epoch` event will have, and which of them are better when larger."""

    maximise: Mapping[str, bool]
    validation: bool

    def full(self, name: str) -> str:
        """A bare name means `valid_…` where there is validation, else `train_…`."""
        if name in self.maximise:
            return name
        return f"{'valid' if self.validation else 'train'}_{name}"

    def problem(self, name: str, pointer: str) -> Problem | None:
        if self.full(name) in self.maximise:
            return None
        known = list(self.maximise)
        bare = {n.split("_", 1)[1] for n in known}
        near = FOREIGN_NAMES.get(name) or nearest(name, [*known, *bare])
        return Problem(pointer, "unknown_metric", f"there is no metric {name!r} in this job; it has {', '.join(known)}", near)
