"""R11. 50 rolling restarts (SIGTERM, then a new process) with jobs and streams open: bit-identical results, no event lost or told twice, everybody
leaves in time."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from service.store import Store
from tests.reliability.crash_points import check
from tests.reliability.sizes import short_or_full
from tests.reliability.whole import Whole, intact, tidy, whole
from tests.service.running import classifier
from tests.user import Event, User, epochs

JOBS = 2
STREAMS = 3         # of each job


class Watcher(threading.Thread):
    """One stream of a job, taken up again after each restart."""

    def __init__(self, url: str, job_id: str):
        super().__init__(daemon=True)
        self.user, self.job_id, self.told, self.failure = User(url), job_id, list[Event](), ""
        self.start()

    def run(self) -> None:
        while not self.told or self.told[-1]["type"] not in ("job.succeeded", "job.failed"):
            try:
                for event in self.user.stream(self.job_id, self.told[-1]["seq"] if self.told else 0):
                    self.told.append(event)
            except httpx.TransportError:
                time.sleep(0.05)
            except AssertionError:      # 503: the service is stopping
                time.sleep(0.05)


def job(dataset: str, length: int, seed: int) -> dict[str, Any]:
    return classifier(dataset, length, seed=seed, callbacks=[{"kind": "reduce_on_plateau", "patience": 2}])


@short_or_full("size", (1, 1, 15), (50, 2, 400))
def test_rolling_restarts_lose_nothing(tmp_path: Path, size: tuple[int, int, int], shown: Callable[[str], None]) -> None:
    (restarts, workers, length), chance, home = size, random.Random(11), tmp_path / "home"
    with whole(home, workers=workers, threads=workers) as service:
        user, x = User(service.url), random.Random(0)
        rows = [[round(x.gauss(0, 1), 3) for _ in range(16)] for _ in range(4000)]
        dataset = user.post("/v1/datasets", {"name": "x", "columns": {"x": rows, "y": [n % 3 for n in range(4000)]}})["id"]
        ids = [user.submit(job(dataset, length, seed)) for seed in range(JOBS)]
        watchers = [Watcher(service.url, job_id) for job_id in ids for _ in range(STREAMS)]
        took = [restart(service, chance) for _ in range(restarts)]
        for watcher in watchers:
            watcher.join(600)
        whole_ones = [user.submit(job(dataset, length, seed)) for seed in range(JOBS)]
        expected = [user.watch(job_id, seconds=600) for job_id in whole_ones]
        bytes_of = {job_id: user.get(f"/v1/jobs/{job_id}/checkpoints")["data"][0]["sha256"] for job_id in ids + whole_ones}
        attempts = sum(user.get(f"/v1/jobs/{job_id}")["attempt"] for job_id in ids)
    for watcher in watchers:
        assert [event["seq"] for event in watcher.told] == list(range(1, len(watcher.told) + 1))
        assert watcher.told[-1]["type"] == "job.succeeded", watcher.told[-1]
        seed = ids.index(watcher.job_id)
        assert bytes_of[watcher.job_id] == bytes_of[whole_ones[seed]]
        told, wanted = epochs(watcher.told), epochs(expected[seed])
        for name in ("epoch", "step", "train_loss", "learning_rate"):
            assert [data[name] for data in told] == [data[name] for data in wanted]
    intact(home)
    store = Store.at(home)
    check(store)
    tidy(store)
    store.close()
    assert max(took) < 30
    shown(f"{restarts} restarts with {JOBS} jobs ({attempts} attempts) and {len(watchers)} streams open: every stream whole, the same bytes and "
          f"losses, slowest end {max(took):.1f} s")


def restart(service: Whole, chance: random.Random) -> float:
    """A little training, then SIGTERM and a new process. The seconds until the old one was gone."""
    time.sleep(chance.random())
    began = time.monotonic()
    service.stop()
    took = time.monotonic() - began
    service.start()
    return took
