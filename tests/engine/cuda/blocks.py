"""Blocks of numba's simulator whose threads wait for each other.

Its own blocks ask each of their threads, without a pause, whether it waits by now, and take half of the processor for that.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numba.cuda.simulator import kernel


class Meeting:
    """Where the threads of a block that have not returned wait for each other."""

    def __init__(self, threads: int) -> None:
        self.changed, self.expected, self.waiting, self.passed, self.failed = threading.Condition(), threads, 0, 0, False

    def arrive(self) -> None:
        with self.changed:
            turn = self.passed
            self.waiting += 1
            self.open_if_all()
            self.changed.wait_for(lambda: self.failed or self.passed > turn)
            if self.failed:
                raise RuntimeError("another thread of the block failed")

    def leave(self, failed: bool) -> None:
        with self.changed:
            self.expected -= 1
            if failed:
                self.failed = True
                self.changed.notify_all()
            self.open_if_all()

    def open_if_all(self) -> None:
        if self.waiting == self.expected:
            self.waiting, self.passed = 0, self.passed + 1
            self.changed.notify_all()


def run(self: Any, grid_point: Any, *args: Any) -> None:
    """One block, to its end; raises what the first of its threads to fail raised."""
    points = list(np.ndindex(*self._block_dim))
    meeting, failures = Meeting(len(points)), list[BaseException]()

    def target() -> None:
        try:
            self._f(*args)
        except BaseException as error:
            failures.append(error)
        meeting.leave(bool(failures))

    threads = [kernel.BlockThread(target, self, grid_point, point, self._debug) for point in points]
    for thread in threads:
        thread.syncthreads = meeting.arrive
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


kernel.BlockManager.run = run
