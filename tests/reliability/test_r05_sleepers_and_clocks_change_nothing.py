"""R5. A worker, or a worker with its supervisor, is stopped (SIGSTOP) for 4 leases, then continued; the clock jumps by an hour and by a day, forwards
and back: no stale write, one success, the same bytes."""

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

from tests.reliability.sizes import short_or_full
from tests.service.running import Running, classifier, until

LEASE = 1.0
SHORT_LEASES = {"lease_seconds": LEASE, "renew_seconds": LEASE / 4}
HOUR, DAY = 3600, 86400
FAKE_CLOCK = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")       # of the Debian package libfaketime


def put_to_sleep(running: Running, pids: list[int]) -> bool:
    """Stop the processes, but not while one of them has the turn to write, which nobody else could then have."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(0.05)
    with open(f"{running.home / 'trainyard.db'}.lock", "ab") as queue, suppress(BlockingIOError):
        fcntl.flock(queue, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    wake(pids)
    return False


def wake(pids: list[int]) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGCONT)


@short_or_full("rounds", 1, 25)
def test_an_owner_that_slept_through_its_lease_can_write_no_more(run: Callable[..., Running], rounds: int, shown: Callable[[str], None]) -> None:
    running, woke = run(**SHORT_LEASES), []
    store, dataset = running.store, running.dataset()
    for number in range(rounds):
        job_id = running.add(classifier(dataset, 100_000, every=5))
        running.reached(job_id, 6)
        asleep = [running.process.pid, running.holder(job_id)]
        until(lambda asleep=asleep: put_to_sleep(running, asleep))
        time.sleep(4 * LEASE)
        claim, row = until(lambda: store.claim("another", 8 * LEASE))
        assert claim.job_id == job_id and row["attempt"] > 1
        before = store.head(job_id)
        wake(asleep)
        began = time.monotonic()
        until(lambda: "idle" in running.phases())       # the old owner has let go
        woke.append(time.monotonic() - began)
        assert store.head(job_id) == before and store.get_job(job_id)["lease_owner"] == "another"
        assert store.finish(claim, "succeeded", reason="completed", message=f"Round {number}.").status == "succeeded"
        assert running.types(job_id).count("job.succeeded") == 1
    shown(f"{rounds} owners that slept 4 leases wrote nothing after it and let go within {max(woke):.1f} s; each job succeeded once")


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize("rounds", [10])
def test_a_worker_that_slept_while_its_lease_was_renewed_goes_on(run: Callable[..., Running], rounds: int, shown: Callable[[str], None]) -> None:
    running = run(**SHORT_LEASES)
    spec = classifier(running.dataset(), 30, every=5)
    whole = running.add(spec)
    running.wait(whole, "succeeded")
    for _ in range(rounds):
        job_id = running.add(spec)
        running.reached(job_id, 3)
        pid = running.holder(job_id)
        until(lambda pid=pid: put_to_sleep(running, [pid]))
        time.sleep(4 * LEASE)
        wake([pid])
        assert running.wait(job_id)["status"] == "succeeded" and running.weights(job_id) == running.weights(whole)
        assert running.types(job_id).count("job.succeeded") == 1 and running.types(job_id).count("epoch") == 30
    shown(f"{rounds} workers that slept 4 leases went on to the same bytes")


@pytest.mark.skipif(not FAKE_CLOCK.exists(), reason="needs the Debian package libfaketime")
@short_or_full("rounds", 1, 10)
def test_a_clock_that_jumps_changes_no_bit(run: Callable[..., Running], tmp_path: Path, rounds: int, monkeypatch: pytest.MonkeyPatch,
                                           shown: Callable[[str], None]) -> None:
    clock, chance = tmp_path / "clock", random.Random(5)
    clock.write_text("+0")
    for name, value in {"TIMESTAMP_FILE": clock, "CACHE_DURATION": 1, "DONT_FAKE_MONOTONIC": 1}.items():
        monkeypatch.setenv(f"FAKETIME_{name}", str(value))
    monkeypatch.setenv("LD_PRELOAD", str(FAKE_CLOCK))
    running = run(workers=2, **SHORT_LEASES)
    spec = classifier(running.dataset(), 20, every=5)
    whole = running.add(spec)
    running.wait(whole, "succeeded")
    claims = 0
    for _ in range(rounds):
        job_id = running.add(spec)
        running.holder(job_id)
        for offset in (HOUR, 0, DAY, 0):
            time.sleep(chance.random())
            clock.write_text(f"+{offset}")
        job = running.wait(job_id)
        assert job["status"] == "succeeded", job["message"]
        claims += job["attempt"]
        assert running.weights(job_id) == running.weights(whole)
        assert running.types(job_id).count("job.succeeded") == 1 and running.types(job_id).count("epoch") == 20
        assert [attempt["ended_by"] for attempt in running.store.attempts(job_id)].count("succeeded") == 1
    shown(f"{4 * rounds} jumps of an hour and a day, there and back, in {rounds} jobs under libfaketime: {claims} claims, {rounds} successes, "
          "the same bytes")
