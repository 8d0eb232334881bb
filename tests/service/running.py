"""A real supervisor with its children, and jobs for it."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from service import artifacts, datasets, heartbeat
from service.jobs import TERMINAL
from service.store import Store
from service.stream import Wake

ROOT = Path(__file__).parents[2]
Found = TypeVar("Found")


def until(look: Callable[[], Found], seconds: float = 60.0) -> Found:
    """What `look` finds, as soon as it finds anything."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)
    return found


class Running:
    """`python -m service.supervisor` on a home folder; `settings` are its environment variables without the prefix."""

    def __init__(self, home: Path, role: str = "worker", **settings: Any):
        self.home, self.role = home, role
        self.log = (home.parent / f"{home.name}.log").open("ab")
        self.settings = {f"TRAINYARD_{name.upper()}": str(value) for name, value in {"home": home, "port": 0, **settings}.items()}
        self.start()
        until(lambda: {"busy", "idle"} & set(self.phases()), 90)
        self.store = Store.at(home, self.settings.get("TRAINYARD_STORE", ""), Wake(home).notify)

    def start(self) -> None:
        command = [sys.executable, "-m", "service.supervisor", *([] if self.role == "serve" else [self.role])]
        self.process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **self.settings}, stdout=subprocess.PIPE, stderr=self.log, text=True)

    def phases(self) -> list[str]:
        return list(self.workers().values())

    def workers(self) -> dict[int, str]:
        """The phase of each worker, by pid."""
        return heartbeat.workers(Wake(self.home).folder)

    def children(self) -> list[int]:
        """Processes of this supervisor that live."""
        listed = Path("/proc", str(self.process.pid), "task", str(self.process.pid), "children")
        return [int(pid) for pid in listed.read_text().split()] if listed.exists() else []

    def holder(self, job_id: str) -> int:
        """The worker that trains the job, as soon as there is one."""
        def look() -> int:
            job = self.store.get_job(job_id)
            assert job["status"] not in TERMINAL, job["message"]
            return (job["worker"] or {}).get("pid", 0)
        return until(look)

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(45)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.log.close()

    # ---------------------------------------------------------------- jobs

    def add(self, spec: dict[str, Any], **columns: Any) -> str:
        """Queue a job; the id."""
        return self.store.add_job(spec, {"steps_per_epoch": 1000}, epochs=spec["epochs"], **columns)["id"]

    def wait(self, job_id: str, *states: str, seconds: float = 150) -> dict[str, Any]:
        """The job, once it is in one of the states; terminal ones by default."""
        return until(lambda: job if (job := self.store.get_job(job_id))["status"] in (states or TERMINAL) else None, seconds)

    def types(self, job_id: str) -> list[str]:
        return [event["type"] for event in self.store.events(job_id, limit=1000)]

    def reached(self, job_id: str, epoch: int) -> None:
        until(lambda: self.store.get_job(job_id)["epoch"] >= epoch)

    def weights(self, job_id: str) -> str:
        """SHA-256 of the last checkpoint's bytes, read from its file."""
        row = self.store.checkpoint(job_id)
        data = artifacts.read_checkpoint(self.home, row)
        assert data is not None
        return hashlib.sha256(data).hexdigest()

    def dataset(self, rows: int = 4000) -> str:
        """Numbers in 16 columns and 3 classes; the id."""
        x = np.random.default_rng(0).normal(size=(rows, 16)).round(3)
        taken = datasets.ingest_inline(self.home, columns={"x": x.tolist(), "y": (np.abs(x).sum(1) % 3).astype(int).tolist()}, name="small")
        return self.store.add_dataset(taken.record)["id"]


def classifier(dataset: str, epochs: int, *, units: int = 1024, every: int | None = None, **more: Any) -> dict[str, Any]:
    """A job of 1,000 steps an epoch, which take about 50 ms, with a checkpoint every so many epochs."""
    return {"model": {"kind": "chain", "layers": [{"kind": "dense", "units": units, "activation": "relu"}, {"kind": "dense", "units": 3}]},
            "loss": "logit_cross_entropy", "optimiser": {"kind": "adam"}, "epochs": epochs,
            "data": {"dataset": dataset, "target": "y", "batch_size": 4},
            **({"callbacks": [{"kind": "checkpoint", "every_epochs": every}]} if every else {}), **more}
