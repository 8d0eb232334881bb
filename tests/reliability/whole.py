"""The whole service as its users start it, which may be killed as a whole."""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from service.store import Store
from tests.service.running import until
from tests.serving import Server


class Whole(Server):
    """`trainyard serve`, with its processes."""

    def pids(self) -> list[int]:
        """The supervisor and its children."""
        listed = Path("/proc", str(self.process.pid), "task", str(self.process.pid), "children")
        with suppress(OSError):
            return [self.process.pid, *map(int, listed.read_text().split())]
        return [self.process.pid]

    def children(self, module: str) -> list[int]:
        """The children that run a module, as soon as there are any."""
        def look() -> list[int]:
            return [pid for pid in self.pids() if module in _command(pid)]
        return until(look)

    def kill(self) -> None:
        """SIGKILL to every process at once; none is left when this returns."""
        doomed = self.pids()
        for pid in doomed:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        until(lambda: not any(Path("/proc", str(pid)).exists() for pid in doomed))


def _command(pid: int) -> str:
    try:
        return Path("/proc", str(pid), "cmdline").read_text()
    except OSError:
        return ""


@contextmanager
def whole(home: Path, **settings: object) -> Iterator[Whole]:
    """A running service, which ends well when it is told to."""
    service = Whole(home, **settings)
    try:
        service.start()
        yield service
        service.stop()
    finally:
        if service.process.poll() is None:
            service.kill()


def intact(home: Path) -> None:
    """The store of a home is whole: its pages, its indices, its references."""
    with sqlite3.connect(home / "trainyard.db") as raw:
        assert raw.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert raw.execute("PRAGMA foreign_key_check").fetchall() == []
    raw.close()


def tidy(store: Store) -> None:
    """Every file of jobs, datasets and uploads is named by a row, and every row's file is there."""
    home = store.home
    files = {str(path.relative_to(home)) for path in (home / "jobs").rglob("*") if path.is_file()}
    assert files == store.checkpoint_paths()
    assert {path.name for path in (home / "datasets").glob("*") if path.name[0] != "."} == store.contents()
    assert {str(path.relative_to(home / "uploads")) for path in (home / "uploads").glob("*/*")} == store.part_files()
    assert not list((home / "trash").glob("*"))
