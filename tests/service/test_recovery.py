"""What breaks is made good: killed workers and supervisors, stale owners, poison jobs, damaged checkpoints."""

from __future__ import annotations

import fcntl
import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from service.jobs import TERMINAL
from tests.service.running import Running, classifier, until


def alive(pid: int) -> bool:
    return Path("/proc", str(pid)).exists()


def put_to_sleep(running: Running, pids: list[int]) -> bool:
    """Stop the processes, but not while one of them has the turn to write, which nobody else could then have."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(0.05)
    with open(f"{running.home / 'trainyard.db'}.lock", "ab") as queue, suppress(BlockingIOError):
        fcntl.flock(queue, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    return False


def test_a_killed_supervisor_leaves_no_process_and_the_next_one_goes_on_at_once(run: Callable[..., Running]) -> None:
    running = run()
    spec = classifier(running.dataset(), 100, units=256, every=5)
    whole = running.add(spec)
    running.wait(whole, "succeeded")
    job_id = running.add(spec, max_attempts=1)
    running.reached(job_id, 10)
    children = running.children()
    running.process.kill()
    running.process.wait()
    until(lambda: not any(map(alive, children)), 2)
    assert running.store.get_job(job_id)["status"] == "running"
    running.start()
    until(lambda: "job.requeued" in running.types(job_id))
    assert running.wait(job_id)["status"] == "succeeded"        # so it was no loss, nor a lease that ran out: one would have been too many
    assert running.weights(job_id) == running.weights(whole)


def test_a_trainer_without_a_finished_step_is_killed_as_stalled(run: Callable[..., Running]) -> None:
    running = run(stalled_seconds=3)
    job_id = running.add(classifier(running.dataset(), 100_000), max_attempts=1)
    running.reached(job_id, 1)
    os.kill(running.holder(job_id), signal.SIGSTOP)
    job = running.wait(job_id)
    assert job["status"] == "failed" and job["error"]["code"] == job["status_reason"] == "stalled" and job["error"]["kind"] == "timeout"


def test_a_job_that_kills_its_workers_fails_and_does_not_hold_up_the_next_one(running: Running) -> None:
    dataset = running.dataset()
    poison = running.add(classifier(dataset, 100_000), max_attempts=2, priority=1)
    good = running.add(classifier(dataset, 2))
    killed: set[int] = set()
    while len(killed) < 2:
        if (pid := running.holder(poison)) not in killed:
            os.kill(pid, signal.SIGSEGV)
            killed.add(pid)
        time.sleep(0.02)
    job = running.wait(poison)
    assert job["status"] == "failed" and job["error"]["code"] == "signal_11" and job["error"]["kind"] == "system" and job["attempt"] == 2
    assert [attempt["ended_by"] for attempt in running.store.attempts(poison)] == ["signal_11", "signal_11"]
    assert running.wait(good)["status"] == "succeeded"


def test_a_job_beyond_its_memory_fails_at_once_and_says_how_much_it_took(run: Callable[..., Running]) -> None:
    running = run(max_memory_bytes=1_000_000)
    job = running.wait(running.add(classifier(running.dataset(), 100_000, units=50_000)))
    assert job["status"] == "failed" and job["error"]["code"] == "memory_limit" and job["error"]["kind"] == "resource" and job["attempt"] == 1
    assert "its limit is 1,000,000" in job["message"] and job["hint"]


def test_an_owner_that_slept_through_its_lease_can_write_no_more(run: Callable[..., Running]) -> None:
    running = run(lease_seconds=2, renew_seconds=0.5)
    job_id = running.add(classifier(running.dataset(), 100_000, every=5))
    running.reached(job_id, 6)
    asleep = [running.process.pid, running.holder(job_id)]
    until(lambda: put_to_sleep(running, asleep))
    time.sleep(8)       # four leases
    taken = until(lambda: running.store.claim("another", 15))
    assert taken is not None and taken[0].job_id == job_id and taken[0].attempt == 2
    before = len(running.store.events(job_id, limit=1000))
    for pid in asleep:
        os.kill(pid, signal.SIGCONT)
    until(lambda: "idle" in running.phases())       # the old owner has let go
    assert len(running.store.events(job_id, limit=1000)) == before
    assert [job["id"] for job in running.store.renew("another", 15)] == [job_id]
    ended = running.store.finish(taken[0], "succeeded", reason="completed", message="Done.")
    assert ended.status == "succeeded" and running.types(job_id).count("job.succeeded") == 1


def test_a_damaged_checkpoint_is_noticed_and_the_one_before_is_used(running: Running) -> None:
    spec = classifier(running.dataset(), 60, every=5)
    whole = running.add(spec)
    running.wait(whole, "succeeded")
    job_id = running.add(spec)
    running.reached(job_id, 20)
    running.store.request_pause(job_id)
    running.wait(job_id, "paused")
    rows = running.store.checkpoints(job_id)
    file = running.home / rows[0]["path"]
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    running.store.resume(job_id)
    assert running.wait(job_id)["status"] == "succeeded"
    warnings = [event for event in running.store.events(job_id, limit=1000) if event["type"] == "warning"]
    assert [event["data"]["code"] for event in warnings] == ["checkpoint_corrupt"] and f"step {rows[1]['step']}" in warnings[0]["message"]
    assert running.weights(job_id) == running.weights(whole) and running.types(job_id).count("epoch") == 60


@pytest.mark.parametrize("point", ["checkpoint.after_rename:2"] + [pytest.param(point, marks=pytest.mark.slow) for point in (
    "checkpoint.mid_write:2", "checkpoint.before_fsync:2", "checkpoint.after_folder_fsync:2", "record.before_commit:4", "record.after_commit:4",
    "claim.before_commit:2", "claim.after_commit:2", "finish.after_commit:1")])
def test_a_worker_that_dies_at_a_named_point_loses_nothing(run: Callable[..., Running], point: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAINYARD_CRASH_POINT", point)
    running = run()
    spec = classifier(running.dataset(), 15, every=5)
    first, second = running.add(spec), running.add(spec)
    for job_id in (first, second):
        assert running.wait(job_id)["status"] == "succeeded"
    assert running.weights(first) == running.weights(second) and running.types(second).count("epoch") == 15
    assert {str(path.relative_to(running.home)) for path in (running.home / "jobs").rglob("*.safetensors")} == running.store.checkpoint_paths()
