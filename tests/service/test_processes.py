"""The tree of processes: who starts whom, what a job's row says while it is trained, and how everything ends."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from service import child
from service.settings import Settings
from service.store.curves import chart
from tests.service.running import ROOT, Running, classifier, until

LONG = 100_000      # epochs of a job that is stopped before its end


def ask(url: str, body: dict[str, Any]) -> dict[str, Any]:
    """The JSON answer to a POST."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def test_the_supervisor_imports_nothing_large() -> None:
    large = {"fastapi", "numba", "uvicorn", "scipy", "numpy", "alembic", "engine", "sqlalchemy.dialects.postgresql"}
    code = f"import sys, service.supervisor; print(*{large} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip() == ""


def test_a_store_of_a_newer_program_is_left_alone_and_told_in_one_line(home: Path) -> None:
    with sqlite3.connect(home / "trainyard.db") as raw:
        raw.execute("UPDATE alembic_version SET version_num = '9999'")
    environment = {**os.environ, "TRAINYARD_HOME": str(home)}
    ended = subprocess.run([sys.executable, "-m", "service.supervisor", "worker"], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert not list((home / "run").glob("worker.*"))      # nobody has begun
    assert ended.returncode == 1 and ended.stdout == "" and "newer program" in ended.stderr and len(ended.stderr.splitlines()) == 1


def test_a_child_at_the_gate_does_nothing_until_it_is_opened(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    for opened in (False, True):
        gate, end = os.pipe()
        how: dict[str, Any] = {"inherit": (gate,), child.GATE: str(gate)}
        waiting = child.start("service.store.migrate", settings, **how)
        assert waiting.poll() is None and not (tmp_path / "trainyard.db").exists()
        if opened:
            os.write(end, b".")
        os.close(end)
        assert waiting.wait(60) == 0 and (tmp_path / "trainyard.db").exists() == opened
        os.close(gate)


def test_a_served_job_can_be_paused_resumed_and_cancelled(running: Running) -> None:
    job_id = running.add(classifier(running.dataset(), LONG))
    running.reached(job_id, 2)
    row = running.store.get_job(job_id)
    assert row["worker"]["pid"] in running.children() and row["worker"]["threads"] >= 1
    assert 0 < row["progress"] < 1 and row["eta_seconds"] > 0 and row["elapsed_seconds"] > 0
    assert row["step"] >= 2000 and row["metrics"]["train_loss"] > 0 and row["best"]["epoch"] >= 1

    running.store.request_pause(job_id)
    paused = running.wait(job_id, "paused", seconds=20)
    assert running.store.checkpoint(job_id)["step"] == paused["step"] and paused["worker"] is None

    running.store.resume(job_id)
    running.reached(job_id, paused["epoch"] + 1)
    running.store.request_cancel(job_id)
    running.wait(job_id, "cancelled", seconds=20)        # a trainer that does not stop is killed after 30
    events = running.store.events(job_id, limit=1000, types=["epoch", "job.started"])
    assert [event["data"]["resumed_from"] for event in events if event["type"] == "job.started"] == [0, paused["step"]]
    epochs = [event["data"]["epoch"] for event in events if event["type"] == "epoch"]
    assert epochs == list(range(1, len(epochs) + 1))


def test_a_drain_gives_a_running_job_back_and_a_later_start_ends_it_with_the_same_bytes(run: Callable[..., Running]) -> None:
    running = run()
    spec = classifier(running.dataset(), 40)
    whole = running.add(spec)
    running.wait(whole, "succeeded")
    job_id = running.add(spec)
    running.reached(job_id, 3)
    assert running.stop() == 0 and not running.workers()
    row = running.store.get_job(job_id)
    assert row["status"] == "queued" and row["status_reason"] == "draining" and row["losses"] == 0
    assert running.types(job_id)[-1] == "job.requeued" and 0 < running.store.checkpoint(job_id)["step"] < 40_000
    running.start()
    assert running.wait(job_id)["status"] == "succeeded"
    assert running.weights(job_id) == running.weights(whole)
    assert running.types(job_id).count("epoch") == 40


def test_a_short_job_tells_all_its_events_and_ends_with_a_sentence(running: Running) -> None:
    job = running.wait(running.add(classifier(running.dataset(400), 3, metrics=["accuracy"])))
    assert (job["status"], job["status_reason"], job["progress"]) == ("succeeded", "completed", 1.0), job
    assert job["message"].startswith("Trained 3 epochs in ") and job["error"] is None
    assert running.types(job["id"]) == ["job.queued", "job.started", "epoch", "epoch", "epoch", "checkpoint", "job.succeeded"]
    steps = chart(running.store, job["id"], by="step", points=1000)["columns"]["step"]
    assert list(steps) == list(range(1, 301))


def test_a_job_whose_dataset_is_gone_fails_with_what_to_do(running: Running) -> None:
    job = running.wait(running.add(classifier("ds_00000000000000000000000000", 3)))
    assert job["status"] == "failed" and job["error"]["code"] == "dataset_missing" and job["error"]["kind"] == "user"
    assert job["message"].endswith(".") and job["hint"]


def test_serve_says_when_it_is_ready_owns_its_home_and_stops_with_its_children(run: Callable[..., Running]) -> None:
    running = run("serve")
    assert running.process.stdout is not None
    line = running.process.stdout.readline()
    assert line.startswith("Trainyard is ready at http://127.0.0.1:")
    url = line.split()[-1]
    with urllib.request.urlopen(f"{url}/readyz") as answer:
        assert answer.status == 200

    command = [sys.executable, "-m", "service.supervisor"]
    second = subprocess.run(command, cwd=ROOT, env={"PATH": "", **running.settings}, capture_output=True, text=True)
    assert second.returncode == 1 and "already runs" in second.stderr

    api = next(pid for pid in running.children() if pid not in running.workers())
    os.kill(api, signal.SIGKILL)
    until(lambda: api not in running.children())
    with urllib.request.urlopen(f"{url}/healthz", timeout=20) as answer:     # the socket is the supervisor's: nobody is refused meanwhile
        assert answer.status == 200

    job_id = running.add(classifier(running.dataset(400), 3))
    running.wait(job_id)
    first_answer = ask(f"{url}/v1/jobs/{job_id}/predict", {"inputs": [[0.5] * 16]})
    assert len(first_answer["probabilities"][0]) == 3 and first_answer["classes"][0] in (0, 1, 2)
    derivatives = ask(f"{url}/v1/jobs/{job_id}/gradients", {"data": {"columns": {"x": [[0.5] * 16], "y": [1]}}})
    assert derivatives["value"] > 0 and len(derivatives["gradients"]["layers.1.bias"]) == 3
    predictor = next(pid for pid in running.children() if "service.predictor" in Path("/proc", str(pid), "cmdline").read_text())
    os.kill(predictor, signal.SIGKILL)
    until(lambda: predictor not in running.children())
    assert ask(f"{url}/v1/jobs/{job_id}/predict", {"inputs": [[0.5] * 16]})["outputs"] == first_answer["outputs"]

    children = running.children()
    running.process.send_signal(signal.SIGINT)
    assert running.process.wait(45) == 0
    assert not [pid for pid in children if Path("/proc", str(pid)).exists()]
