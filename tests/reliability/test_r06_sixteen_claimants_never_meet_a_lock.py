"""R6. 16 processes claim 5,000 no-op jobs on every store there is: each is claimed once, and nobody ever meets a lock."""

from __future__ import annotations

import multiprocessing
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from service.store import Event, Store
from tests.reliability.sizes import short_or_full

CLAIMANTS = 16
FORKED = multiprocessing.get_context("forkserver")      # each claimant from one process that has loaded the store, and done nothing else
FORKED.set_forkserver_preload(["service.store"])


def work(home: Path, url: str, owner: str, answers: Any) -> None:
    """Claim and finish no-op jobs until none is left; answers with what was claimed, how long each claim took, and the first error."""
    store, taken, took, idle = Store.at(home, url), [], [], 0
    try:
        while idle < 20:
            begin = time.perf_counter()
            found = store.claim(owner, 60, {"pid": 0, "threads": 1})
            took.append(time.perf_counter() - begin)
            if found is None:
                idle += 1
                time.sleep(0.01)
                continue
            idle = 0
            store.record(found[0], events=[Event("job.started")])
            store.finish(found[0], "succeeded", reason="completed", message="Done.")
            taken.append(found[0].job_id)
        answers.put((taken, took, None))
    except Exception as error:
        answers.put((taken, took, repr(error)))


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
@short_or_full("jobs", 200, 5000)
def test_each_job_is_claimed_once(store: Store, home: Path, jobs: int, shown: Callable[[str], None]) -> None:
    contend(store, home, jobs, shown)


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize("store_url", ["postgresql"], indirect=True)
def test_each_job_of_postgresql_is_claimed_once(store: Store, home: Path, shown: Callable[[str], None]) -> None:
    contend(store, home, 5000, shown)


def contend(store: Store, home: Path, jobs: int, shown: Callable[[str], None]) -> None:
    with store.write("fill"):
        for _ in range(jobs):
            store.add_job({}, {})
    answers, began = FORKED.Queue(), time.monotonic()
    claimants = [FORKED.Process(target=work, args=(home, store.url, f"w{n}", answers)) for n in range(CLAIMANTS)]
    for claimant in claimants:
        claimant.start()
    results = [answers.get(timeout=3600) for _ in claimants]
    for claimant in claimants:
        claimant.join()
    assert [error for _, _, error in results if error] == []
    taken = Counter(job_id for ids, _, _ in results for job_id in ids)
    assert len(taken) == jobs and set(taken.values()) == {1}
    assert store.counts()["jobs"]["succeeded"] == jobs
    for job_id in taken:
        assert [event["type"] for event in store.events(job_id)] == ["job.queued", "job.started", "job.succeeded"]
    waits = sorted(seconds for _, took, _ in results for seconds in took)
    assert waits[-1] < 20
    kind = store.url.partition(":")[0]
    rate = jobs / (time.monotonic() - began)
    shown(f"{kind}: {len(taken):,} jobs claimed once each by {CLAIMANTS} processes, {rate:.0f} a second with their ends, "
          f"longest claim {waits[-1]:.2f} s, no lock met")
