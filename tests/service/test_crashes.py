"""A process that dies at any named point leaves a store and files that another one goes on from (R4)."""

from __future__ import annotations

import os
import re
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from service import artifacts
from service.errors import CRASHED
from service.store import Event, Reply, Store
from service.store.curves import Curve, chart
from service.store.migrate import migrate
from tests.service.deeds import newest

POINTS = [f"{place}.{moment}" for place in ("pinned", "post", "claim", "record", "release", "finish", "request_pause", "resume", "delete_dataset")
          for moment in ("before_commit", "after_commit")]
POINTS += [f"checkpoint.{moment}" for moment in ("mid_write", "before_fsync", "after_fsync", "after_rename", "after_folder_fsync")]
POINTS += ["file.after_rename", "discard_content.before_commit", "discard_content.after_commit", "migrate.before_commit", "migrate.after_commit"]
EPOCHS = 4


def live(home: Path) -> None:
    """Everything the service does with one job, from wherever an earlier process left it."""
    migrate(home)
    store = Store.at(home)
    artifacts.sweep(store)
    job_id = post(store, upload(store))
    while store.get_job(job_id)["status"] != "succeeded":
        if store.get_job(job_id)["status"] == "paused":
            store.resume(job_id)
        if found := store.claim("here", 0.0):       # a lease of no length: the next process takes over at once
            train(store, found[0])
    for dataset in store.list_datasets()[0]:
        artifacts.delete_dataset(store, dataset["id"])
    artifacts.sweep(store)


def upload(store: Store) -> str:
    if rows := store.list_datasets()[0]:
        return rows[0]["id"]
    artifacts.write(artifacts.content_folder(store.home, "abc") / "content", b"x")
    with artifacts.pinned(store, "abc"):
        return store.add_dataset({"name": "a", "format": "csv", "bytes": 1, "sha256": "abc", "rows": 1, "columns": []})["id"]


def post(store: Store, dataset: str) -> str:
    with store.write("post"):
        if (reply := store.recall("key", "/v1/jobs", "body")) is None:
            reply = Reply(202, store.add_job({}, {}, max_attempts=100, datasets=[dataset])["id"])
            store.remember("key", "/v1/jobs", "body", reply)
    return reply.body


def train(store: Store, claim: Any) -> None:
    artifacts.sweep_job(store, claim.job_id)
    found = newest(store, claim.job_id)
    for epoch in range(1 + (found[0] // 10 if found else 0), EPOCHS + 1):
        file = artifacts.write_checkpoint(store.home, claim.job_id, epoch * 10, b"epoch %d" % epoch)
        answer = store.record(claim, events=[Event("epoch", "", {"epoch": epoch, "step": epoch * 10}, key=f"epoch:{epoch}")],
                              curves={"loss": Curve(range(epoch * 10 - 9, epoch * 10 + 1), [float(epoch)] * 10)},
                              checkpoint={"step": epoch * 10, "epoch": epoch, "metrics": {}, **file}, job={"epoch": epoch})
        artifacts.remove(store.home, answer.removed)
        if epoch == 1:
            store.request_pause(claim.job_id)
            store.release(claim)
            return
        if epoch == 2 and store.get_job(claim.job_id)["attempt"] < 3:
            store.release(claim)
            return
    store.finish(claim, "succeeded", reason="completed", message="Done.")


def crash(home: Path, place: str) -> int:
    """Live in another process that dies at `place`; its exit status."""
    child = os.fork()
    if child == 0:
        os.environ["TRAINYARD_CRASH_POINT"] = place
        try:
            live(home)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("hit", [1, 2])
@pytest.mark.parametrize("place", POINTS)
def test_a_crash_anywhere_is_survived(tmp_path: Path, place: str, hit: int):
    status = crash(tmp_path, f"{place}:{hit}")
    assert status == CRASHED or hit == 2
    live(tmp_path)
    with sqlite3.connect(tmp_path / "trainyard.db") as raw:
        assert raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    store = Store.at(tmp_path)
    [job] = store.list_jobs()[0]
    happened = store.events(job["id"])
    assert job["status"] == "succeeded" and [event["seq"] for event in happened] == list(range(1, job["seq"] + 1))
    assert [event["data"]["epoch"] for event in happened if event["type"] == "epoch"] == [1, 2, 3, 4]
    assert chart(store, job["id"], by="step")["columns"]["step"] == list(range(1, 41))
    rows = store.checkpoints(job["id"])
    assert [row["step"] for row in rows] == [40, 30] and all(artifacts.read_checkpoint(tmp_path, row) for row in rows)
    files = {str(path.relative_to(tmp_path)) for folder in ("jobs", "datasets", "trash") for path in (tmp_path / folder).rglob("*") if path.is_file()}
    assert files == {row["path"] for row in rows}
    store.close()


def test_every_crash_point_of_the_program_is_tried():
    """Transactions named elsewhere than here share the one code path that has the points."""
    service = Path(artifacts.__file__).parent
    sources = "".join(path.read_text() for path in (service / "artifacts.py", *(service / "store").rglob("*.py")))
    fixed = set(re.findall(r'crash_point\("([a-z_.]+)"\)', sources))
    assert fixed - set(POINTS) == {"migrate.after_backup"}
