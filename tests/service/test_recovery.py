"""What breaks is made good: killed supervisors, stalled trainers, poison jobs."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from tests.service.running import Running, classifier, until


def alive(pid: int) -> bool:
    return Path("/proc", str(pid)).exists()


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
