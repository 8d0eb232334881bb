"""One claim of one job, from its first event to what ends it."""

from __future__ import annotations

import math
import os
import platform
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from engine.data.table import Table
from engine.errors import CheckpointError, DeviceError, SpecError
from engine.train import Job, Recent, start
from engine.train.ready.inherit import initial_arrays
from engine.train.run.adopt import Carried
from engine.train.run.events import checkpoint_event
from engine.train.run.live import Adjustment
from engine.train.run.outcome import refusal
from service import artifacts, endings
from service.artifacts import Corrupt
from service.errors import StaleFence, crash_point
from service.heartbeat import Heartbeat
from service.jobs import Claim, Event
from service.recording import Recording
from service.settings import Settings
from service.store import Recorded, Store
from service.store.changes import Row
from service.store.notes import Note
from service.tables import open_tables

VERSIONS = {"python": platform.python_version(), **{name: version(name) for name in ("numba", "numpy")}}


@dataclass(frozen=True)
class Taken:
    """A claimed job: its row, and its checkpoints, newest first."""

    claim: Claim
    row: Row
    checkpoints: list[Row]


def take(store: Store, owner: str, lease_seconds: float, threads: int, most: int = 1 << 30, device: str = "cpu",
         others: bool = True) -> Taken | None:
    """Claim the next job for this device (with `others`, or for any), with its event `job.started`; None when there is none.

    `most`: running jobs of one token.
    """
    with store.write("claim"):
        if (found := store.claim(owner, lease_seconds, {"pid": os.getpid(), "threads": threads}, most, device, others)) is None:
            return None
        claim, row = found
        checkpoints = store.checkpoints(claim.job_id)
        step = checkpoints[0]["step"] if checkpoints else 0
        data = {"attempt": claim.attempt, "device": device, "threads": threads, "versions": VERSIONS, "rows": row["summary"].get("rows"),
                "resumed_from": step}
        store.record(claim, events=[Event("job.started", f"Attempt {claim.attempt} starts" + (f" from step {step}." if step else "."), data)])
        return Taken(claim, row, checkpoints)


