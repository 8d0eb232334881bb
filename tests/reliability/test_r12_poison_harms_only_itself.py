"""R12. 100 good jobs among 100 that segfault, exit, run out of memory, never finish a step, become NaN or have lost their data: the good ones
succeed, each of the others ends with the code that says why."""

from __future__ import annotations

import os
import random
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest

from service import datasets
from service.errors import CRASHED
from tests.reliability.sizes import short_or_full
from tests.service.running import Running, classifier

CODES = {"segfault": "signal_11", "exit": f"exit_{CRASHED}", "memory": "memory_limit", "allocation": "out_of_memory", "endless": "stalled",
         "nan": "nonfinite_loss", "vanished": "dataset_missing"}
SIGNALS = {"segfault": signal.SIGSEGV, "endless": signal.SIGSTOP}
KINDS = {"segfault": "system", "exit": "system", "memory": "resource", "allocation": "resource", "endless": "timeout", "nan": "user",
         "vanished": "user"}


@dataclass(frozen=True)
class Size:
    good: int
    poison: int
    attempts: int


def poison(running: Running, kind: str, dataset: str) -> dict[str, Any]:
    """A job that a service with more memory would take."""
    if kind == "memory":
        return classifier(dataset, 100_000, units=1_500_000)
    if kind == "allocation":
        return classifier(dataset, 2, units=1_000_000_000)
    if kind == "nan":
        return classifier(dataset, 100, units=16, optimiser={"kind": "descent", "learning_rate": 1e38})
    if kind == "vanished":
        taken = datasets.ingest_inline(running.home, columns={"x": [[float(random.random())], [1.0]], "y": [0, 1]}, name="gone")
        row = running.store.add_dataset(taken.record)
        shutil.rmtree(running.home / "datasets" / row["sha256"])
        return classifier(row["id"], 2)
    return classifier(dataset, 100_000, units=16)       # what happens to its worker makes it poison


def strike(running: Running, over: threading.Event) -> None:
    """Send the workers of `segfault` and `endless` jobs their signal, once for each attempt, when they have trained a little."""
    struck: set[tuple[str, int]] = set()
    while not over.is_set():
        for job in running.store.owned():
            name, claim = running.store.get_job(job["id"])["name"], (job["id"], job["fence"])
            if name in SIGNALS and job["worker"] and claim not in struck and job["step"] > 0:
                struck.add(claim)
                with suppress(ProcessLookupError):
                    os.kill(job["worker"]["pid"], SIGNALS[name])
        time.sleep(0.02)


@short_or_full("size", Size(7, 7, 1), Size(100, 100, 3))
def test_good_jobs_succeed_and_poison_says_what_it_is(run: Callable[..., Running], size: Size, shown: Callable[[str], None],
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAINYARD_CRASH_POINT", "train.exit")       # every worker dies when it begins a job of this name
    running, chance, began = run(workers=2, threads=2, stalled_seconds=4, max_memory_bytes=150_000_000), random.Random(12), time.monotonic()
    dataset, kinds = running.dataset(), list(CODES)
    names = ["good"] * size.good + [kinds[place % len(kinds)] for place in range(size.poison)]
    chance.shuffle(names)
    over = threading.Event()
    striker = threading.Thread(target=strike, args=(running, over))
    striker.start()
    try:
        made = [(name, running.add(classifier(dataset, 2) if name == "good" else poison(running, name, dataset), name=name,
                                   max_attempts=3 if name == "good" else size.attempts)) for name in names]
        rows = [(name, running.wait(job_id, seconds=3600)) for name, job_id in made]
    finally:
        over.set()
        striker.join()
    wrong = [(name, row["status"], row["message"]) for name, row in rows if name == "good" and row["status"] != "succeeded"]
    wrong += [(name, row["error"]["code"], row["message"]) for name, row in rows if name != "good" and (
        row["status"] != "failed" or (row["error"]["code"], row["error"]["kind"]) != (CODES[name], KINDS[name]))]
    assert not wrong, wrong
    assert all(row["attempt"] <= size.attempts for name, row in rows if name != "good") and not running.store.owned()
    assert running.store.counts()["jobs"] == {**dict.fromkeys(running.store.counts()["jobs"], 0), "succeeded": size.good, "failed": size.poison}
    ended = Counter(CODES[name] for name, _ in rows if name != "good")
    again = sum(row["attempt"] > 1 for name, row in rows if name == "good")
    shown(f"{size.good} good jobs succeeded (of them {again} after a second attempt); {size.poison} poison ones ended as "
          f"{', '.join(f'{code} ({count})' for code, count in sorted(ended.items()))} in {time.monotonic() - began:.0f} s")
