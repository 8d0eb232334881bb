"""What a worker shows of itself without a word: a few numbers in shared memory, `worker.<pid>` in the run folder.

The worker's threads write, the supervisor and the API look; nobody waits.
"""

from __future__ import annotations

import mmap
import os
import time
from contextlib import suppress
from pathlib import Path

STARTING, IDLE, BUSY = range(3)
PHASES = ("starting", "idle", "busy")
_PHASE, _PROGRESS, _LIMIT, _BEFORE, _ALIVE, _HAS_GPU, _NUMBERS = 0, 1, 2, 3, 4, 5, 8


class Heartbeat:
    """The numbers of one worker: `phase`; `progress`, which changes whenever anything is done; `memory_limit` of its job in bytes (0: none), and
    `memory_before` the job; `silence`, the seconds since it last said that it is there."""

    def __init__(self, folder: Path, pid: int | None = None):
        """This process's own, made anew; with `pid`, another's. OSError when that one has none."""
        self.path = folder / f"worker.{pid or os.getpid()}"
        if pid is None:
            self.path.write_bytes(bytes(8 * _NUMBERS))
        with self.path.open("r+b") as file:
            self._numbers = memoryview(mmap.mmap(file.fileno(), 8 * _NUMBERS)).cast("q")
        if pid is None:
            self.live()

    @property
    def phase(self) -> int:
        return self._numbers[_PHASE]

    @phase.setter
    def phase(self, phase: int) -> None:
        self._numbers[_PHASE] = phase
        self._numbers[_PROGRESS] += 1

    @property
    def progress(self) -> int:
        return self._numbers[_PROGRESS]

    def beat(self) -> None:
        """Something was done: a step, an event, a pass of the compiler."""
        self._numbers[_PROGRESS] += 1

    def live(self) -> None:
        """This process is there, whether it does anything or not."""
        self._numbers[_ALIVE] = time.monotonic_ns()

    @property
    def silence(self) -> float:
        return (time.monotonic_ns() - self._numbers[_ALIVE]) / 1e9

    def is_awake(self, seconds: float) -> bool:
        """Whether it could take a job up, or does one, and said within so many seconds that it is there."""
        return self.phase != STARTING and self.silence <= seconds

    @property
    def has_gpu(self) -> bool:
        """Whether this worker trains on a GPU."""
        return bool(self._numbers[_HAS_GPU])

    @has_gpu.setter
    def has_gpu(self, has: bool) -> None:
        self._numbers[_HAS_GPU] = has

    @property
    def memory_limit(self) -> int:
        return self._numbers[_LIMIT]

    @property
    def memory_before(self) -> int:
        return self._numbers[_BEFORE]

    def limit_memory(self, limit: int) -> None:
        """From here on this process may take so many bytes more; 0: as many as it likes."""
        self._numbers[_BEFORE] = resident(os.getpid())
        self._numbers[_LIMIT] = limit


def resident(pid: int) -> int:
    """Bytes of memory that are the process's own: files that it maps, such as datasets, do not count."""
    with suppress(OSError):
        for line in Path("/proc", str(pid), "status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    return 0


def workers(folder: Path) -> dict[int, str]:
    """The phase of every living worker of a run folder, by pid."""
    return {pid: PHASES[heart.phase] for pid, heart in hearts(folder).items()}


def hearts(folder: Path) -> dict[int, Heartbeat]:
    """Every living worker of a run folder, by pid."""
    found = {}
    for path in folder.glob("worker.*"):
        pid = int(path.suffix[1:])
        with suppress(OSError, ValueError):     # just made, or just removed
            if Path("/proc", str(pid)).exists():
                found[pid] = Heartbeat(folder, pid)
    return found
