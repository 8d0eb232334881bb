"""From the events of a run to the store, in few commits and without holding up the training.

A thread of its own writes what has gathered: the first epoch of an attempt at once, other news within 50 ms. So a long run pays one commit per 50 ms
at most, in parallel with the compiled loop, and a job that ends sooner than that only the commit that ends it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import numpy as np

from service import artifacts, tally
from service.errors import StorageFull
from service.jobs import Claim, Event
from service.store import Store
from service.store.curves import Curve
from service.store.notes import Note

FIRST_SECONDS, NEXT_SECONDS = 0.025, 0.05
GATHERED = 1000             # events that wait before the training does
ABOUT_THE_RUN = frozenset({"epoch", "epochs", "step", "learning_rate", "gradient_norm", "seconds", "samples_per_second", "eta_seconds"})
Answer = TypeVar("Answer")


class Recording:
    """What one attempt tells. `elapsed` gives the job's seconds of training so far, `stop` is called when the job is no longer to be trained."""

    def __init__(self, store: Store, claim: Claim, *, epochs: int, epoch_steps: int, elapsed: Callable[[], float], stop: Callable[[], None],
                 patience: float):
        self.store, self.claim, self.patience = store, claim, patience
        self._pace, self._elapsed, self._stop = Pace(epoch_steps), elapsed, stop
        self.epochs = epochs                            # how many there are to be, as the job's owner has asked lastly
        self.best: Mapping[str, Any] | None = None      # epoch and metrics of the best epoch so far
        self._gathered: list[Any] = []
        self._news = threading.Condition()
        self._closed = False
        self._failure: BaseException | None = None
        self._due = time.monotonic() + FIRST_SECONDS
        self._silent = True                             # no epoch was told yet in this attempt
        self._thread = threading.Thread(target=self._work, name="recording", daemon=True)
        self._thread.start()

    def add(self, event: Any) -> None:
        """Take an event in. Raises what the writing thread met: StaleFence, StorageFull. Waits while a checkpoint is still being written."""
        with self._news:
            self._news.wait_for(lambda: self._failure or self._room(event))
            if self._failure:
                raise self._failure
            self._gathered.append(event)
            if self._silent and event.type == "epoch":
                self._silent = False
                if event.data.get("eta_seconds", 0.0) > NEXT_SECONDS:
                    self._due = 0.0
            self._news.notify_all()

    def _room(self, event: Any) -> bool:
        if len(self._gathered) >= GATHERED:
            return False
        return _payload(event) is None or all(_payload(other) is None for other in self._gathered)

    def close(self) -> Note:
        """End the thread; returns what is not written yet, for the write that ends the attempt. Raises what the thread met."""
        self._end()
        if self._failure:
            raise self._failure
        *earlier, last = _by_checkpoint(self._gathered)
        for events in earlier:
            self._write(events)
        return self.note(last)

    def rest(self) -> Note:
        """As `close`, where the attempt has failed: what can be had."""
        try:
            return self.close()
        except Exception:
            return {}

    def _end(self) -> None:
        with self._news:
            self._closed = True
            self._news.notify_all()
        self._thread.join()

    # ---------------------------------------------------------------- the thread

    def _work(self) -> None:
        try:
            while events := self._take():
                for part in _by_checkpoint(events):
                    self._write(part)
                self._due = time.monotonic() + NEXT_SECONDS
        except BaseException as error:      # handed to the training thread, whatever it is
            with self._news:
                self._failure = error
                self._news.notify_all()
            self._stop()

    def _take(self) -> list[Any]:
        """What has gathered, once it is due; nothing when the recording is closed."""
        with self._news:
            self._news.wait_for(lambda: self._closed or self._gathered)
            while not self._closed and (left := self._due - time.monotonic()) > 0:
                self._news.wait(left)
            if self._closed:
                return []
            events, self._gathered = self._gathered, []
            self._news.notify_all()
            return events

    def _write(self, events: list[Any]) -> None:
        note = self.note(events)
        recorded = self.persist(lambda: self.store.record(self.claim, **note))
        artifacts.remove(self.store.home, recorded.removed)
        if recorded.status != "running":
            self._stop()

    def persist(self, write: Callable[[], Answer], patience: float | None = None) -> Answer:
        """`write()`, again and again while the disk is full: it may have room in a moment. StorageFull when patience is over."""
        deadline = time.monotonic() + (self.patience if patience is None else patience)
        while True:
            try:
                return write()
            except StorageFull:
                if time.monotonic() > deadline:
                    raise
                time.sleep(min(1.0, self.patience / 10))

    # ---------------------------------------------------------------- what is written

    def note(self, events: Iterable[Any]) -> Note:
        """Events, curves, columns and at most one checkpoint, whose file is made durable here."""
        note: Note = {"curves": _curves(events)}
        happened, columns, adjusted = [], {}, {}
        for event in events:
            if event.type == "epoch":
                tally.observe("epoch_seconds", event.data["seconds"])
            columns |= _columns(event, self.epochs, self._pace)
            if (payload := _payload(event)) is not None:
                data = dict(event.data)
                note["checkpoint"] = row = self.keep(data, payload)
                if "kept" in data:
                    note["kept"] = data["kept"]
                event = Event("checkpoint", event.message, {**data, "bytes": row["bytes"], "sha256": row["sha256"]}, event.level, event.key)
            if event.type in ("adjusted", "warning") and "number" in event.data:
                adjusted[event.data["number"]] = (event.data["epoch"], event.data["step"])
            if event.type != "finished":        # what ends the attempt tells it
                happened.append(event)
        note["events"], note["adjusted"] = happened, adjusted
        note["job"] = {"elapsed_seconds": self._elapsed(), **columns, **({"best": self.best} if self.best else {})}
        return note

    def keep(self, data: Mapping[str, Any], payload: bytes) -> dict[str, Any]:
        """Write a checkpoint's file; returns its row."""
        file = self.persist(lambda: artifacts.write_checkpoint(self.store.home, self.claim.job_id, data["step"], payload))
        return {"step": data["step"], "epoch": data["epoch"], "metrics": data.get("metrics") or {}, "best": bool(data.get("best")), **file}


def _payload(event: Any) -> bytes | None:
    return getattr(event, "payload", None)


def _by_checkpoint(events: list[Any]) -> list[list[Any]]:
    """Parts with one checkpoint each; there is always one part."""
    ends = [place + 1 for place, event in enumerate(events) if _payload(event) is not None][:-1]
    return [events[begin:end] for begin, end in zip([0, *ends], [*ends, len(events)], strict=True)]


def _curves(events: Iterable[Any]) -> dict[str, Curve]:
    pieces: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for event in events:
        for series, curve in (getattr(event, "curves", None) or {}).items():
            pieces.setdefault(series, []).append(curve)
    return {series: Curve(np.concatenate([steps for steps, _ in found]), np.concatenate([values for _, values in found]))
            for series, found in pieces.items()}


class Pace:
    """How fast an attempt trains, validation included, from the first step that it told of."""

    def __init__(self, epoch_steps: int):
        self.epoch_steps = epoch_steps          # updates of an epoch; 0 when it is not known
        self.began: tuple[float, int] | None = None

    def progress(self, step: int, epochs: int) -> dict[str, Any]:
        """The job after `step` of so many epochs."""
        total = self.epoch_steps * epochs
        return {"step": step} | ({"progress": min(1.0, step / total)} if total else {})

    def rest(self, step: int, epochs: int) -> dict[str, Any]:
        """How long the rest will take."""
        now, (began, first) = time.monotonic(), self.began or (0.0, step)
        self.began = self.began or (now, step)
        rest = max(0, self.epoch_steps * epochs - step)
        return {"eta_seconds": rest * (now - began) / (step - first)} if self.epoch_steps and step > first else {}


def _columns(event: Any, epochs: int, pace: Pace) -> dict[str, Any]:
    """What an event changes in the job's row."""
    data = event.data
    if event.type == "epoch":
        metrics = {name: value for name, value in data.items() if name not in ABOUT_THE_RUN}
        more = {"epochs": data["epoch"]} if data["epoch"] > epochs else {}      # fewer were asked for, but this one had begun
        epochs = max(epochs, data["epoch"])
        return {"epoch": data["epoch"], "step": data["step"], "progress": data["epoch"] / epochs, "metrics": metrics, **more,
                "eta_seconds": (epochs - data["epoch"]) * data["seconds"]}
    if event.type == "step":
        return pace.progress(data["step"], epochs) | pace.rest(data["step"], epochs)
    if event.type == "checkpoint":
        return pace.progress(data["step"], epochs)
    if event.type == "finished" and event.curves:
        return pace.progress(int(event.curves["loss"][0][-1]), epochs)
    if event.type == "evaluation":
        return {"evaluation": dict(data)}
    return {}
