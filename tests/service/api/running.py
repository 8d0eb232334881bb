"""A real server process on a free port, what to send it, and what a worker would do to its jobs."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from service.jobs import Event
from service.store import Store
from service.store.curves import Curve
from service.stream import Wake

ROOT = Path(__file__).parents[3]
JOB: dict[str, Any] = {
    "name": "small", "model": {"kind": "chain", "layers": [{"kind": "dense", "units": 4, "activation": "relu"}, {"kind": "dense", "units": 3}]},
    "loss": "logit_cross_entropy", "optimiser": {"kind": "adam", "learning_rate": 0.01}, "epochs": 2,
    "data": {"dataset": {"columns": {"x": [[0.0, 1.0], [1.0, 0.0], [1.0, 1.0], [0.5, 0.0]], "y": [0, 1, 2, 0]}}, "target": "y", "batch_size": 2},
}
FIRST = {**JOB, "priority": 100}        # claimed before the jobs of other tests
SAMPLE_JOB = {**JOB, "data": {"dataset": "sample:digits", "target": "label"}, "model": {"kind": "dense", "units": 10}}


@dataclass
class Running:
    """A server process, and what it works on."""

    process: subprocess.Popen[bytes]
    home: Path
    http: httpx.Client
    url: str

    def store(self) -> Store:
        """The server's store, opened as a worker would."""
        return Store.at(self.home, notify=Wake(self.home).notify)

    def stop(self) -> int:
        """SIGTERM, as the supervisor does it; returns the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(15)


def start(home: Path, port: int, **variables: str) -> Running:
    environment = {**os.environ, "TRAINYARD_HOME": str(home), "TRAINYARD_PORT": str(port), **variables}
    process = subprocess.Popen([sys.executable, "-m", "service.app"], env=environment, cwd=ROOT)
    url = f"http://127.0.0.1:{port}"
    client = httpx.Client(base_url=url, timeout=30, trust_env=False)
    end = time.monotonic() + 60
    while True:
        try:
            client.get("/healthz")
            return Running(process, home, client, url)
        except httpx.TransportError:
            if process.poll() is not None or time.monotonic() > end:
                raise
            time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run_job(server: Running, job_id: str, epochs: int = 3, losses: tuple[float, ...] = ()) -> None:
    """Do in the store what a worker would do: claim the job, tell of some epochs, end it."""
    store = server.store()
    claimed = store.claim("test", 60, {"pid": 1, "threads": 1})
    assert claimed is not None and claimed[0].job_id == job_id
    claim = claimed[0]
    store.record(claim, events=[Event("job.started", "Attempt 1 starts.", {"attempt": 1})])
    for epoch in range(1, epochs + 1):
        loss = losses[epoch - 1] if losses else 1.0 / epoch
        event = Event("epoch", f"Epoch {epoch}.", {"epoch": epoch, "epochs": epochs, "step": 10 * epoch, "train_loss": loss}, key=f"epoch:{epoch}")
        store.record(claim, events=[event], job={"epoch": epoch, "step": 10 * epoch, "metrics": {"train_loss": loss}},
                     curves={"loss": Curve(range(10 * epoch - 9, 10 * epoch + 1), [loss] * 10)})
    store.finish(claim, "succeeded", reason="completed", message="The job is done.")
    store.close()


def problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The body of an error, which has the one shape."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["status"] == status and body["code"] == code and body["type"] == f"/docs/errors#{code}"
    assert body["title"] and body["detail"] and body["instance"] == answer.request.url.path
    return body


def pointers(body: dict[str, Any]) -> dict[str, str]:
    """The codes of a body's problems by their pointers."""
    return {found["pointer"]: found["code"] for found in body["errors"]}
