"""Tables by the names that jobs call them: uploaded, or shipped with the service. Opened once, mapped read-only."""

from __future__ import annotations

import threading
from collections import OrderedDict

from engine.data.table import Table
from service import datasets
from service.samples import open_sample
from service.store import Store
from service.store.asking import view

KEPT = 64
SAMPLE = "sample:"


class Tables:
    """The tables used last. The content of a dataset never changes, so an open table stays good until the dataset is removed."""

    def __init__(self, store: Store):
        self.store = store
        self._open: OrderedDict[tuple[str, str], tuple[str, Table]] = OrderedDict()     # by who may see it, and its id
        self._turn = threading.Lock()

    def open(self, reference: str) -> tuple[str, Table]:
        """(content, table) of `ds_…` or `sample:…`; `content` is equal for equal data. 404 when there is no such dataset."""
        if reference.startswith(SAMPLE):
            return reference, open_sample(reference.removeprefix(SAMPLE))
        key = (view(), reference)
        with self._turn:
            if key in self._open:
                self._open.move_to_end(key)
                return self._open[key]
        sha256 = self.store.get_dataset(reference)["sha256"]
        found = sha256, datasets.open_table(self.store.home, sha256)
        with self._turn:
            self._open[key] = found
            while len(self._open) > KEPT:
                self._open.popitem(last=False)
        return found

    def forget(self, reference: str) -> None:
        """The dataset was removed."""
        with self._turn:
            for key in [key for key in self._open if key[1] == reference]:
                del self._open[key]