class Attempt:
    """The training of one claimed job. `stop` may be called from any thread, at any time."""

    def __init__(self, store: Store, settings: Settings, heart: Heartbeat, taken: Taken, threads: int, recent: Recent):
        self.store, self.settings, self.heart, self.threads, self.recent = store, settings, heart, threads, recent
        self.claim, self.row, self.checkpoints = taken.claim, taken.row, taken.checkpoints
        self.run: Any = None
        self.lost_device = False                # whether its device failed: the process that it was in is of no more use
        self.became = ""                        # what the job is after this attempt; "" when this one had no say in it
        self.stopping = False
        self.published = self.taken_up = 0      # the furthest step that was ever told, and how many live changes the run knows
        self._changing = threading.Lock()
        self.began = time.monotonic()
        self.recording = Recording(store, taken.claim, epochs=taken.row["epochs"], epoch_steps=taken.row["summary"].get("steps_per_epoch") or 0,
                                   elapsed=self.elapsed, stop=self.stop, patience=settings.lease_seconds)

    def elapsed(self) -> float:
        """Seconds of training, over all attempts."""
        return self.row["elapsed_seconds"] + time.monotonic() - self.began

    def stop(self) -> None:
        """End within a batch: the store says what becomes of the job then."""
        self.stopping = True
        if self.run is not None:
            self.run.stop_word[0] = 1

    def look(self) -> None:
        """Stop when the claim is over, or when the job was asked to pause or cancel. Take up what it was asked to change."""
        try:
            asked = self.store.holds(self.claim)["status"] != "running"
            if self.run is not None:
                self._take_up()
        except StaleFence:
            asked = True
        except SQLAlchemyError:     # the store cannot say just now
            return
        if asked:
            self.stop()

    def _take_up(self) -> None:
        """Hand the run the live changes that it does not know yet."""
        with self._changing:
            for row in self.store.adjustments(self.claim.job_id, after=self.taken_up):
                changes, self.taken_up = row["changes"], row["number"]
                try:
                    self.run.adjust(changes, after=self.published)
                except SpecError as error:      # the API has checked it: it comes from another version of this program
                    problem = error.problems[0]
                    self.run.adjust({}, after=self.published)
                    self.recording.add(Event("warning", f"A change was left out: {problem.detail}.", {"code": problem.code}, "warn"))
                    continue
                self.recording.epochs = changes.get("epochs", self.recording.epochs)

    def work(self) -> None:
        """Train, and write how it ended. Nothing is written once the claim is over."""
        try:
            ending = self._train()
            note = self.recording.close()
            self._end(ending, note)
        except StaleFence:
            self.recording.rest()
        except Exception as error:
            self.lost_device = isinstance(error, DeviceError)
            self._fail(endings.of(error), self.recording.rest())

    # ---------------------------------------------------------------- training

    def _train(self) -> Mapping[str, Any]:
        """Run to the end; returns the data of the run's last event."""
        job = Job.model_validate({**self.row["spec"], "device": self.row["device"]})
        self.heart.limit_memory(job.limits.max_memory_bytes or self.settings.max_memory_bytes)
        if self.claim.attempt > 1:
            artifacts.sweep_job(self.store, self.claim.job_id)
        crash_point(f"train.{self.row['name']}")
        crash_point(f"device.{self.row['name']}", DeviceError("error 700, an illegal memory access"))
        self._begin(job, open_tables(self.store, job.references()))
        if self.stopping:
            self.run.stop_word[0] = 1
        for event in self.run.events():
            self.heart.beat()
            if event.type == "finished":
                self.recording.add(event)
                return event.data
            if self.run.best.epoch:
                self.recording.best = {"epoch": self.run.best.epoch, "metrics": self.run.best.metrics}
            self.recording.add(event)
        raise RuntimeError("the run ended without saying how")

    def _begin(self, job: Job, tables: dict[str, Table]) -> None:
        """Start the run from the newest checkpoint that is whole. Live changes are made again where they took effect, new ones are taken up."""
        damaged: list[int] = []
        refused: CheckpointError | None = None
        made: list[Adjustment] = []
        if self.claim.attempt > 1:
            self.published = max(self.row["step"], self.store.published_step(self.claim.job_id))
            made = [Adjustment(row["step"], row["changes"]) for row in self.store.adjustments(self.claim.job_id) if row["step"] is not None]
            self.taken_up = len(made)
        for step, data in self._generations(damaged):
            try:
                self.run = start(job, tables, threads=self.threads, checkpoint=data, elapsed_seconds=self.row["elapsed_seconds"],
                                 recent=self.recent, adjustments=made, **self._origin(job, step, data))
            except CheckpointError as error:
                damaged.append(step)
                refused = error
                continue
            self._take_up()
            for bad in damaged:
                self.recording.add(Event("warning", f"The checkpoint of step {bad} is damaged: the job goes on from step {step}.",
                                         {"code": "checkpoint_corrupt", "step": bad}, "warn"))
            return
        raise refused or Corrupt(damaged)

    def _origin(self, job: Job, step: int, data: bytes | None) -> dict[str, Any]:
        """What the run has to know where it begins with what another one made."""
        origin = self.row["origin"] or {}
        if origin.get("kind") == "fork" and any(row["sha256"] == origin["sha256"] for row in self.checkpoints if row["step"] == step):
            return {"carried": Carried(**origin["carried"])}
        if origin.get("kind") == "initial" and data is None:
            file = artifacts.read_checkpoint(self.store.home, origin)
            if file is None:
                raise CheckpointError("the file of the initial parameters is damaged or gone")
            return {"initial": initial_arrays(file, origin["best_weights"], job.initial.paths if job.initial else None)}
        return {}

    def _generations(self, damaged: list[int]) -> Iterator[tuple[int, bytes | None]]:
        """Checkpoints, newest first, as (step, bytes); a job that has none begins at step 0. Steps of damaged files are added to the list."""
        for row in self.checkpoints:
            data = artifacts.read_checkpoint(self.store.home, row)
            if data is None:
                damaged.append(row["step"])
            else:
                yield row["step"], data
        if not self.checkpoints:
            yield 0, None

    # ---------------------------------------------------------------- the end

    def _end(self, ending: Mapping[str, Any], note: Note) -> None:
        if ending["status"] == "stopped":
            recorded = self._let_go(note)
        else:
            recorded = self._finish(ending, note)
        self.became = recorded.status
        artifacts.remove(self.store.home, recorded.removed)

    def _finish(self, ending: Mapping[str, Any], note: Note) -> Recorded:
        """The run came to its end, well or badly."""
        columns = {name: ending[name] for name in ("metrics", "best") if ending.get(name)}
        note = {**note, "job": {**note.get("job", {}), **columns}}
        error = dict(ending.get("error") or {})
        hint, message = error.pop("hint", None), error.get("message") or self._summary(ending)
        if error.get("code") == "nonfinite_loss" and hint and (epoch := self._kept_epoch(note)):
            hint = f"{hint.removesuffix('.')}; fork from epoch {epoch}."
        named: dict[str, Any] = {}
        told: list[Event] = []
        if ending["status"] == "succeeded" and (publish := self.run.job.publish) is not None:
            if (why := refusal(self.run, publish)) is None:
                named, message = {"publish": publish.name, "published": publish.checkpoint}, f"{message} Its model answers as {publish.name}."
            else:
                said = f"The model does not get the name {publish.name}: {why}."
                told = [Event("warning", said, {"code": "not_published", "pointer": "/publish"}, "warn")]

        def write() -> Recorded:
            with self.store.write("finish"):
                if ending["status"] == "succeeded" and self._asked_for_more(note):
                    return self.store.release(self.claim, "adjusted", **note)
                note["job"] = {**note["job"], "epochs": self.run.regime.epochs}
                return self.store.finish(self.claim, ending["status"], reason=ending["status_reason"], message=message, hint=hint,
                                         error=error or None, **named, **{**note, "events": [*note.get("events", ()), *told]})

        return self.recording.persist(write)

    def _kept_epoch(self, note: Note) -> int:
        """The last epoch of which there is a checkpoint; 0 without any."""
        rows = [*self.store.checkpoints(self.claim.job_id), *([note["checkpoint"]] if "checkpoint" in note else [])]
        return max((row["epoch"] for row in rows), default=0)

    def _asked_for_more(self, note: Note) -> bool:
        """Whether a change came too late for this run, which was over: another attempt takes it up, and may have more epochs to do."""
        waiting = {row["number"] for row in self.store.adjustments(self.claim.job_id) if row["step"] is None}
        return bool(waiting - set(note.get("adjusted", ()))) and self.store.holds(self.claim)["status"] != "cancelling"

    def _summary(self, ending: Mapping[str, Any]) -> str:
        """What a job that succeeded says of itself."""
        origin = self.row["origin"] or {}
        epochs, why = self.run.epoch - (origin["epoch"] if origin.get("kind") == "fork" else 0), ending["status_reason"]
        trained = f"Trained {epochs} epoch{'' if epochs == 1 else 's'} in {self.elapsed():.3g} seconds"
        return f"{trained}." if why == "completed" else f"{trained}; ended by {why}."

    def _let_go(self, note: Note) -> Recorded:
        """Stopped as asked: to pause or drain with a checkpoint of this very step, to cancel without."""
        if self.store.holds(self.claim)["status"] != "cancelling":
            run = self.run
            reached = checkpoint_event(run.epoch, run.step, run.best.epoch == run.epoch, dict(run.metrics), run.checkpoint())
            self.recording.persist(lambda: self.store.record(self.claim, **note))
            return self._release(self.recording.note([reached]))
        return self._release(note)

    def _release(self, note: Note) -> Recorded:
        return self.recording.persist(lambda: self.store.release(self.claim, "draining", **note))

    def _fail(self, failure: endings.Failure, note: Note) -> None:
        """What is not the job's fault is tried again. Else its owner reads why, unless another attempt is on its way."""
        epoch, step = (self.run.epoch, self.run.step) if self.run is not None else (self.row["epoch"], self.row["step"])
        claim, told = self.claim, {"message": failure.message, "hint": failure.hint}

        def write() -> None:
            self.heart.beat()
            if failure.retried:
                self.became = self.store.lost(claim.job_id, claim.fence, code=failure.code, kind=failure.kind, **told, **note)["status"]
            else:
                self.became = self.store.finish(claim, "failed", reason=failure.code, error=failure.as_dict(epoch, step), **told, **note).status

        with suppress(StaleFence):
            self.recording.persist(write, patience=math.inf)        # where the disk is full for good, nothing better can be done than to say so
