"""R2. 1,000 POSTs with idempotency keys from 32 clients while the server is killed 20 times: exactly 1,000 jobs, none lost, none doubled."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

from service.store import Store
from tests.homes import fresh
from tests.reliability.sizes import short_or_full
from tests.reliability.whole import Whole, whole

CLIENTS = 32
MODEL = {"model": {"kind": "dense", "units": "target"}, "loss": "logit_cross_entropy", "optimiser": "adam", "epochs": 1}
SAMPLE = {"dataset": "sample:digits", "target": "label"}
INLINE = {"dataset": {"columns": {"x": [[0.0], [1.0], [2.0]], "y": [0, 1, 0]}}, "target": "y"}


def spec(number: int) -> dict[str, Any]:
    """Each job has a name of its own; every fifth brings its data."""
    return {**MODEL, "name": f"job {number}", "data": INLINE if number % 5 == 0 else SAMPLE}


class Clients:
    """32 threads that send each request until it is answered."""

    def __init__(self, url: str, posts: int):
        self.url, self.posts = url, posts
        self.taken: dict[int, str] = {}
        self.tries = self.replayed = 0
        self._turn, self._here = threading.Lock(), threading.local()

    def post(self, number: int) -> None:
        chance = random.Random(number)
        while True:
            answer = self.send(number)
            if answer is not None and answer.status_code == 202:
                with self._turn:
                    self.taken[number] = answer.json()["id"]
                    self.replayed += "idempotency-replayed" in answer.headers
                return
            assert answer is None or answer.status_code in (409, 429, 503), answer.text
            time.sleep(0.1 + chance.random() / 10)

    def send(self, number: int) -> httpx.Response | None:
        """One request on this thread's connection; None when it is cut."""
        with self._turn:
            self.tries += 1
        try:
            if not hasattr(self._here, "http"):
                self._here.http = httpx.Client(base_url=self.url, timeout=60, trust_env=False)
            return self._here.http.post("/v1/jobs", json=spec(number), headers={"Idempotency-Key": f"key-{number}"})
        except httpx.TransportError:
            return None

    def all(self) -> None:
        with ThreadPoolExecutor(CLIENTS) as threads:
            list(threads.map(self.post, range(self.posts)))


def kill_something(service: Whole, number: int) -> None:
    """The API alone, which the supervisor starts again, or everything."""
    if number % 3:
        os.kill(next(iter(service.children("service.app"))), signal.SIGKILL)
    else:
        service.kill()
        service.start()


@short_or_full("size", (100, 5), (1000, 20))
def test_a_storm_makes_each_job_once(tmp_path: Path, size: tuple[int, int], shown: Callable[[str], None]) -> None:
    posts, kills = size
    with whole(fresh(tmp_path / "home"), workers=0, max_queued=10_000) as service:
        clients = Clients(service.url, posts)
        storm = threading.Thread(target=clients.all)
        storm.start()
        for number in range(kills):
            while len(clients.taken) < (number + 1) * posts // (kills + 1) and storm.is_alive():
                time.sleep(0.001)
            kill_something(service, number)
        storm.join()
        http = httpx.Client(base_url=service.url, timeout=60, trust_env=False)
        for number, job_id in clients.taken.items():
            assert http.get(f"/v1/jobs/{job_id}").json()["name"] == f"job {number}"
            again = clients.send(number)
            assert again is not None and again.json()["id"] == job_id and again.headers["idempotency-replayed"] == "true"
        mixed_up = [http.post("/v1/jobs", json=spec(number + 1), headers={"Idempotency-Key": f"key-{number}"}).status_code for number in range(100)]
        assert mixed_up == [422] * 100
    store = Store.at(tmp_path / "home")
    assert store.job_ids() == set(clients.taken.values()) and len(clients.taken) == posts == store.counts()["jobs"]["queued"]
    folders = {path.name for path in (tmp_path / "home" / "datasets").iterdir() if path.name[0] != "."}
    assert folders == store.contents()
    store.close()
    shown(f"{posts:,} POSTs of {CLIENTS} clients in {clients.tries - posts:,} tries, {kills} kills, {clients.replayed} answers given again: "
          f"{len(clients.taken):,} jobs, each once; 100 keys with another body refused")
