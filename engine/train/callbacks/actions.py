"""What callbacks ask the training loop to do, and the names of the numbers they look at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

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
    """Give the parameters the values that they had after the best epoch, as a metric judges it."""

    monitor: str


@dataclass(frozen=True)
class KeepCheckpoint:
    """Write a checkpoint now, and keep it as long as the callback wants it."""


@dataclass(frozen=True)
class Skip:
    """Leave parameters and optimiser state as they are for this step."""


@dataclass(frozen=True)
class Rollback:
    """Go back to the beginning of the epoch and multiply the learning rate by `factor`."""

    factor: float


@dataclass(frozen=True)
class Change:
    """Change what may change while a run goes on; what is left out stays. `by` is who asked: a callback's kind, or "user".

    values         hyper-parameters by name
    factor, floor  learning rates are multiplied by `factor`, but become no less than `floor`
    freeze, thaw   path patterns of what is trained no longer, and again
    replace        path patterns of what gets new values, from `init`
    epochs         how many there are, in all
    """

    by: str
    values: Mapping[str, float] = field(default_factory=dict)
    factor: float = 1.0
    floor: float = 0.0
    freeze: tuple[str, ...] = ()
    thaw: tuple[str, ...] = ()
    replace: tuple[str, ...] = ()
    init: Any = None
    epochs: int | None = None


Action = Stop | RestoreBest | KeepCheckpoint | Skip | Rollback | Change


@dataclass(frozen=True)
class Scores:
    """The numbers that an `epoch` event will have, and which of them are better when larger."""

    maximise: Mapping[str, bool]
    validation: bool
    monitor: str = "train_loss"     # decides which epoch is best

    def watched(self, name: str | None) -> str:
        """What a callback with this `monitor` watches: the job's where it has none."""
        return self.full(name) if name else self.monitor

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
