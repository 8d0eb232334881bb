"""All callbacks: those that stop (stopping.py), change (changing.py) and tell (telling.py); of checkpoints and of numbers that are not finite."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from engine.train.callbacks.actions import Action, KeepCheckpoint, Rollback, Skip, Stop
from engine.train.callbacks.callback import Callback, Count, Positive, Runner, callbacks
from engine.train.callbacks.changing import Adjust, Freeze, ReduceOnPlateau, Replace, Thaw
from engine.train.callbacks.stopping import EarlyStopping, SkipWhen, StepLimit, StopWhen, TimeLimit
from engine.train.callbacks.telling import Webhook

__all__ = ["Adjust", "Checkpoint", "EarlyStopping", "Freeze", "OnNonfinite", "ReduceOnPlateau", "Replace", "SkipWhen", "StepLimit", "StopWhen",
           "Thaw", "TimeLimit", "Webhook", "callbacks"]


class CheckpointRunner(Runner):
    remembered = ("last_at", "written")
    last_at: float = 0.0

    def __init__(self, spec: Checkpoint, scores: Any):
        super().__init__(spec, scores)
        self.written: list[tuple[int, float | None]] = []       # of those that are kept: step, and what the job's monitor was

    def after_epoch(self, values: Mapping[str, float], epoch: int, step: int, elapsed: float) -> Sequence[Action]:
        return self._write(step, values.get(self.scores.monitor)) if epoch % self.spec.every_epochs == 0 or self._late(elapsed) else ()

    def after_steps(self, values: Mapping[str, float], epoch: int, step: int, elapsed: float) -> Sequence[Action]:
        return self._write(step, None) if self._late(elapsed) else ()

    def _late(self, elapsed: float) -> bool:
        late = self.spec.every_seconds is not None and elapsed - self.last_at >= self.spec.every_seconds
        self.last_at = elapsed if late else self.last_at
        return late

    def _write(self, step: int, value: float | None) -> Sequence[Action]:
        """The newest and the best stay."""
        written = [item for item in self.written if item[0] != step] + [(step, value if value == value else None)]
        sign = -1 if self.scores.maximise.get(self.scores.monitor, False) else 1
        judged = sorted((sign * v, s) for s, v in written if v is not None)
        kept = {s for s, _ in written[-self.spec.keep_last:]} | {s for _, s in judged[:self.spec.keep_best]}
        self.written = [item for item in written if item[0] in kept]
        return (KeepCheckpoint(),)

    def keeps(self) -> Iterable[int]:
        return [step for step, _ in self.written]


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
    remembered = ("times",)
    times: int = 0

    def nonfinite(self, step: int) -> Action | None:
        self.times += 1
        if self.spec.action == "stop" or self.times > self.spec.max_times:
            return Stop("run", "nonfinite_loss", failed=True)
        return Skip() if self.spec.action == "skip" else Rollback(self.spec.factor)

    @property
    def left(self) -> int:
        """How many steps may still be skipped."""
        return max(0, self.spec.max_times - self.times) if self.spec.action == "skip" else 0

    def steps_allowed(self, step: int) -> int | None:
        """The compiled loop skips by itself: it must come back before it could skip too many."""
        return self.left or None


@callbacks.add
class OnNonfinite(Callback):
    """Says what happens when a loss or gradient is NaN or infinite: the run stops, the step is skipped, or the epoch begins anew, slower.

    `factor` is what a rollback makes of the learning rate. After `max_times` the run stops.
    """

    action: Literal["stop", "skip", "rollback"] = "stop"
    max_times: Count = 100
    factor: Annotated[float, Field(strict=True, gt=0, le=1)] = 0.5
    kind: Literal["on_nonfinite"] = "on_nonfinite"
    runner: ClassVar[type[Runner]] = OnNonfiniteRunner
