"""The workers of one supervisor: started, watched, replaced; their leases renewed, and the store told when one is lost."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from service import child, devices, heartbeat, logs, tally
from service.ahead import WORKER, Process, of_worker
from service.errors import ServiceError, StaleFence
from service.heartbeat import Heartbeat
from service.jobs import Claim, seconds_now, seconds_of
from service.settings import Settings
from service.store import Store

log = logs.of("supervisor")
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 30.0
LOOK_SECONDS, LONGEST_LOOK, SAID_SECONDS = 0.5, 5.0, 60.0
START_SECONDS = 120.0       # for a worker to become ready
OOM_COUNTS = (Path("/sys/fs/cgroup/memory.events"), Path("/sys/fs/cgroup/memory/memory.oom_control"))


@dataclass(frozen=True)
class Verdict:
    """Why a worker is gone. Of kind "system" it is not the job's fault, which is then tried again; else the job would end in the same way again."""

    code: str
    kind: str
    message: str
    hint: str | None = None


LOST = Verdict("worker_lost", "system", "The worker was lost.")
OUT_OF_MEMORY = Verdict("out_of_memory", "resource", "The system ran out of memory and ended the worker.",
                        "Try a smaller batch_size or a smaller model.")


class Child:
    """A process that is started again when it ends: at once, but with growing pauses while it ends before it is ready."""

    def __init__(self, module: str, settings: Settings, **started_with: Any):
        self.module, self.settings, self.started_with = module, settings, started_with
        self.process: Process | None = None
        self.ready = False
        self.failures = 0           # ends in a row before it was ready
        self.start_at = 0.0

    @property
    def pid(self) -> int:
        return self.process.pid if self.process else 0

    def keep(self) -> int | None:
        """Start it where it should run and does not. The return code when it has just ended."""
        if self.process is None:
            if time.monotonic() >= self.start_at:
                self.process = child.start(self.module, self.settings, **self.started_with)
            return None
        code = self.process.poll()
        if code is None:
            return None
        self.failures = 0 if self.ready else self.failures + 1
        pause = 0.0 if self.ready else min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** self.failures)
        self.process, self.ready, self.start_at = None, False, time.monotonic() + pause
        return code

    def send(self, number: signal.Signals) -> None:
        """Send a signal, if there is a process."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)


class Worker(Child):
    """A worker as seen from outside; `gpu` is what CUDA calls the one that it has, "" without one."""

    def __init__(self, settings: Settings, owner: str, number: int, gpu: str = "", process: Process | None = None):
        super().__init__(WORKER, settings, **of_worker(owner, number, gpu))
        self.process = process
        self.heart: Heartbeat | None = None
        self.seen: tuple[int, int] = (0, 0)     # fence and progress at the last look
        self.looked_at = time.monotonic()
        self.still = 0.0                        # seconds that it was watched since they changed: a machine that sleeps stalls nobody
        self.verdict: Verdict | None = None     # why it was killed

    @property
    def awake(self) -> bool:
        return self.heart is not None and self.heart.is_awake(self.settings.lease_seconds)

    def keep(self) -> int | None:
        code = super().keep()
        if code is not None and self.heart is not None:
            self.heart.path.unlink(missing_ok=True)
            self.heart = None
        return code

    def greet(self, folder: Path) -> None:
        """Find its heart, and note that it is ready."""
        if self.heart is None:
            self.still = 0.0
            with suppress(OSError, ValueError):
                self.heart = Heartbeat(folder, self.pid)
        self.ready = self.ready or (self.heart is not None and self.heart.phase != heartbeat.STARTING)

    def look(self, job: Mapping[str, Any] | None) -> None:
        """Kill it when its job makes no progress, takes too much memory or does not stop as it was asked to."""
        now, before = time.monotonic(), self.looked_at
        self.looked_at, self.still = now, self.still + min(now - before, LONGEST_LOOK)
        if self.heart is None or self.process is None or self.verdict is not None:
            return
        seen = (job["fence"] if job else 0, self.heart.progress)
        if seen != self.seen or (job is None and self.ready):
            self.seen, self.still = seen, 0.0
        self.verdict = self._judge(job)
        if self.verdict is not None:
            self.send(signal.SIGKILL)

    def _judge(self, job: Mapping[str, Any] | None) -> Verdict | None:
        assert self.heart is not None
        limits = self.settings
        patience = limits.stalled_seconds if job else max(limits.stalled_seconds, START_SECONDS)
        if self.still > patience:
            return Verdict("stalled", "timeout", f"No step was finished for {patience:g} seconds.",
                           "Try a smaller batch_size; or fork the job from its last checkpoint, if the machine was at fault.")
        used, most = heartbeat.resident(self.pid) - self.heart.memory_before, self.heart.memory_limit
        if most and used > most:
            return Verdict("memory_limit", "resource", f"The job used {used:,} bytes of memory; its limit is {most:,}.",
                           "Try a smaller batch_size, or a higher limits.max_memory_bytes.")
        if job and job["stop_requested_at"] and seconds_now() - seconds_of(job["stop_requested_at"]) > limits.cancel_seconds:
            return Verdict("worker_lost", "system", "The worker did not stop when it was asked to.")
        return None


class Crew:
    """All workers under one owner's name.

    A worker that is stopped in the middle of a write holds up every other writer. So another thread writes, and this one goes on watching, until it
    kills that worker.
    """

    def __init__(self, settings: Settings, store: Store, folder: Path, owner: str, processes: Sequence[Process], shared: bool):
        """`shared`: others may look at the store who cannot see these processes, and are told of them."""
        self.settings, self.store, self.folder, self.owner = settings, store, folder, owner
        self.workers = [Worker(settings, owner, number, process=process) for number, process in enumerate(processes)]
        self.gpus: tuple[dict[str, Any], ...] = ()
        self.shared = shared and bool(processes)
        self.told = 0                               # how many workers were awake when the store was told last
        self.bereaved: dict[int, Verdict] = {}      # dead workers whose jobs the store has not been told about
        self._writer = ThreadPoolExecutor(1, "store")
        self._written = self._writer.submit(lambda: None)
        self.kills = oom_kills()
        self.look_at = self.renew_at = 0.0

    def give(self, gpus: tuple[dict[str, Any], ...]) -> None:
        """Start a worker for each of these GPUs, beside the others, and let everybody at the store know of them."""
        self.gpus, self.shared, self.renew_at = gpus, self.shared or bool(gpus), 0.0
        self.workers += [Worker(self.settings, self.owner, number, gpu) for number, gpu in enumerate(devices.names(gpus), len(self.workers))]

    @property
    def ready(self) -> bool:
        """Whether a job would be taken up at once."""
        return not self.workers or any(worker.ready for worker in self.workers)

    @property
    def gone(self) -> bool:
        return all(worker.process is None or worker.process.poll() is not None for worker in self.workers)

    def keep(self) -> None:
        """Replace who has ended, judge who has not, renew what they hold."""
        for worker in self.workers:
            pid = worker.pid
            if (code := worker.keep()) is not None:
                self.bury(worker, pid, code)
                worker.keep()
            if not worker.ready:
                worker.greet(self.folder)
        if self.bereaved or time.monotonic() >= self.look_at:
            self.look_at = time.monotonic() + LOOK_SECONDS
            self._look()

    def bury(self, worker: Worker, pid: int, code: int) -> None:
        """Note why a worker ended."""
        verdict = worker.verdict or self._post_mortem(code)
        worker.verdict, self.bereaved[pid] = None, verdict
        tally.count("workers_lost")
        log.warning("worker %d ended: %s", pid, verdict.message, extra=logs.fields(code=verdict.code))

    def _post_mortem(self, code: int) -> Verdict:
        before, self.kills = self.kills, oom_kills()
        if code == -signal.SIGKILL and self.kills > before:
            return OUT_OF_MEMORY
        if code < 0:
            name = signal.Signals(-code).name if -code in list(signal.Signals) else "unknown"
            return Verdict(f"signal_{-code}", "system", f"The worker was ended by signal {-code} ({name}).")
        if code == child.DEVICE_LOST:
            return Verdict("device_lost", "system", "The GPU failed under the worker.")
        return Verdict(f"exit_{code}", "system", f"The worker ended by itself with exit status {code}.")

    def _look(self) -> None:
        """See what the workers do with what they hold; let the store be told what it does not know."""
        with _complaining():
            held = {job["worker"]["pid"]: job for job in self.store.owned(self.owner) if job["worker"]}
            for worker in self.workers:
                worker.look(held.get(worker.pid))
            self.bereaved = {pid: verdict for pid, verdict in self.bereaved.items() if pid in held}
            living = {worker.pid for worker in self.workers}
            orphans = [(job, self.bereaved.get(pid, LOST)) for pid, job in held.items() if pid not in living]
            if orphans or held or self.shared:
                self._write(orphans)

    def _write(self, orphans: Sequence[tuple[Mapping[str, Any], Verdict]] = ()) -> None:
        """Renew leases that are due and tell of lost jobs, in the other thread, unless it is still waiting for the store."""
        awake = sum(worker.awake for worker in self.workers)
        if self.shared and awake != self.told:
            self.renew_at = 0.0
        if self._written.done() and (orphans or time.monotonic() >= self.renew_at):
            self._written = self._writer.submit(self._write_now, orphans, awake)

    def _write_now(self, orphans: Sequence[tuple[Mapping[str, Any], Verdict]], awake: int) -> None:
        with _complaining():
            if time.monotonic() >= self.renew_at:
                self.store.renew(self.owner, self.settings.lease_seconds)
                if self.shared:
                    self.store.tell_supervisor(self.owner, self.gpus, awake, self.settings.lease_seconds)
                    self.told = awake
                self.renew_at = time.monotonic() + self.settings.renew_seconds
            for job, verdict in orphans:
                self._tell(job, verdict)

    def _tell(self, job: Mapping[str, Any], verdict: Verdict) -> None:
        """What becomes of a job whose worker is gone."""
        with suppress(StaleFence):
            row = self.store.lost(job["id"], job["fence"], **asdict(verdict))
            tally.count("jobs_ended", row["status"])
            log.warning("the job of a lost worker is %s: %s", row["status"], verdict.message, extra=logs.fields(job_id=job["id"], code=verdict.code))

    def hold(self) -> None:
        """Renew leases while workers drain; nothing else is done for them any more."""
        self._write()

    def drain(self) -> None:
        """Ask every worker to write a checkpoint, give its job back, and end."""
        if self.shared:
            self._writer.submit(self._leave)
        self.shared = False
        for worker in self.workers:
            worker.send(signal.SIGTERM)

    def _leave(self) -> None:
        with _complaining():
            self.store.tell_supervisor(self.owner, (), 0, 0.0)

    def kill(self) -> None:
        for worker in self.workers:
            worker.send(signal.SIGKILL)

    def give_back(self, sole: bool, reason: str) -> None:
        """Put jobs of dead supervisors, and whatever this one still holds, back into the queue. It never counts as a loss."""
        for job in self.store.owned():
            if job["lease_owner"] == self.owner or child.is_dead(job["lease_owner"], sole):
                with suppress(StaleFence):
                    self.store.release(Claim(job["id"], job["fence"], job["attempt"], job["lease_owner"]), reason)


_complained: dict[str, float] = {}


@contextmanager
def _complaining() -> Iterator[None]:
    """A store that cannot be used just now is tried again at the next turn; it is said once a minute."""
    try:
        yield
    except (ServiceError, SQLAlchemyError) as error:
        said = str(error)
        if time.monotonic() - _complained.get(said, -SAID_SECONDS) >= SAID_SECONDS:
            _complained[said] = time.monotonic()
            log.error("the store cannot be used: %s", said)


def oom_kills() -> int:
    """How many processes around here the kernel has ended for want of memory."""
    for path in OOM_COUNTS:
        with suppress(OSError):
            for line in path.read_text().splitlines():
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
    return 0
