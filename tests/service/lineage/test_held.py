"""Files that are held while a job that begins with them is checked."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from service import artifacts
from service.artifacts import Corrupt
from service.origins import Held, hold
from service.store import Store
from tests.service.deeds import claimed, point


def kept(store: Store, job_id: str, step: int, data: bytes) -> dict[str, object]:
    return {**point(step), **artifacts.write_checkpoint(store.home, job_id, step, data)}


def test_a_checkpoint_that_was_replaced_is_looked_for_again(store: Store) -> None:
    job_id = claimed(store).job_id
    old, new = kept(store, job_id, 1, b"old"), kept(store, job_id, 2, b"new")
    artifacts.remove(store.home, [str(old["path"])])
    rows = [old, old, new]
    held, row = hold(store.home, lambda: rows.pop(0))
    assert row is new and held.path.read_bytes() == b"new"
    with pytest.raises(Corrupt):
        hold(store.home, lambda: old)
    (store.home / str(new["path"])).write_bytes(b"bad")
    with pytest.raises(Corrupt):
        hold(store.home, lambda: new)


@pytest.mark.parametrize("links", [True, False])
def test_what_is_held_goes_unless_it_is_settled(store: Store, links: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("no links here")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    row = kept(store, claimed(store).job_id, 1, b"data")
    held, _ = hold(store.home, lambda: row)
    path = held.path
    del held
    assert not path.exists()
    held, _ = hold(store.home, lambda: row)
    told = held.settle(Path("jobs", "job_new", "initial.safetensors"))
    artifacts.remove(store.home, [str(row["path"])])
    assert artifacts.read_checkpoint(store.home, told) == b"data" and not held.path.exists()
    held.undo()
    assert not (store.home / "jobs" / "job_new").exists()


def test_a_file_that_is_left_is_swept(store: Store) -> None:
    row = kept(store, claimed(store).job_id, 1, b"data")
    left = Held(store.home, store.home / str(row["path"]))
    assert artifacts.sweep(store) == [str(left.path.relative_to(store.home))]
