"""A backup made under load is one moment: restored, what was finished predicts the same and what was running goes on to the same bytes."""

from __future__ import annotations

import io
import os
import sqlite3
import tarfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from service import artifacts, backup
from service.backup import BackupError
from service.store import Store
from tests.homes import fresh
from tests.service.deeds import claimed
from tests.serving import command, serving, trainyard
from tests.user import User

LAYERS = [{"kind": "dense", "units": 64, "activation": "relu"}, {"kind": "dense", "units": "target"}]
DATA = {"dataset": "sample:digits", "target": "label", "batch_size": 32}


def spec(epochs: int, seed: int, **data: Any) -> dict[str, Any]:
    return {"model": {"kind": "chain", "layers": LAYERS}, "loss": "logit_cross_entropy", "optimiser": "adam", "epochs": epochs, "seed": seed,
            "data": {**DATA, **data}, "callbacks": [{"kind": "checkpoint", "every_epochs": 20}]}


def digest(user: User, job_id: str) -> str:
    return user.get(f"/v1/jobs/{job_id}/checkpoints")["data"][0]["sha256"]


def test_a_backup_under_load_is_one_moment(tmp_path: Path) -> None:
    file, over, made = tmp_path / "all.tar", threading.Event(), list[str]()
    with serving(fresh(tmp_path / "home"), workers=2, threads=2) as server:
        user, other = User(server.url), User(server.url)
        finished, _ = user.train(spec(2, 1))
        fork = user.post(f"/v1/jobs/{finished}/fork", {"more_epochs": 1})["id"]
        user.watch(fork)
        running = user.submit(spec(3000, 2))
        while user.get(f"/v1/jobs/{running}")["epoch"] < 40:
            time.sleep(0.02)

        def load() -> None:
            """Jobs with data of their own, made, trained and removed all the while."""
            while not over.is_set():
                inline = {"columns": {"x": [[float(len(made)), 1.0], [0.0, 1.0]] * 4, "y": [0, 1] * 4}}
                job_id = other.submit({**spec(2, len(made)), "data": {"dataset": inline, "target": "y"}, "callbacks": []})
                made.append(job_id)
                if len(made) % 3 == 0:
                    other.watch(job_id)
                    assert other.http.delete(f"/v1/jobs/{job_id}").status_code == 204

        loading = threading.Thread(target=load)
        loading.start()
        time.sleep(0.5)
        done = trainyard("backup", file, "--home", server.home)
        over.set()
        loading.join()
        assert done.returncode == 0 and "checkpoints as of" in done.stdout, done.stderr
        assert user.watch(running)[-1]["type"] == "job.succeeded" and len(made) > 3
        rows = [{"pixels": [float(place % 7) for place in range(64)]}]
        whole, predicted = digest(user, running), {}
        for job in user.get("/v1/jobs", status="succeeded", limit=100)["data"]:
            question = {"rows": rows} if job["id"] in (finished, fork, running) else {"rows": [{"x": [1.0, 2.0]}]}
            predicted[job["id"]] = {"ask": question, "outputs": user.post(f"/v1/jobs/{job['id']}/predict", question)["outputs"]}
    assert not list((tmp_path / "home" / "backups").glob(".*")) and {path.name for path in tmp_path.iterdir()} == {"home", "all.tar"}
    back = command("restore", file, "--home", tmp_path / "back")
    assert back.returncode == 0, back.stderr
    with sqlite3.connect(tmp_path / "back" / "trainyard.db") as raw:
        assert raw.execute("SELECT status FROM jobs WHERE id = ?", (running,)).fetchone() == ("running",)
        restored = {row[0] for row in raw.execute("SELECT id FROM jobs WHERE status = 'succeeded'")}
    assert finished in restored
    with serving(tmp_path / "back", workers=2, threads=2) as server:
        user = User(server.url)
        assert user.watch(running)[-1]["type"] == "job.succeeded" and digest(user, running) == whole
        for job in user.get("/v1/jobs", limit=100)["data"]:
            assert user.watch(job["id"])[-1]["type"] == "job.succeeded"
        for job_id in restored & predicted.keys():
            assert user.post(f"/v1/jobs/{job_id}/predict", predicted[job_id]["ask"])["outputs"] == predicted[job_id]["outputs"]


