"""What every callback is: a spec, and a small machine that runs it and goes into checkpoints.

The loop asks, in this order:

    before_epoch(epoch, step)                     as an epoch begins: actions
    before_update(loss, step)                     before the update of a step: `Skip` where it must not be made
    nonfinite(step)                               after a loss or gradient that is not finite: `Skip`, `Stop` or `Rollback`
    after_steps(values, epoch, step, elapsed)     whenever the compiled loop returns: actions that end an epoch or the run in between
    after_epoch(values, epoch, step, elapsed)     with the values of the `epoch` event: actions, in the order of the callbacks

`steps_allowed(step)` says after how many more steps the loop must come back. `elapsed` is seconds of training over all attempts.
`state()` is JSON, `restore(state)` takes it back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar

from pydantic import Field

from engine.spec import Family, Spec
from engine.train.callbacks.actions import Action, Scores, Skip

callbacks = Family("callback", {"earlystopping": "early_stopping", "patience": "early_stopping", "model_checkpoint": "checkpoint",
                                "nan": "on_nonfinite", "terminate_on_nan": "on_nonfinite", "reduce_lr_on_plateau": "reduce_on_plateau",
                                "plateau": "reduce_on_plateau", "unfreeze": "thaw", "adjust_learning_rate": "adjust", "remote_monitor": "webhook"})
Count = Annotated[int, Field(strict=True, ge=1)]
Number = Annotated[float, Field(strict=True)]
Amount = Annotated[float, Field(strict=True, ge=0)]
Positive = Annotated[float, Field(strict=True, gt=0)]


class Runner:
    """The running state of one callback; `remembered` are the attributes that it consists of."""

    remembered: tuple[str, ...] = ()

    def __init__(self, spec: Any, scores: Scores):
        self.spec, self.scores = spec, scores

    def before_epoch(self, epoch: int, step: int) -> Sequence[Action]:
        return ()

    def before_update(self, loss: float, step: int) -> Skip | None:
        return None

    def nonfinite(self, step: int) -> Action | None:
        return None

    def after_steps(self, values: Mapping[str, float], epoch: int, step: int, elapsed: float) -> Sequence[Action]:
        return ()

    def after_epoch(self, values: Mapping[str, float], epoch: int, step: int, elapsed: float) -> Sequence[Action]:
        return ()

    def steps_allowed(self, step: int) -> int | None:
        return None

    def keeps(self) -> Iterable[int]:
        """The steps of the checkpoints that it wants to stay."""
        return ()

    def state(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.remembered}

    def restore(self, state: Mapping[str, Any]) -> None:
        for name in self.remembered:
            setattr(self, name, state[name])


class Callback(Spec):
    """What every callback has: a machine that runs it, and the metrics that it reads."""

    runner: ClassVar[type[Runner]] = Runner

    def start(self, scores: Scores) -> Runner:
        return self.runner(self, scores)

    def reads(self) -> dict[str, str]:
        """The metrics it reads, by the place of the field that names them ("when/metric")."""
        return {}


class Waiting(Runner):
    """Counts the epochs since a metric was best. A NaN is never better."""

    remembered = ("best", "best_epoch", "waited")
    best: float | None = None
    best_epoch: int | None = None
    waited: int = 0

    def better(self, name: str, value: float, epoch: int, min_delta: float) -> bool:
        """Whether the metric is better than ever, by more than `min_delta`; if not, this epoch is one more in vain."""
        gain = 0.0 if self.best is None else value - self.best if self.scores.maximise.get(name, False) else self.best - value
        if value == value and (self.best is None or gain > min_delta):
            self.best, self.best_epoch, self.waited = value, epoch, 0
            return True
        self.waited += 1
        return False


def side(value: float, above: float | None, below: float | None) -> bool:
    """Whether a value is above or below what is asked for."""
    return (above is not None and value > above) or (below is not None and value < below)


def one_side(above: float | None, below: float | None) -> None:
    if (above is None) == (below is None):
        raise ValueError("give either 'above' or 'below'")
