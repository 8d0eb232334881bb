"""Checks of whole jobs, remembered: whoever sends one job many times pays once."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Mapping

from engine.data.table import Table
from engine.train.job import LABELS, Job
from engine.train.ready.build import Summary, check
from service.settings import Settings

INLINE = "inline"
KEPT = 512


class Checked:
    """Summaries of the jobs checked last, by everything that a check looks at."""

    def __init__(self):
        self._kept: OrderedDict[str, Summary] = OrderedDict()
        self._turn = threading.Lock()

    def check(self, job: Job, tables: Mapping[str, Table], contents: Mapping[str, str], settings: Settings) -> Summary:
        """`engine.train.check`; `contents` tells the data of each table."""
        spec = job.model_dump(mode="json", exclude=set(LABELS))
        if INLINE in contents:
            spec["data"] = {**spec["data"], "dataset": INLINE}
        key = hashlib.sha256(json.dumps([spec, contents], sort_keys=True).encode()).hexdigest()
        with self._turn:
            if (found := self._kept.get(key)) is not None:
                self._kept.move_to_end(key)
                return found
        found = check(job, tables, settings)     # type: ignore[arg-type]
        with self._turn:
            self._kept[key] = found
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return found