@pytest.mark.parametrize("store_url", [""])
def test_a_backup_holds_what_its_store_names_and_nothing_in_the_making(store: Store, home: Path, tmp_path: Path) -> None:
    claim = claimed(store)
    for step in (10, 20):
        file = artifacts.write_checkpoint(home, claim.job_id, step, b"%d" % step)
        store.record(claim, checkpoint={"step": step, "epoch": 1, "metrics": {}, **file})
    artifacts.write(home / "jobs" / claim.job_id / "checkpoints" / ".half.temp", b"half")
    (home / "run").mkdir()
    (home / "run" / "socket").write_bytes(b"")
    found = backup.backup(home, store.url, tmp_path / "b.tar")
    assert found.counts == {"jobs": 1, "datasets": 0, "checkpoints": 2}
    with tarfile.open(tmp_path / "b.tar") as archive:
        names = archive.getnames()
    assert names[:2] == ["manifest.json", "trainyard.db"] and set(names[2:]) == store.checkpoint_paths()
    assert backup.restore(tmp_path / "b.tar", tmp_path / "new") == found
    again = Store.at(tmp_path / "new")
    assert again.get_job(claim.job_id) == store.get_job(claim.job_id) and again.checkpoints(claim.job_id) == store.checkpoints(claim.job_id)
    assert all(artifacts.read_checkpoint(tmp_path / "new", row) for row in again.checkpoints(claim.job_id))
    again.close()


@pytest.mark.parametrize("store_url", [""])
def test_a_file_of_two_names_is_packed_once_and_has_both_again(store: Store, home: Path, tmp_path: Path) -> None:
    claim, data = claimed(store), bytes(10_000)
    file = artifacts.write_checkpoint(home, claim.job_id, 10, data)
    store.record(claim, checkpoint={"step": 10, "epoch": 1, "metrics": {}, **file})
    fork = home / "jobs" / "job_fork" / "checkpoints" / "000000010.safetensors"
    fork.parent.mkdir(parents=True)
    os.link(home / file["path"], fork)
    backup.backup(home, store.url, tmp_path / "b.tar")
    with tarfile.open(tmp_path / "b.tar") as archive:
        assert sum(member.size for member in archive if member.name.endswith(".safetensors")) == len(data)
    backup.restore(tmp_path / "b.tar", tmp_path / "new")
    first, second = tmp_path / "new" / file["path"], tmp_path / "new" / fork.relative_to(home)
    assert first.read_bytes() == data and first.samefile(second)


@pytest.mark.parametrize("store_url", [""])
def test_what_cannot_be_restored_is_refused_with_the_reason_and_leaves_nothing(store: Store, home: Path, tmp_path: Path) -> None:
    file = tmp_path / "b.tar"
    backup.backup(home, store.url, file)
    before = {path.name for path in tmp_path.iterdir()}

    def refused(source: Path, target: Path, said: str) -> None:
        with pytest.raises(BackupError, match=said):
            backup.restore(source, target)
        assert {path.name for path in tmp_path.iterdir()} - {"cut.tar", "other.tar"} == before

    refused(file, home, "not empty")
    (tmp_path / "cut.tar").write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    refused(tmp_path / "cut.tar", tmp_path / "new", "damaged")
    (tmp_path / "cut.tar").write_bytes(b"x" * 5000)
    refused(tmp_path / "cut.tar", tmp_path / "new", "is no backup")
    for schema, name, said in (("9999", "a/b", "newer program"), ("0002", "../evil", "no backup has"), ("0002", "/etc/x", "no backup has")):
        with tarfile.open(tmp_path / "other.tar", "w") as archive:
            for member, data in (("manifest.json", backup.Contents("now", schema, {}).pack()), (name, b"x")):
                info = tarfile.TarInfo(member)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        refused(tmp_path / "other.tar", tmp_path / "new", said)
    for aim, kind, said in (("/etc/passwd", tarfile.LNKTYPE, "no backup has"), ("a/c", tarfile.LNKTYPE, "does not come before it"),
                            ("a/c", tarfile.SYMTYPE, "no backup has")):
        with tarfile.open(tmp_path / "other.tar", "w") as archive:
            first, info = tarfile.TarInfo("manifest.json"), tarfile.TarInfo("a/b")
            text = backup.Contents("now", "0002", {}).pack()
            first.size, info.type, info.linkname = len(text), kind, aim
            archive.addfile(first, io.BytesIO(text))
            archive.addfile(info)
        refused(tmp_path / "other.tar", tmp_path / "new", said)
    with pytest.raises(BackupError, match="there is no store"):
        backup.backup(tmp_path / "nothing", f"sqlite:///{tmp_path / 'nothing.db'}", tmp_path / "n.tar")
    with pytest.raises(BackupError, match="tools of that database"):
        backup.backup(home, "postgresql://localhost/x", tmp_path / "n.tar")
    assert command("restore", file, "--home", home).returncode == 1
