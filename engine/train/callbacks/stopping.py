"""Callbacks that end the run or an epoch, and the one that leaves out updates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from pydantic import model_validator

from engine.train.callbacks.actions import Action, RestoreBest, Scores, Skip, Stop
from engine.train.callbacks.callback import Amount, Callback, Count, Number, Positive, Runner, Waiting, callbacks, one_side, side


class EarlyStoppingRunner(Waiting):
    def after_epoch(self, values: Mapping[str, float], epoch: int, step: int, elapsed: float) -> Sequence[Action]:
        name = self.scores.watched(self.spec.monitor)
        value = values.get(name, float("nan"))
        if self.better(name, value, epoch, self.spec.min_delta) or self.waited < self.spec.patience:
            return ()
        stop = Stop("run", "early_stopping", name, value, self.best_epoch)
        return (RestoreBest(name), stop) if self.spec.restore_best and self.best_epoch is not None else (stop,)


@callbacks.add
class EarlyStopping(Callback):
    """Ends the run when a metric has not become better for a number of epochs.

    `monitor` is the job's where it is left out; `restore_best` gives the parameters their values of the best epoch.
    """

    monitor: str | None = None
    patience: Count = 5
    min_delta: Amount = 0.0
    restore_best: bool = True
    kind: Literal["early_stopping"] = "early_stopping"
    runner: ClassVar[type[Runner]] = EarlyStoppingRunner

    def reads(self) -> dict[str, str]:
        return {"monitor": self.monitor} if self.monitor else {}


def monitors(callbacks: Sequence[Callback], scores: Scores) -> list[str]:
    """The metrics whose best weights are kept: the job's, and those of callbacks that restore them."""
    restoring = [callback for callback in callbacks if isinstance(callback, EarlyStopping) and callback.restore_best]
    return list(dict.fromkeys([scores.monitor, *(scores.watched(callback.monitor) for callback in restoring)]))


class StopWhenRunner(Runner):
    def after_epoch(self, values: Mapping[str, float], epoch: int, step: int, elapsed: float) -> Sequence[Action]:
        return self._look(values, self.scores.full(self.spec.metric)) if self.spec.level == "run" else ()

    def after_steps(self, values: Mapping[str, float], epoch: int, step: int, elapsed: float) -> Sequence[Action]:
        """Within an epoch there are only its running means so far, `train_…`: a bare name means these."""
        if self.spec.level == "run":
            return ()
        return self._look(values, self.spec.metric if self.spec.metric in values else f"train_{self.spec.metric}")

    def steps_allowed(self, step: int) -> int | None:
        return 1 if self.spec.level == "epoch" else None

    def _look(self, values: Mapping[str, float], name: str) -> Sequence[Action]:
        value = values.get(name, float("nan"))
        return (Stop(self.spec.level, "stop_when", name, value),) if side(value, self.spec.above, self.spec.below) else ()


@callbacks.add
class StopWhen(Callback):
    """Ends the run, or with level "epoch" this epoch only, when a metric is above or below a value.

    The run's metrics are looked at after each epoch, an epoch's own, as they are so far, after each step.
    """

    metric: str
    above: Number | None = None
    below: Number | None = None
    level: Literal["run", "epoch"] = "run"
    kind: Literal["stop_when"] = "stop_when"
    runner: ClassVar[type[Runner]] = StopWhenRunner

    @model_validator(mode="after")
    def one_side(self) -> StopWhen:
        one_side(self.above, self.below)
        return self

    def reads(self) -> dict[str, str]:
        return {"metric": self.metric}


class SkipWhenRunner(Runner):
    def before_update(self, loss: float, step: int) -> Skip | None:
        return Skip() if loss > self.spec.above else None


@callbacks.add
class SkipWhen(Callback):
    """Makes no update in a step whose loss is above a value."""

    above: Number
    metric: Literal["loss"] = "loss"
    kind: Literal["skip_when"] = "skip_when"
    runner: ClassVar[type[Runner]] = SkipWhenRunner


class TimeLimitRunner(Runner):
    def after_steps(self, values: Mapping[str, float], epoch: int, step: int, elapsed: float) -> Sequence[Action]:
        return (Stop("run", "time_limit", value=elapsed),) if elapsed >= self.spec.seconds else ()

    after_epoch = after_steps


@callbacks.add
class TimeLimit(Callback):
    """Ends the run well after so many seconds of training, over all attempts."""

    seconds: Positive
    kind: Literal["time_limit"] = "time_limit"
    runner: ClassVar[type[Runner]] = TimeLimitRunner


class StepLimitRunner(Runner):
    def after_steps(self, values: Mapping[str, float], epoch: int, step: int, elapsed: float) -> Sequence[Action]:
        return (Stop("run", "step_limit", value=float(step)),) if step >= self.spec.steps else ()

    after_epoch = after_steps

    def steps_allowed(self, step: int) -> int | None:
        return max(0, self.spec.steps - step)


@callbacks.add
class StepLimit(Callback):
    """Ends the run well after so many updates."""

    steps: Count
    kind: Literal["step_limit"] = "step_limit"
    runner: ClassVar[type[Runner]] = StepLimitRunner
