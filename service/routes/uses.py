"""Notes of what is used, for things that are kept only so long after their last use: one write now and then, however many ask."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from service.jobs import slack
from service.store import Store
from service.store.changes import Row

MOST = 10_000


class Uses:
    """When each thing's last use was written. Another one within its slack is not: by so much longer things are kept."""

    def __init__(self, store: Store):
        self.store = store
        self._written: dict[str, float] = {}
        self._turn = threading.Lock()

    def job(self, row: Row) -> None:
        """A job's model was asked for something."""
        self._note(row, lambda: self.store.touch_job(row["id"]))

    def dataset(self, reference: str) -> None:
        """Somebody reads a dataset."""
        if reference.startswith("ds_"):
            row = self.store.get_dataset(reference)
            self._note(row, lambda: self.store.touch_datasets([reference]))

    def _note(self, row: Row, write: Callable[[], None]) -> None:
        if row["retain_seconds"] is None:
            return
        now = time.monotonic()
        with self._turn:
            if now - self._written.get(row["id"], -1e9) < slack(row["retain_seconds"]):
                return
            if len(self._written) >= MOST:
                self._written.clear()
            self._written[row["id"]] = now
        write()
