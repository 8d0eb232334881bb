"""R1. SIGKILL of the trainer at 200 random instants of a seeded job of 50 epochs: the last checkpoint, optimiser state included, always has the same
SHA-256, and 50 epoch events tell bit-equal losses."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress

from service.jobs import TERMINAL
from tests.reliability.sizes import short_or_full
from tests.service.running import Running, classifier, until

EPOCHS = 50


def told(running: Running, job_id: str) -> list[tuple[int, float]]:
    """Epoch and loss of every epoch event; the events are numbered without a gap."""
    events = running.store.events(job_id, limit=1000)
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    return [(event["data"]["epoch"], event["data"]["train_loss"]) for event in events if event["type"] == "epoch"]


def kill_trainer(running: Running, job_id: str, killed: set[int], seconds: float) -> bool:
    """Kill the process that trains the job, so long after it is seen to do so; False when the job has ended by then."""
    def look() -> int:
        job = running.store.get_job(job_id)
        pid = (job["worker"] or {}).get("pid", 0)       # one that was killed before stays there for a moment
        return -1 if job["status"] in TERMINAL else pid if pid not in killed else 0

    if (pid := until(look)) < 0:
        return False
    time.sleep(seconds)
    if look() != pid:
        return False
    killed.add(pid)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    return True


@short_or_full("kills", 20, 200)
def test_a_job_ends_with_the_same_bytes_whenever_its_trainer_is_killed(running: Running, kills: int, shown: Callable[[str], None]) -> None:
    chance, spec = random.Random(1), classifier(running.dataset(), EPOCHS, units=256, every=5)
    whole = running.add(spec)
    running.holder(whole)
    began = time.monotonic()
    running.wait(whole, "succeeded")
    length = time.monotonic() - began
    losses = told(running, whole)
    assert [epoch for epoch, _ in losses] == list(range(1, EPOCHS + 1))
    done = jobs = 0
    while done < kills:
        job_id, jobs, killed = running.add(spec, max_attempts=1000), jobs + 1, set[int]()
        while done + len(killed) < kills and kill_trainer(running, job_id, killed, chance.random() * length):
            pass
        assert running.wait(job_id)["status"] == "succeeded"
        assert running.weights(job_id) == running.weights(whole) and told(running, job_id) == losses
        done += [attempt["ended_by"] for attempt in running.store.attempts(job_id)].count("signal_9")
    shown(f"{done} kills in {jobs} jobs of {EPOCHS} epochs: every last checkpoint has the same SHA-256, every epoch was told once with the same loss")
