"""Tables by the names that jobs call them: uploaded, or shipped with the service. Opened once, mapped read-only."""

from __future__ import annotations

import threading
from collections import OrderedDict

from engine.data.table import Table
from service import datasets
from service.samples import open_sample
from service.store import Store

KEPT = 64
SAMPLE = "sample:"


class Tables:
    """The tables used last. The content of a dataset never changes, so an open table stays good until the dataset is removed."""

    def __init__(self, store: Store):
        self.store = store
        self._open: OrderedDict[str, tuple[str, Table]] = OrderedDict()
        self._turn = threading.Lock()

    def open(self, reference: str) -> tuple[str, Table]:
        """(content, table) of `ds_…` or `sample:…`; `content` is equal for equal data. 404 when there is no such dataset."""
        if reference.startswith(SAMPLE):
            return reference, open_sample(reference.removeprefix(SAMPLE))
        with self._turn:
            if reference in self._open:
                self._open.move_to_end(reference)
                return self._open[reference]
        sha256 = self.store.get_dataset(reference)["sha256"]
        found = sha256, datasets.open_table(self.store.home, sha256)
        with self._turn:
            self._open[reference] = found
            while len(self._open) > KEPT:
                self._open.popitem(last=False)
        return found

    def forget(self, reference: str) -> None:
        """The dataset was removed."""
        with self._turn:
            self._open.pop(reference, None)
