"""Files are whole or not there; whatever is left over is swept."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path

import pytest

from service import artifacts, unfinished
from service.errors import ServiceError, StorageFull
from service.store import Store
from tests.service.deeds import newest


def checkpoint(store: Store, claim, step: int, data: bytes, **more) -> list[str]:
    row = artifacts.write_checkpoint(store.home, claim.job_id, step, data)
    answer = store.record(claim, checkpoint={"step": step, "epoch": 1, "metrics": {}, **row, **more})
    artifacts.remove(store.home, answer.removed)
    return answer.removed


@pytest.fixture
def claim(store: Store):
    store.add_job({}, {})
    found = store.claim("here", 60)
    assert found is not None
    return found[0]


def test_a_written_file_is_whole_and_leaves_no_other(home: Path):
    artifacts.write(home / "deep" / "file", b"one")
    artifacts.write(home / "deep" / "file", b"two")
    assert (home / "deep" / "file").read_bytes() == b"two" and len(list((home / "deep").iterdir())) == 1


def test_a_full_disk_leaves_the_old_file(home: Path, monkeypatch: pytest.MonkeyPatch):
    artifacts.write(home / "file", b"one")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageFull):
        artifacts.write(home / "file", b"two")
    assert (home / "file").read_bytes() == b"one" and {path.name for path in home.iterdir() if "file" in path.name} == {"file"}


def test_damage_is_always_found_and_the_generation_before_is_used(store: Store, claim):
    rng = random.Random(0)
    good, better = rng.randbytes(999), rng.randbytes(1000)
    checkpoint(store, claim, 10, good)
    checkpoint(store, claim, 20, better)
    path = store.home / store.checkpoints(claim.job_id)[0]["path"]
    assert newest(store, claim.job_id) == (20, better)
    for _ in range(100):
        damaged = bytearray(better)
        damaged[rng.randrange(1000)] ^= 1 << rng.randrange(8)
        path.write_bytes(rng.choice([bytes(damaged), better[: rng.randrange(1000)]]))
        assert newest(store, claim.job_id) == (10, good)
    for row in store.checkpoints(claim.job_id):
        (store.home / row["path"]).unlink()
    assert newest(store, claim.job_id) is None


def test_a_replayed_checkpoint_with_other_bytes_never_harms_the_row_of_the_first(store: Store, claim):
    checkpoint(store, claim, 10, b"one")
    artifacts.write_checkpoint(store.home, claim.job_id, 10, b"two")         # and the process dies before the row
    assert newest(store, claim.job_id) == (10, b"one")
    artifacts.sweep_job(store, claim.job_id)
    assert len(list((store.home / "jobs").rglob("*.safetensors"))) == 1
    checkpoint(store, claim, 10, b"three")
    assert newest(store, claim.job_id) == (10, b"three") and len(list((store.home / "jobs").rglob("*.safetensors"))) == 1


def test_the_sweep_removes_what_no_row_names_and_nothing_else(store: Store, claim, home: Path):
    for step in range(10, 60, 10):
        checkpoint(store, claim, step, bytes(step), best=step == 20)
    named = sorted(str(path.relative_to(home)) for path in (home / "jobs").rglob("*") if path.is_file())
    artifacts.write(home / "jobs" / "job_gone" / "checkpoints" / "1.safetensors", b"")
    artifacts.write(home / "datasets" / "abc" / "content", b"")
    artifacts.write(home / "datasets" / f"{unfinished.prefix()}upload" / "content", b"")
    artifacts.write(home / "datasets" / f"{unfinished.MARK}1-0-upload" / "content", b"")      # of a process that is gone
    artifacts.write(home / "uploads" / "upload_gone" / "1-abc", b"")
    artifacts.write(home / "trash" / "x" / "part", b"")
    artifacts.write(home / "jobs" / claim.job_id / "checkpoints" / "between-file-and-row", b"")
    assert artifacts.sweep(store) == ["datasets/abc", "jobs/job_gone", "trash/x", "uploads/upload_gone/1-abc"]
    store.release(claim)
    assert artifacts.sweep(store) == [f"jobs/{claim.job_id}/checkpoints/between-file-and-row"]
    assert sorted(str(path.relative_to(home)) for path in (home / "jobs").rglob("*") if path.is_file()) == named
    assert [path.name for path in (home / "datasets").iterdir()] == [f"{unfinished.prefix()}upload"] and not list((home / "uploads").iterdir())


def test_equal_contents_share_a_folder_until_the_last_dataset_goes(store: Store):
    def upload() -> str:
        artifacts.write(artifacts.content_folder(store.home, "abc") / "content", b"x")
        with artifacts.pinned(store, "abc"):
            return store.add_dataset({"name": "a", "format": "csv", "bytes": 1, "sha256": "abc", "rows": 1, "columns": []})["id"]

    first, second = upload(), upload()
    folder = artifacts.content_folder(store.home, "abc")
    artifacts.delete_dataset(store, first)
    assert (folder / "content").read_bytes() == b"x"
    artifacts.delete_dataset(store, second)
    assert not folder.exists() and list((store.home / "trash").iterdir()) == []
    with pytest.raises(ServiceError, match="send it again"), artifacts.pinned(store, "abc"):
        pass


def test_a_removed_job_leaves_no_files(store: Store, claim):
    checkpoint(store, claim, 10, b"one")
    store.finish(claim, "succeeded", reason="completed", message="")
    artifacts.delete_job(store, claim.job_id)
    assert list((store.home / "jobs").iterdir()) == []
