"""The tables that a job reads, by the names that its spec has for them."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from engine.data.table import Table
from service.datasets import open_table
from service.samples import open_sample
from service.store import Store

SAMPLE = "sample:"


def open_tables(store: Store, references: Iterable[str]) -> dict[str, Table]:
    """The tables of `ds_…` and `sample:…`, mapped read-only. 404, or DatasetError, when one is gone."""
    return {reference: _open(store, reference) for reference in references}


def _open(store: Store, reference: str) -> Table:
    if reference.startswith(SAMPLE):
        return open_sample(reference.removeprefix(SAMPLE))
    return _mapped(store.home, store.get_dataset(reference)["sha256"])


@lru_cache(maxsize=16)
def _mapped(home: Path, sha256: str) -> Table:
    """The content of a dataset never changes, so the tables used last stay open."""
    return open_table(home, sha256)
