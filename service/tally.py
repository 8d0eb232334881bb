"""Numbers for Prometheus from processes that nobody asks: counters and histograms in shared memory, a file for each, `tally.<supervisor>.<slot>`.

A process that takes another's place goes on counting where that one ended, so the sums never fall while the supervisor lives. Its API adds them up.
Counting costs a microsecond and cannot fail.
"""

from __future__ import annotations

import mmap
import os
import threading
import time
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

SLOT = "TRAINYARD_SLOT"     # "<supervisor>.<slot>", in the environment of a supervisor's children
SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
LONG = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 86400.0)


@dataclass(frozen=True)
class Kind:
    """A family of numbers: a counter, or with `buckets` a histogram; `label` and what it may be."""

    about: str
    label: str = ""
    values: tuple[str, ...] = ("",)
    buckets: tuple[float, ...] = ()

    @property
    def size(self) -> int:
        """Numbers for each value of the label: the counter; or a count for each bucket and beyond, and the sum."""
        return len(self.buckets) + 2 if self.buckets else 1


KINDS = {
    "jobs_ended": Kind("Jobs that came to their end in a worker.", "status", ("succeeded", "failed", "cancelled")),
    "job_duration_seconds": Kind("Seconds of training of jobs that ended, over all attempts.", "status", ("succeeded", "failed", "cancelled"), LONG),
    "attempts": Kind("Jobs taken up by workers."),
    "epoch_seconds": Kind("Seconds of an epoch, with its validation.", buckets=LONG),
    "checkpoint_write_seconds": Kind("Time to make a checkpoint durable.", buckets=SHORT),
    "workers_lost": Kind("Workers that ended without being told to."),
    "lease_expired": Kind("Jobs taken from workers that were not heard of any more."),
    "webhooks": Kind("Tries to deliver a webhook, by what came of them.", "result", ("delivered", "failed", "given_up", "disabled")),
    "webhook_seconds": Kind("Time of a try to deliver a webhook.", buckets=SHORT),
}
_PLACES: dict[tuple[str, str], int] = {}
NUMBERS = 0
for _name, _kind in KINDS.items():
    for _value in _kind.values:
        _PLACES[_name, _value] = NUMBERS
        NUMBERS += _kind.size


class Tally:
    """The numbers of one process."""

    def __init__(self, path: Path):
        with path.open("a+b") as file:
            file.truncate(8 * NUMBERS)
            self.numbers = memoryview(mmap.mmap(file.fileno(), 8 * NUMBERS)).cast("d")
        self.turn = threading.Lock()

    def count(self, name: str, label: str, by: float) -> None:
        with self.turn:
            self.numbers[_PLACES[name, label]] += by

    def observe(self, name: str, value: float, label: str) -> None:
        buckets, at = KINDS[name].buckets, _PLACES[name, label]
        with self.turn:
            self.numbers[at + bisect_left(buckets, value)] += 1
            self.numbers[at + len(buckets) + 1] += value


_mine: Tally | None = None


def begin(folder: Path, slot: str = "") -> None:
    """From here on this process counts, as its supervisor has numbered it."""
    global _mine
    with suppress(OSError):         # then it does not count: numbers are no reason to fail
        _mine = Tally(folder / f"tally.{slot or os.environ.get(SLOT) or f'{os.getpid()}.0'}")


def count(name: str, label: str = "", by: float = 1) -> None:
    if _mine is not None and (name, label) in _PLACES:
        _mine.count(name, label, by)


def observe(name: str, value: float, label: str = "") -> None:
    if _mine is not None and (name, label) in _PLACES:
        _mine.observe(name, value, label)


@contextmanager
def timed(name: str) -> Iterator[None]:
    """How long the block takes, where it does not fail."""
    began = time.perf_counter()
    yield
    observe(name, time.perf_counter() - began)


def totals(folder: Path) -> dict[tuple[str, str], list[float]]:
    """By name and label, the sums over all processes of a run folder: [count], or the counts of a histogram's buckets and the sum of its values."""
    sums = [0.0] * NUMBERS
    for path in folder.glob("tally.*"):
        with suppress(OSError, ValueError, TypeError):
            for place, number in enumerate(memoryview(path.read_bytes()).cast("d")[:NUMBERS]):
                sums[place] += number
    return {key: sums[at:at + KINDS[key[0]].size] for key, at in _PLACES.items()}
