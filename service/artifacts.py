"""Files that are whole or not there: checkpoints and dataset folders below the home folder.

    <home>/jobs/<job_id>/checkpoints/<step>-<start of sha256>.safetensors        a row of the store names each
    <home>/datasets/<sha256>/                                                   named by the content; datasets may share one
    <home>/datasets/.new-<process>-…/                                           a dataset that this process is making
    <home>/uploads/<upload_id>/<number>-<start of sha256>                       parts of data that is coming; a row names each
    <home>/trash/                                                               what is being removed

A file is written under another name, made durable, then renamed; its row follows. So a crash leaves at worst a file without a row, which `sweep`
removes. Names never come from a request.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from service import tally, unfinished
from service.errors import ServiceError, StorageFull, conflict, crash_point, unavailable
from service.jobs import is_outlived
from service.store import Store
from service.store.changes import Row


class Corrupt(Exception):
    """Every generation of a checkpoint is damaged or gone. `steps` are those that were tried."""

    def __init__(self, steps: list[int]):
        super().__init__(f"no checkpoint of steps {', '.join(map(str, steps))} can be read: the files are damaged or gone")
        self.steps = steps


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def write(path: Path, data: bytes, place: str = "file") -> None:
    """Write a file that is either wholly there, also after a power cut, or not at all. StorageFull when the disk takes no more.

    `place` names the crash points: `place`.mid_write, .before_fsync, .after_fsync, .after_rename, .after_folder_fsync.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temp = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.temp")
    with _storage_full(temp):
        with open(temp, "wb") as file:
            file.write(data[: len(data) // 2])
            crash_point(f"{place}.mid_write")
            file.write(data[len(data) // 2:])
            file.flush()
            crash_point(f"{place}.before_fsync")
            os.fsync(file.fileno())
        crash_point(f"{place}.after_fsync")
        os.replace(temp, path)
        crash_point(f"{place}.after_rename")
        sync_folder(path.parent)
    crash_point(f"{place}.after_folder_fsync")


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _storage_full(temp: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        temp.unlink(missing_ok=True)
        if error.errno in (28, 122):        # ENOSPC, EDQUOT
            raise StorageFull() from error
        raise


def write_checkpoint(home: Path, job_id: str, step: int, data: bytes) -> dict[str, Any]:
    """Make a checkpoint durable; returns the {"path", "bytes", "sha256"} of its row. Other bytes at the same step get another name."""
    digest = sha256(data)
    path = Path("jobs", job_id, "checkpoints", f"{step:09d}-{digest[:16]}.safetensors")
    with tally.timed("checkpoint_write_seconds"):
        write(home / path, data, "checkpoint")
    return {"path": str(path), "bytes": len(data), "sha256": digest}


def read_checkpoint(home: Path, row: Mapping[str, Any]) -> bytes | None:
    """The bytes of one checkpoint; None when the file is gone or not what was written."""
    try:
        data = (home / row["path"]).read_bytes()
    except OSError:
        return None
    return data if len(data) == row["bytes"] and sha256(data) == row["sha256"] else None


def remove(home: Path, paths: Iterable[str]) -> None:
    """Remove files and folders, given below home, whose rows are gone. What is not there is no matter."""
    for path in paths:
        target = home / path
        if target.is_dir():
            shutil.rmtree(target, ignore_errors=True)
        else:
            target.unlink(missing_ok=True)


def content_folder(home: Path, digest: str) -> Path:
    """Where the dataset content with this SHA-256 lives."""
    return home / "datasets" / digest


@contextmanager
def pinned(store: Store, digest: str) -> Iterator[None]:
    """One transaction in which a content folder is there and nobody discards it: store the row that names it inside."""
    with store.write("pinned"):
        if not content_folder(store.home, digest).exists():
            raise unavailable("an equal dataset was removed at this moment: send it again")
        yield


def discard_content(store: Store, digest: str) -> None:
    """Remove a content folder unless some dataset still names it."""
    trash = store.home / "trash" / uuid4().hex
    with store.write("discard_content"):
        folder = content_folder(store.home, digest)
        if digest in store.contents() or not folder.exists():
            return
        trash.parent.mkdir(exist_ok=True)
        os.replace(folder, trash)
    shutil.rmtree(trash, ignore_errors=True)


def delete_job(store: Store, job_id: str, check: Callable[[Row], None] | None = None) -> None:
    """Remove a terminal job with its rows and files, unless `check` raises. 404, or 409 while it is live or published."""
    contents = store.delete_job(job_id, check)
    remove(store.home, [f"jobs/{job_id}"])
    for digest in contents:
        discard_content(store, digest)


def delete_dataset(store: Store, dataset_id: str) -> None:
    """Remove a dataset with its files. 404, or 409 while a live job uses it."""
    discard_content(store, store.delete_dataset(dataset_id))


def upload_folder(home: Path, upload_id: str) -> Path:
    """Where the parts of an upload lie."""
    return home / "uploads" / upload_id


def delete_upload(store: Store, upload_id: str) -> None:
    """Remove an upload with its parts. What it became stays. 404 when there is none."""
    store.delete_upload(upload_id)
    remove(store.home, [f"uploads/{upload_id}"])


def tidy_uploads(store: Store) -> None:
    """Remove uploads that nothing came for in too long, and what processes were taking in that are gone."""
    for upload_id in store.expired_uploads():
        delete_upload(store, upload_id)
    for folder in (store.home / "datasets", *_children(store.home / "uploads")):
        unfinished.sweep(folder)


def remove_outlived(store: Store) -> None:
    """Remove the jobs and datasets whose `retain_seconds` have passed. One that is used, or given a name, at this moment stays."""
    def check(row: Row) -> None:
        if not is_outlived(row["used_at"], row["retain_seconds"]):
            raise conflict("it was used just now", "in_use")

    for job_id in store.outlived_jobs():
        with suppress(ServiceError):
            delete_job(store, job_id, check)
    for dataset_id in store.outlived_datasets():
        with suppress(ServiceError):
            delete_dataset(store, dataset_id)


def sweep(store: Store) -> list[str]:
    """Remove what no row names: job folders, checkpoints, contents, parts of uploads. Returns their paths below home.

    For the supervisor, before its children start.

    Checkpoints of a job that a worker holds are left to that worker (`sweep_job`): it may be between a file and its row.
    """
    home = store.home
    with store.write("sweep"):
        known, files, contents = store.job_ids(), store.checkpoint_paths(), store.contents()
        settled = known - {row["id"] for row in store.owned()}
        orphans = [folder for folder in _children(home / "jobs") if folder.name not in known]
        written = [file for file in (home / "jobs").glob("*/checkpoints/*") if file.parts[-3] in settled]
        orphans += [file for file in written if str(file.relative_to(home)) not in files]
        orphans += [folder for folder in _children(home / "datasets") if folder.name not in contents and folder.name[0] != "."]
        parts = store.part_files()
        orphans += [file for file in (home / "uploads").glob("*/*") if str(file.relative_to(home / "uploads")) not in parts]
        orphans += _children(home / "trash")
        found = [str(path.relative_to(home)) for path in orphans]
        remove(home, found)
        for folder in _children(home / "uploads"):
            if not any(folder.iterdir()):
                folder.rmdir()
    tidy_uploads(store)
    return sorted(found)


def sweep_job(store: Store, job_id: str) -> None:
    """Remove the checkpoint files that an earlier attempt left without a row; for the worker that has just claimed the job."""
    named = {row["path"] for row in store.checkpoints(job_id)}
    files = (store.home / "jobs" / job_id / "checkpoints").glob("*")
    remove(store.home, (path for path in (str(file.relative_to(store.home)) for file in files) if path not in named))


def _children(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []

