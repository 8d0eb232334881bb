"""The process that trains: warm, one job at a time, one after the other."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
from typing import Any

import numpy as np
from numba.core import event as compiler

from engine.data.table import Table
from engine.train import Job, Recent, start
from service import child, heartbeat, logs, tally, traces
from service.attempt import Attempt, take
from service.errors import StorageFull
from service.heartbeat import Heartbeat
from service.settings import Settings
from service.store import Store
from service.stream import Wake, run_folder

log = logs.of("worker")
POLL_SECONDS = 2.0          # a wake-up may be lost
LOOK_SECONDS = 1.0
FIRST = {"model": {"kind": "chain", "layers": [{"kind": "dense", "units": 4, "activation": "relu"}, {"kind": "dense", "units": 2}]},
         "loss": "logit_cross_entropy", "optimiser": {"kind": "adam"}, "epochs": 2,
         "data": {"dataset": {"columns": {}}, "target": "y", "batch_size": 3}}


class Worker:
    """Claims jobs and trains them until it is told to drain."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self.owner = os.environ.get(child.OWNER) or child.name_of("worker")
        self.device = "cuda" if os.environ.get(child.GPU) else "cpu"
        self.threads = max(1, settings.threads // max(1, settings.workers))
        self.wake = Wake(settings.home)
        self.store = Store.at(settings.home, settings.store, self._tell)
        self.heart = Heartbeat(self.wake.folder)
        self.heart.has_gpu = self.device == "cuda"
        self.with_gpus: list[Heartbeat] = []    # the workers that go first, where it does not matter to a job who trains it
        self.recent = Recent()
        self.attempt: Attempt | None = None
        self.draining = False

    def run(self) -> None:
        compiler.register("numba:run_pass", Compiling(self.heart))
        threading.Thread(target=self._watch, name="watch", daemon=True).start()
        warm_up(self.device)
        queue = self.wake.listen("queue")
        traces.begin("worker")
        signal.signal(signal.SIGTERM, self._drain)
        self.heart.phase = heartbeat.IDLE
        while not self.draining:
            if not self._work():
                queue.wait(POLL_SECONDS)

    def _is_first(self) -> bool:
        """Whether it may begin jobs for any device: on a GPU always, else where no GPU is free."""
        free = [heart for heart in self.with_gpus if heart.phase == heartbeat.IDLE and heart.silence < self.settings.lease_seconds]
        return self.device == "cuda" or not free

    def _work(self) -> bool:
        """Train the next job; False when there is none."""
        try:
            taken = take(self.store, self.owner, self.settings.lease_seconds, self.threads, self.settings.max_running_per_token,
                         device=self.device, others=self._is_first())
        except StorageFull as error:
            log.error("%s", error.detail)
            return False
        if taken is None:
            return False
        self.heart.phase = heartbeat.BUSY
        if self.device == "cuda":
            self.wake.notify("queue")       # those without a GPU have left this job alone, and the ones behind it
        self.attempt = Attempt(self.store, self.settings, self.heart, taken, self.threads, self.recent)
        try:
            if self.draining:
                self.attempt.stop()
            watched(self.attempt)
            if self.attempt.lost_device:
                sys.exit(child.DEVICE_LOST)
        finally:
            self.attempt = None
            self.heart.limit_memory(0)
            self.heart.phase = heartbeat.IDLE
        return True

    def _tell(self, topic: str, word: str) -> None:
        """What the store tells after a commit."""
        if topic == "lease_expired":
            tally.count("lease_expired")
            log.warning("a job was taken from a worker that was not heard of any more", extra=logs.fields(job_id=word))
        self.wake.notify(topic, word)

    def _drain(self, *_: Any) -> None:
        """SIGTERM: write a checkpoint, give the job back, and go."""
        self.draining = True
        if (attempt := self.attempt) is not None:
            attempt.stop()
        self.wake.notify("queue")

    def _watch(self) -> None:
        """Look, once a second and whenever told to, whether the job is still to be trained; show how far it is."""
        seen = None
        while True:
            words = self.wake.wait("stop", LOOK_SECONDS)
            self.heart.live()
            self.with_gpus = [heart for heart in heartbeat.hearts(self.wake.folder).values() if heart.has_gpu]
            if (attempt := self.attempt) is None:
                continue
            if attempt.run is not None and attempt.run.progress != seen:
                seen = attempt.run.progress
                self.heart.beat()
            if not words or attempt.claim.job_id in words:
                attempt.look()


def watched(attempt: Attempt) -> None:
    """Do an attempt: counted, logged, and a span of the trace that its job was made in."""
    job_id, number, parent = attempt.claim.job_id, attempt.claim.attempt, attempt.row["traceparent"]
    about = traces.attributes(trainyard__job_id=job_id, trainyard__attempt=number)
    with logs.about(job_id=job_id), traces.span("job", "CONSUMER", parent, **about) as span:
        tally.count("attempts")
        log.info("attempt %d begins", number, extra=logs.fields(attempt=number))
        attempt.work()
        seconds, became = attempt.elapsed(), attempt.became
        tally.count("jobs_ended", became)
        tally.observe("job_duration_seconds", seconds, became)
        traces.note(span, "", "the job failed" if became == "failed" else "", trainyard__job_status=became)
        log.info("attempt %d ends: the job is %s", number, became or "another's", extra=logs.fields(
            attempt=number, status=became, seconds=round(seconds, 6)))


class Compiling(compiler.Listener):
    """Each pass of the compiler counts as progress."""

    def __init__(self, heart: Heartbeat):
        self.heart = heart

    def on_start(self, event: Any) -> None:
        self.heart.beat()

    on_end = on_start


def warm_up(device: str) -> None:
    """Train a toy, so that the first job finds everything loaded, compiled and in memory."""
    table = Table.from_columns({"x": np.zeros((4, 2), np.float32), "y": [0, 1, 0, 1]})
    for _ in start(Job.model_validate({**FIRST, "device": device}), {"inline": table}).events():
        pass
    gc.collect()
    gc.freeze()


def main() -> None:
    settings = Settings()
    logs.install(settings, "worker")
    tally.begin(run_folder(settings.home))
    child.load_numba()
    Worker(settings).run()


if __name__ == "__main__":
    main()
