"""Callbacks: what may stop, skip or keep something of a run. Each is a spec; its running state is a small machine that goes into checkpoints.

The loop asks, in this order:

    before_update(loss, step)                     before the update of a step: `Skip` where it must not be made
    nonfinite(step)                               after a loss or gradient that is not finite: `Skip`, `Stop` or `Rollback`
    after_steps(values, epoch, step, elapsed)     whenever the compiled loop returns: actions that end an epoch or the run in between
    after_epoch(values, epoch, step, elapsed)     with the values of the `epoch` event: actions, in the order of the callbacks

`steps_allowed(step)` says after how many more steps the loop must come back. `elapsed` is seconds of training over all attempts.
`state()` is JSON, `restore(state)` takes it back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from engine.spec import Family, Spec
from engine.train.actions import Action, KeepCheckpoint, RestoreBest, Rollback, Scores, Skip, Stop

callbacks = Family("callback", {"earlystopping": "early_stopping", "patience": "early_stopping", "model_checkpoint": "checkpoint",
                                "nan": "on_nonfinite", "terminate_on_nan": "on_nonfinite"})
Count = Annotated[int, Field(strict=True, ge=1)]
Number = Annotated[float, Field(strict=True)]
Positive = Annotated[float, Field(strict=True, gt=0)]


class Runner:
    """The running state of one callback."""

    def __init__(self, spec: Any, scores: Scores):
        self.spec, self.scores = spec, scores

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

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)


class Callback(Spec):
    """What every callback has: a machine that runs it, and the metrics that it reads."""

    runner: ClassVar[type[Runner]] = Runner

    def start(self, scores: Scores) -> Runner:
        return self.runner(self, scores)

    def reads(self) -> dict[str, str]:
        """The metrics it reads, by the field that names them."""
        return {}


# ---------------------------------------------------------------- the callbacks

class EarlyStoppingRunner(Runner):
    best: float | None = None
    best_epoch: int | None = None
    waited: int = 0

    def after_epoch(self, values: Mapping[str, float], epoch: int, step: int, elapsed: float) -> Sequence[Action]:
        name = self.scores.full(self.spec.monitor or "loss")
        value = values.get(name, float("nan"))
        if self._better(value, self.scores.maximise.get(name, False)):
            self.best, self.best_epoch, self.waited = value, epoch, 0
            return ()
        self.waited += 1
        if self.waited < self.spec.patience:
            return ()
        stop = Stop("run", "early_stopping", name, value, self.best_epoch)
        return (RestoreBest(), stop) if self.spec.restore_best and self.best_epoch is not None else (stop,)

    def _better(self, value: float, maximise: bool) -> bool:
        """A NaN is never better: comparisons with it are false."""
        if self.best is None:
            return value == value
        return value > self.best + self.spec.min_delta if maximise else value < self.best - self.spec.min_delta

    def state(self) -> dict[str, Any]:
        return {"best": self.best, "best_epoch": self.best_epoch, "waited": self.waited}


@callbacks.add
class EarlyStopping(Callback):
    """Ends the run when a metric has not become better for a number of epochs.

    `monitor` is the job's where it is left out; `restore_best` gives the parameters their values of the best epoch.
    """

    monitor: str | None = None
    patience: Count = 5
    min_delta: Annotated[float, Field(strict=True, ge=0)] = 0.0
    restore_best: bool = True
    kind: Literal["early_stopping"] = "early_stopping"
    runner: ClassVar[type[Runner]] = EarlyStoppingRunner

    def reads(self) -> dict[str, str]:
        return {"monitor": self.monitor} if self.monitor else {}


class StopWhenRunner(Runner):
    def after_epoch(self, values: Mapping[str, float], epoch: int, step: int, elapsed: float) -> Sequence[Action]:
        return self._look(values, self.scores.full(self.spec.metric)) if self.spec.level == "run" else ()

    def after_steps(self, values: Mapping[str, float], epoch: int, step: int, elapsed: float) -> Sequence[Action]:
        """Within an epoch there are only its running means so far, `train_…`: a bare name means these."""
        name = self.spec.metric if self.spec.metric in values else f"train_{self.spec.metric}"
        return self._look(values, name) if self.spec.level == "epoch" else ()

    def _look(self, values: Mapping[str, float], name: str) -> Sequence[Action]:
        value = values.get(name, float("nan"))
        passed = (self.spec.above is not None and value > self.spec.above) or (self.spec.below is not None and value < self.spec.below)
        return (Stop(self.spec.level, "stop_when", name, value),) if passed else ()


@callbacks.add
class StopWhen(Callback):
    """Ends the run, or with level "epoch" this epoch only, when a metric is above or below a value."""

    metric: str
    above: Number | None = None
    below: Number | None = None
    level: Literal["run", "epoch"] = "run"
    kind: Literal["stop_when"] = "stop_when"
    runner: ClassVar[type[Runner]] = StopWhenRunner

    @model_validator(mode="after")
    def one_side(self) -> StopWhen:
        if (self.above is None) == (self.below is None):
            raise ValueError("give either 'above' or 'below'")
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


class CheckpointRunner(Runner):
    last_at: float = 0.0

    def after_epoch(self, values: Mapping[str, float], epoch: int, step: int, elapsed: float) -> Sequence[Action]:
        due = epoch % self.spec.every_epochs == 0
        return [*self.after_steps(values, epoch, step, elapsed)] or ([KeepCheckpoint(self.spec.keep_last, self.spec.keep_best)] if due else [])

    def after_steps(self, values: Mapping[str, float], epoch: int, step: int, elapsed: float) -> Sequence[Action]:
        if self.spec.every_seconds is None or elapsed - self.last_at < self.spec.every_seconds:
            return ()
        self.last_at = elapsed
        return (KeepCheckpoint(self.spec.keep_last, self.spec.keep_best),)

    def state(self) -> dict[str, Any]:
        return {"last_at": self.last_at}


@callbacks.add
class Checkpoint(Callback):
    """Writes checkpoints after epochs, and by time where asked, and keeps the last and the best of them."""

    every_epochs: Count = 1
    every_seconds: Positive | None = None
    keep_last: Count = 2
    keep_best: Annotated[int, Field(strict=True, ge=0)] = 1
    kind: Literal["checkpoint"] = "checkpoint"
    runner: ClassVar[type[Runner]] = CheckpointRunner


class OnNonfiniteRunner(Runner):
    times: int = 0

    def nonfinite(self, step: int) -> Action | None:
        self.times += 1
        if self.spec.action == "stop" or self.times > self.spec.max_times:
            return Stop("run", "nonfinite_loss", failed=True)
        return Skip() if self.spec.action == "skip" else Rollback(self.spec.factor)

    def state(self) -> dict[str, Any]:
        return {"times": self.times}


@callbacks.add
class OnNonfinite(Callback):
    """Says what happens when a loss or gradient is NaN or infinite: the run stops, the step is skipped, or the last checkpoint is taken up again."""

    action: Literal["stop", "skip", "rollback"] = "stop"
    max_times: Count = 100
    factor: Annotated[float, Field(strict=True, gt=0, le=1)] = 0.5
    kind: Literal["on_nonfinite"] = "on_nonfinite"
    runner: ClassVar[type[Runner]] = OnNonfiniteRunner


NOT_BUILT = ("reduce_on_plateau", "adjust", "freeze", "thaw", "replace", "webhook")
"""Callbacks of the contract that cannot be run yet."""
