"""A run: training as a generator of events.

The compiled loop is called for as many steps as fill about 60 ms; between calls the run tells what happened, asks the callbacks, and keeps
checkpoints. Whatever it decides depends on steps and numbers, never on how the calls were cut, except where a limit is a time.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from engine.devices.session import Session
from engine.errors import CheckpointError, SpecError
from engine.train.callbacks.actions import Action, Change, KeepCheckpoint, RestoreBest, Rollback, Skip, Stop
from engine.train.callbacks.changes import read_change
from engine.train.callbacks.stopping import monitors
from engine.train.ready.build import Built
from engine.train.run.best import Best
from engine.train.run.checkpoint import Checkpoint, numbers, pack, unpack, written
from engine.train.run.diagnose import born
from engine.train.run.events import Event, adjusted_event, checkpoint_event, epoch_event, finished_event, left_out, listed, step_event, stopped_event
from engine.train.run.guard import Guard
from engine.train.run.live import Adjustment, Live
from engine.train.run.measured import Measured
from engine.train.run.regime import Regime
from engine.train.run.series import Series
from engine.train.run.standing import Standing
from engine.train.run.trouble import explained

STRETCH_SECONDS = 0.06
STEP_EVENT_SECONDS = 0.1
CHECKPOINT_SECONDS = 10.0


class Run(Standing):
    """One attempt at a job. `stop_word[0] = 1` from any thread ends it within one batch; `checkpoint()` then holds everything to go on with."""

    def __init__(self, built: Built, session: Session, *, elapsed_seconds: float = 0.0, checkpoint: bytes | None = None,
                 adjustments: Sequence[Adjustment] = ()):
        super().__init__(elapsed_seconds)
        self.regime, self.job, self.stop_word = Regime(built, session), built.job, session.crew.stop_word
        self.bests: dict[str, Best] = {monitor: Best(session, monitor, built.scores) for monitor in monitors(built.callbacks, built.scores)}
        self.best = self.bests[built.monitor]
        self._follow()
        self.live = Live(adjustments, lambda raw: read_change(raw, built.steps, list(built.parameters)))
        self.runners = [callback.start(built.scores) for callback in built.callbacks]
        self.guard = Guard(built)
        self.series = Series()
        self.metrics: dict[str, float] = {}
        self.seconds_per_step = 0.0
        self.ending: Stop | None = None
        self.saved_at = self.told_at = self.started
        if checkpoint is not None:
            self.guard.resume(checkpoint)
            self.restore(unpack(checkpoint))

    def _follow(self) -> None:
        """Take up the program, which a change may have made anew."""
        self.built, self.session = self.regime.built, self.regime.session
        self.train = self.session.program.phases["train"]
        for best in self.bests.values():
            best.session = self.session

    def adjust(self, changes: Mapping[str, Any], *, after: int = 0) -> int:
        """Change hyper-parameters (by name), `epochs`, `freeze` or `thaw` (path patterns) while the run goes on, from any thread.

        Returns the step after which the change takes effect, `after` at the earliest; an `adjusted` event tells when it has. Raises SpecError with
        pointers into `changes`.
        """
        return self.live.add(changes, max(after, self.step))

    # ---------------------------------------------------------------- the run

    def events(self) -> Iterator[Event]:
        """Everything that happens, until `finished`, whose data says how the run ended."""
        yield from self._make_changes()
        while self.epoch < self.regime.epochs and self.ending is None and not self.stop_word[0]:
            yield from self._epoch()
            yield from self._make_changes()
        if self.stop_word[0] and self.ending is None:
            yield Event("finished", "The run was stopped.", {"status": "stopped"}, curves=self.series.take())
            return
        if not (self.ending and self.ending.failed):
            yield from self._close()
        yield self._finished()

    def _epoch(self) -> Iterator[Event]:
        if self.position == 0:
            yield from self._act([action for runner in self.runners for action in runner.before_epoch(self.epoch + 1, self.step)], self.epoch + 1)
            self._come_back_here()
        while self.position < self.train.steps:
            yield from self._stretch()
            if self.stop_word[0] or self.ending:
                return
        if (event := self._epoch_event()) is None:
            return      # stopped while it was validated: the epoch is told by the attempt that takes over
        actions = [action for runner in self.runners for action in runner.after_epoch(self.metrics, self.epoch + 1, self.step, self.elapsed)]
        better = {monitor: best.look(self.metrics, self.epoch + 1) for monitor, best in self.bests.items()}
        self.next_epoch()
        yield event
        yield from self._act(actions, self.epoch, better[self.best.monitor])

    def _stretch(self) -> Iterator[Event]:
        """Some steps in the compiled loop, and what is to be told of them."""
        while not (steps := self._steps_ahead()):
            yield from self._make_changes()
        series = np.full((steps, 2), np.nan)
        self.guard.arm(self.session)
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
        values, now = Measured(self._running_means), (self.epoch + 1, self.step, self.elapsed)
        yield from self._act([action for runner in self.runners for action in runner.after_steps(values, *now)], self.epoch + 1)
        self._look_at_limits()
        if time.monotonic() - self.saved_at >= CHECKPOINT_SECONDS and self.ending is None:
            yield self._checkpoint_event(False)

    def _steps_ahead(self) -> int:
        """How many steps the next call may make."""
        most = max(1, int(STRETCH_SECONDS / self.seconds_per_step)) if self.seconds_per_step else 8
        allowed = [a for runner in (*self.runners, self.guard.runner) if (a := runner.steps_allowed(self.step)) is not None]
        if self.job.limits.max_steps is not None:
            allowed.append(self.job.limits.max_steps - self.step)
        return self.live.leave(self.step, max(1, min([most, self.train.steps - self.position, *allowed])))

    def _factors(self, steps: int) -> np.ndarray:
        """The schedule's factor at each of the next steps."""
        rule = self.regime.rule
        return np.array([rule.factor(self.step + 1 + k, self.epoch + 1) for k in range(steps)]) if rule.schedule else np.ones(steps)

    @property
    def learning_rate(self) -> float:
        rule = self.regime.rule
        return float(getattr(rule, "learning_rate", 0.0)) * rule.factor(max(self.step, 1), self.epoch + 1)

    # ---------------------------------------------------------------- the end of an epoch

    def _epoch_event(self) -> Event | None:
        """The epoch's event, after validation; None if validation was cut short."""
        session, start = self.session, time.monotonic()
        values = self._running_means()
        for name, phase in session.program.phases.items():
            if name not in ("train", "test"):
                if not session.run_pass(phase):
                    return None
                values |= {f"{name}_{what}": value for what, value in self.built.measure(session.sums(name)).items()}
        self.metrics = values
        seconds = self.epoch_seconds + time.monotonic() - start
        rows = min(self.train.steps * self.train.batch, self.train.rows * self.train.source.repeats)
        speed, epochs = rows / self.epoch_seconds if self.epoch_seconds else 0.0, self.regime.epochs
        data = {"epoch": self.epoch + 1, "epochs": epochs, "step": self.step, **values, "learning_rate": self.learning_rate,
                "gradient_norm": self.gradient_norm, "seconds": seconds, "samples_per_second": speed,
                "eta_seconds": max(0, epochs - self.epoch - 1) * seconds}
        return epoch_event(data, self.series.take())

    def _running_means(self) -> dict[str, float]:
        """The epoch's training values so far."""
        return {f"train_{name}": value for name, value in self.built.measure(self.session.sums("train")).items()}

    # ---------------------------------------------------------------- what callbacks, clients and limits ask

    def _act(self, actions: Sequence[Action], epoch: int, better: bool = False) -> Iterator[Event]:
        """`epoch` is the one that the actions are about; `better`: it was the best so far. Checkpoints come last: they hold what the others did."""
        for action in sorted(actions, key=lambda action: isinstance(action, KeepCheckpoint)):
            if isinstance(action, RestoreBest):
                self.bests[action.monitor].restore()
            elif isinstance(action, KeepCheckpoint):
                yield self._checkpoint_event(better, sorted({step for runner in self.runners for step in runner.keeps()}))
            elif isinstance(action, Change):
                yield from self._change(action, epoch)
            elif isinstance(action, Stop) and action.level == "run" and self.ending is None:
                self.ending = action
                yield stopped_event(action, epoch, self.best.epoch)
            elif isinstance(action, Stop) and action.level == "epoch" and self.position < self.train.steps:
                self.end_epoch(self.train.steps)
                yield stopped_event(action, epoch, self.best.epoch)

    def _make_changes(self) -> Iterator[Event]:
        """The live changes that take effect now."""
        for place, change in self.live.due(self.step):
            yield from self._change(change, min(self.epoch + 1, self.regime.epochs), place)

    def _change(self, change: Change, epoch: int, place: int = 0) -> Iterator[Event]:
        try:
            changed = self.regime.apply(change, self.step, self.epoch + (self.position > 0))
        except SpecError as error:
            yield left_out(change.by, epoch, self.step, error.problems[0], place)
            return
        self._follow()
        if changed or place:
            yield adjusted_event(change.by, epoch, self.step, changed, place)

    def _look_at_limits(self) -> None:
        limits = self.job.limits
        if self.ending is None and self.elapsed >= limits.max_seconds:
            self.ending = Stop("run", "time_limit", failed=True)
        more = self.epoch * self.train.steps + self.position < self.regime.epochs * self.train.steps
        if self.ending is None and limits.max_steps is not None and self.step >= limits.max_steps and more:
            self.ending = Stop("run", "step_limit", failed=True)

    # ---------------------------------------------------------------- numbers that are not finite

    def _nonfinite_skips(self, series: np.ndarray, before: int) -> Iterator[Event]:
        for k in np.flatnonzero(~np.isfinite(series).all(axis=1)):
            action = self.guard.found(self.epoch + 1, before + int(k) + 1, float(series[k, 0]))
            yield self.guard.told("skip" if isinstance(action, Skip) else "stop")

    def _nonfinite_stop(self) -> Iterator[Event]:
        """The loop came back before its time: loss or gradient of the next step is not finite."""
        loss = float(self.session.number[0])
        action = self.guard.found(self.epoch + 1, self.step + 1, loss)
        layer = born(self.built, self.session)
        if not isinstance(action, Rollback) or self.guard.back is None:
            yield self.guard.told("stop", layer)
            self.ending = Stop("run", "nonfinite_loss", value=loss, failed=True)
            return
        yield self.guard.told("rollback", layer)
        times = self.guard.runner.state()
        self.restore(unpack(self.guard.back[1]))
        self.guard.runner.restore(times)
        self.series = Series()
        yield from self._change(Change("on_nonfinite", factor=action.factor), self.epoch + 1)
        self._come_back_here()

    def _come_back_here(self) -> None:
        """Rollbacks, where they are asked for, come back to this moment."""
        if self.guard.rolls:
            self.guard.keep(self.step, self._packed(), self.session)

    # ---------------------------------------------------------------- the end

    def _close(self) -> Iterator[Event]:
        """The last checkpoint, and the one evaluation on the test rows."""
        yield self._checkpoint_event(self.best.epoch == self.epoch)
        test = self.session.program.phases.get("test")
        if test is not None and self.session.run_pass(test):
            values = self.built.measure(self.session.sums("test"))
            data = {"split": "test", "loss": values.pop("loss", float("nan")), "metrics": values}
            yield Event("evaluation", f"On the test rows: {listed({'loss': data['loss'], **values})}.", data, key=f"evaluation:test:{self.step}")

    def _finished(self) -> Event:
        best = {"epoch": self.best.epoch, "metrics": self.best.metrics} if self.best.epoch else None
        error = None
        if self.ending and self.ending.failed:
            error = explained(self.ending.reason, self.job.limits, self.guard.trouble, self.learning_rate)
            error |= {"epoch": self.epoch + 1, "step": self.step + 1}
        return finished_event(self.ending.reason if self.ending else "completed", self.metrics, best, error, self.series.take())

    # ---------------------------------------------------------------- checkpoints

    def _checkpoint_event(self, better: bool, kept: Sequence[int] = ()) -> Event:
        self.saved_at = time.monotonic()
        return checkpoint_event(self.epoch, self.step, better, dict(self.metrics), self.checkpoint(), kept, self.series.take())

    def checkpoint(self) -> bytes:
        """Everything that the next attempt needs to go on with the same bits."""
        return self._packed(self.guard.arrays(self.step))

    def _packed(self, also: Mapping[str, np.ndarray] = {}) -> bytes:
        meta = {"epoch": self.epoch, "epochs": self.regime.epochs, "step": self.step, "metrics": written(self.metrics),
                "regime": self.regime.state(), "changes": self.live.made, "ending": asdict(self.ending) if self.ending else None,
                "runners": [runner.state() for runner in self.runners], "nonfinite": self.guard.runner.state(),
                **{best.label: best.state() for best in self.bests.values()}, **self.built.meta}
        kept = {name: array for best in self.bests.values() for name, array in best.kept.items()}
        return pack({**self.session.saved(), **self.regime.arrays(), **kept, **also}, meta)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint."""
        self.regime.load(checkpoint)
        self._follow()
        for name, array in self.session.saved().items():
            found = checkpoint.arrays.get(name)
            if found is None or found.shape != array.shape or found.dtype != array.dtype:
                raise CheckpointError(f"the checkpoint has no {name} of shape {list(array.shape)}: it belongs to another job")
            array[...] = found
        for best in self.bests.values():
            best.load(checkpoint)
        self.metrics = numbers(checkpoint.meta["metrics"])
        self.live.made = min(checkpoint.meta["changes"], len(self.live.items))
        ending = checkpoint.meta["ending"] if checkpoint.meta["epochs"] == self.regime.epochs else None     # more epochs: not at its end
        self.ending = Stop(**ending) if ending else None
        for runner, state in zip(self.runners, checkpoint.meta["runners"], strict=True):
            runner.restore(state)
        self.guard.runner.restore(checkpoint.meta["nonfinite"])
