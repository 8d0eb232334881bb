"""A run: training as a generator of events.

The compiled loop is called for as many steps as fill about 60 ms; between calls the run tells what happened, asks the callbacks, and keeps
checkpoints. Whatever it decides depends on steps and numbers, never on how the calls were cut, except where a limit is a time.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from engine.devices.cpu.session import Session
from engine.errors import CheckpointError
from engine.plan import control
from engine.train.actions import Action, KeepCheckpoint, RestoreBest, Rollback, Skip, Stop
from engine.train.best import Best
from engine.train.build import Built
from engine.train.callbacks import SkipWhen
from engine.train.checkpoint import Checkpoint, numbers, pack, unpack, written
from engine.train.diagnose import born
from engine.train.events import Event, checkpoint_event, epoch_event, number, step_event
from engine.train.series import Series
from engine.train.trouble import Trouble, explained

STRETCH_SECONDS = 0.06
STEP_EVENT_SECONDS = 0.1
CHECKPOINT_SECONDS = 10.0


class Run:
    """One attempt at a job. `stop_word[0] = 1` from any thread ends it within one batch; `checkpoint()` then holds everything to go on with."""

    def __init__(self, built: Built, session: Session, *, elapsed_seconds: float = 0.0, checkpoint: bytes | None = None):
        self.built, self.session, self.job = built, session, built.job
        self.stop_word = session.crew.stop_word
        self.train = session.program.phases["train"]
        self.valid, self.full_train = (session.program.phases.get(name) for name in ("valid", "full_train"))
        self.runners = [callback.start(built.scores) for callback in built.callbacks]
        self.best = Best(session, built.monitor, built.scores)
        self.series = Series()
        self.metrics: dict[str, float] = {}
        self.epoch_seconds = 0.0      # of the epoch under way, in this attempt
        self.rate_factor = 1.0        # what rollbacks have made of the learning rate
        self.seconds_per_step = 0.0
        self.ending: Stop | None = None
        self.trouble: Trouble | None = None     # the last number that was not finite
        self.started, self.elapsed_before = time.monotonic(), elapsed_seconds
        self.saved_at = self.told_at = self.started
        self.saved_step = -1
        self.rollback_to: bytes | None = checkpoint
        if checkpoint is not None:
            self.restore(unpack(checkpoint))

    # ---------------------------------------------------------------- where it stands

    @property
    def step(self) -> int:
        """Steps finished, over all attempts."""
        return int(self.session.whole[control.STEP // 8])

    @property
    def epoch(self) -> int:
        """Epochs finished."""
        return int(self.session.whole[control.EPOCH // 8])

    @property
    def position(self) -> int:
        """Batches finished of the epoch under way."""
        return int(self.session.whole[control.POSITION // 8])

    @property
    def progress(self) -> tuple[int, int]:
        """What changes whenever a batch is finished, also one in test mode."""
        return self.step, self.position

    @property
    def elapsed(self) -> float:
        """Seconds of training, over all attempts."""
        return self.elapsed_before + time.monotonic() - self.started

    # ---------------------------------------------------------------- the run

    def events(self) -> Iterator[Event]:
        """Everything that happens, until `finished`, whose data says how the run ended."""
        self._prepare_guard()
        while self.epoch < self.job.epochs and self.ending is None and not self.stop_word[0]:
            yield from self._epoch()
        if self.stop_word[0] and self.ending is None:
            yield Event("finished", "The run was stopped.", {"status": "stopped"})
            return
        if not (self.ending and self.ending.failed):
            yield from self._close()
        yield self._finished()

    def _epoch(self) -> Iterator[Event]:
        epoch_over = False
        while self.position < self.train.steps and not epoch_over:
            yield from self._stretch()
            if self.stop_word[0] or (self.ending and self.ending.level == "run"):
                return
            epoch_over = self.ending is not None     # level "epoch": this one ends early, the run goes on
        self.ending = None
        if (event := self._epoch_event()) is None:
            return      # stopped while it was validated: the epoch is told by the attempt that takes over
        actions = [action for runner in self.runners for action in runner.after_epoch(self.metrics, self.epoch + 1, self.step, self.elapsed)]
        better = self.best.look(self.metrics, self.epoch + 1)
        self._next_epoch()
        yield event
        yield from self._act(actions, better)

    def _stretch(self) -> Iterator[Event]:
        """Some steps in the compiled loop, and what is to be told of them."""
        steps = self._steps_ahead()
        series = np.full((steps, 2), np.nan)
        start = time.monotonic()
        done = self.session.run(self.train, steps, self._factors(steps), series)
        seconds = time.monotonic() - start
        self.epoch_seconds += seconds
        self.seconds_per_step = seconds / max(done, 1)
        self.series.add(self.step - done, series[:done])
        yield from self._nonfinite_skips(series[:done], self.step - done)
        if done < steps and not self.stop_word[0]:
            yield from self._nonfinite_stop()
            return
        if time.monotonic() - self.told_at >= STEP_EVENT_SECONDS and done:
            self.told_at = time.monotonic()
            loss, norm = float(series[done - 1, 0]), float(series[done - 1, 1])
            yield step_event(self.epoch + 1, self.step, loss, self.learning_rate, norm, self.series.take())
        values = self._running_means() if self.runners else {}
        for runner in self.runners:
            yield from self._act(runner.after_steps(values, self.epoch + 1, self.step, self.elapsed), False)
        yield from self._limits()
        if time.monotonic() - self.saved_at >= CHECKPOINT_SECONDS and self.ending is None:
            yield self._checkpoint_event(False)

    def _steps_ahead(self) -> int:
        """How many steps the next call may make."""
        most = max(1, int(STRETCH_SECONDS / self.seconds_per_step)) if self.seconds_per_step else 8
        allowed = [a for runner in self.runners if (a := runner.steps_allowed(self.step)) is not None]
        if self.job.limits.max_steps is not None:
            allowed.append(self.job.limits.max_steps - self.step)
        return max(1, min([most, self.train.steps - self.position, *allowed]))

    def _factors(self, steps: int) -> np.ndarray:
        """The schedule's factor at each of the next steps."""
        rule = self.built.rule
        if rule.schedule is None:
            return np.full(steps, self.rate_factor)
        return np.array([rule.factor(self.step + 1 + k, self.epoch + 1) for k in range(steps)]) * self.rate_factor

    @property
    def learning_rate(self) -> float:
        rule = self.built.rule
        return float(getattr(rule, "learning_rate", 0.0)) * rule.factor(max(self.step, 1), min(self.epoch + 1, self.job.epochs)) * self.rate_factor

    # ---------------------------------------------------------------- the end of an epoch

    def _epoch_event(self) -> Event | None:
        """The epoch's event, after validation; None if validation was cut short."""
        session, start = self.session, time.monotonic()
        values = self._running_means()
        for phase, prefix in ((self.full_train, "full_train_"), (self.valid, "valid_")):
            if phase is not None:
                if not session.run_pass(phase):
                    return None
                values |= {prefix + name: value for name, value in self.built.measure(session.sums(phase.name)).items()}
        self.metrics = values
        seconds = self.epoch_seconds + time.monotonic() - start
        count = session.number[(control.NORM_COUNT - 64) // 8]
        rows = min(self.train.steps * self.train.batch, self.train.rows * self.train.source.repeats)
        left = self.job.epochs - self.epoch - 1
        norm = float(session.number[(control.NORM_SUM - 64) // 8] / count) if count else float("nan")
        speed = rows / self.epoch_seconds if self.epoch_seconds else 0.0
        data = {"epoch": self.epoch + 1, "epochs": self.job.epochs, "step": self.step, **values, "learning_rate": self.learning_rate,
                "gradient_norm": norm, "seconds": seconds, "samples_per_second": speed, "eta_seconds": left * seconds}
        return epoch_event(data, self.series.take())

    def _running_means(self) -> dict[str, float]:
        """The epoch's training values so far."""
        return {f"train_{name}": value for name, value in self.built.measure(self.session.sums("train")).items()}

    def _next_epoch(self) -> None:
        whole, numbers = self.session.whole, self.session.number
        whole[control.EPOCH // 8] += 1
        whole[control.POSITION // 8] = 0
        numbers[(control.NORM_SUM - 64) // 8] = numbers[(control.NORM_COUNT - 64) // 8] = 0.0
        self.session.clear_sums("train")
        self.epoch_seconds = 0.0

    # ---------------------------------------------------------------- what callbacks and limits ask

    def _act(self, actions: Sequence[Action], better: bool) -> Iterator[Event]:
        for action in actions:
            if isinstance(action, RestoreBest):
                self.best.restore()
            elif isinstance(action, KeepCheckpoint):
                yield self._checkpoint_event(better, kept=True)
            elif isinstance(action, Stop) and self.ending is None:
                self.ending = action
                value = None if action.value is None else float(action.value)
                data = {"by": action.reason, "metric": action.metric, "value": value, "epoch": min(self.epoch, self.job.epochs),
                        "best_epoch": action.best_epoch or self.best.epoch, "level": action.level}
                what = f": {action.metric} is {number(action.value)}" if action.metric and action.value is not None else ""
                yield Event("stopped_early", f"Stopped by {action.reason}{what}.", {k: v for k, v in data.items() if v is not None})

    def _limits(self) -> Iterator[Event]:
        limits = self.job.limits
        if self.ending is None and self.elapsed >= limits.max_seconds:
            self.ending = Stop("run", "time_limit", failed=True)
        if self.ending is None and limits.max_steps is not None and self.step >= limits.max_steps and self._more_to_do():
            self.ending = Stop("run", "step_limit", failed=True)
        yield from ()

    def _more_to_do(self) -> bool:
        return self.epoch * self.train.steps + self.position < self.job.epochs * self.train.steps

    # ---------------------------------------------------------------- numbers that are not finite

    def _prepare_guard(self) -> None:
        """Tell the compiled loop which steps it may skip by itself."""
        self.session.whole[control.POLICY // 8] = control.POLICY_SKIP if self.built.nonfinite.action == "skip" else control.POLICY_STOP
        above = [callback.above for callback in self.built.callbacks if isinstance(callback, SkipWhen)]
        self.session.number[(control.SKIP_ABOVE - 64) // 8] = min(above, default=np.inf)

    def _nonfinite_skips(self, series: np.ndarray, before: int) -> Iterator[Event]:
        for k in np.flatnonzero(~np.isfinite(series).all(axis=1)):
            action = self.built.nonfinite_runner.nonfinite(before + int(k) + 1)
            yield self._tell(before + int(k) + 1, float(series[k, 0]), "skip" if isinstance(action, Skip) else "stop", None)
            if isinstance(action, Stop):
                self.ending = action
                return

    def _nonfinite_stop(self) -> Iterator[Event]:
        """The loop came back before its time: loss or gradient of the next step is not finite."""
        step, loss = self.step + 1, float(self.session.number[0])
        action = self.built.nonfinite_runner.nonfinite(step)
        rolls = isinstance(action, Rollback) and self.rollback_to is not None
        yield self._tell(step, loss, "rollback" if rolls else "stop", born(self.built, self.session))
        if rolls and isinstance(action, Rollback) and self.rollback_to is not None:
            times, factor = self.built.nonfinite_runner.state(), self.rate_factor
            self.restore(unpack(self.rollback_to))
            self.built.nonfinite_runner.restore(times)
            self.rate_factor = factor * action.factor
            self.series = Series()
        else:
            self.ending = Stop("run", "nonfinite_loss", value=loss, failed=True)

    def _tell(self, step: int, value: float, action: str, layer: str | None) -> Event:
        self.trouble = Trouble(self.epoch + 1, step, value, action, layer)
        return self.trouble.event()

    # ---------------------------------------------------------------- the end

    def _close(self) -> Iterator[Event]:
        """The last checkpoint, and the one evaluation on the test rows."""
        yield self._checkpoint_event(self.best.epoch == self.epoch)
        test = self.session.program.phases.get("test")
        if test is not None and self.session.run_pass(test):
            values = self.built.measure(self.session.sums("test"))
            loss = values.pop("loss", float("nan"))
            data = {"split": "test", "loss": loss, "metrics": values}
            yield Event("evaluation", f"On the test rows: loss {number(loss)}.", data, key="evaluation:test")

    def _finished(self) -> Event:
        ending = self.ending
        best = {"epoch": self.best.epoch, "metrics": self.best.metrics} if self.best.epoch else None
        reason = ending.reason if ending else "completed"
        data: dict[str, Any] = {"status": "succeeded", "status_reason": reason, "metrics": self.metrics, "best": best}
        if ending and ending.failed:
            error = explained(ending.reason, self.job.limits, self.trouble, self.learning_rate) | {"epoch": self.epoch + 1, "step": self.step + 1}
            return Event("finished", "The run failed.", {**data, "status": "failed", "error": error}, level="error")
        return Event("finished", "The run is complete.", data)

    # ---------------------------------------------------------------- checkpoints

    def _checkpoint_event(self, better: bool, kept: bool = False) -> Event:
        payload = self.checkpoint()
        self.saved_at, self.saved_step, self.rollback_to = time.monotonic(), self.step, payload
        return checkpoint_event(self.epoch, self.step, better, dict(self.metrics), payload, kept)

    def checkpoint(self) -> bytes:
        """Everything that the next attempt needs to go on with the same bits."""
        meta = {"epoch": self.epoch, "step": self.step, "best": self.best.state(), "metrics": written(self.metrics), "rate_factor": self.rate_factor,
                "runners": [runner.state() for runner in self.runners], "nonfinite": self.built.nonfinite_runner.state(), **self.built.meta}
        return pack({**self.session.saved(), **self.best.arrays()}, meta)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint."""
        for name, array in self.session.saved().items():
            found = checkpoint.arrays.get(name)
            if found is None or found.shape != array.shape or found.dtype != array.dtype:
                raise CheckpointError(f"the checkpoint has no {name} of shape {list(array.shape)}: it belongs to another job")
            array[...] = found
        self.best.load(checkpoint)
        self.metrics = numbers(checkpoint.meta["metrics"])
        self.rate_factor = checkpoint.meta["rate_factor"]
        for runner, state in zip(self.runners, checkpoint.meta["runners"], strict=True):
            runner.restore(state)
        self.built.nonfinite_runner.restore(checkpoint.meta["nonfinite"])
