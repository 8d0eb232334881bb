"""R9. The disk is full at 100 random instants of training; one byte of the newest checkpoint is flipped, or it is truncated: nothing half-visible,
`storage_full` and recovery, damage always detected and the previous generation used."""

from __future__ import annotations

import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from service import artifacts
from service.jobs import TERMINAL
from service.store import Store
from tests.reliability.sizes import short_or_full
from tests.reliability.whole import intact, tidy
from tests.service.deeds import claimed, newest
from tests.service.running import Running, classifier

DISK_MB = 24
PATIENCE = 1.0          # seconds that a trainer waits for room is one lease
EPOCHS = 40


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own, which holds the home."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(folder)], capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here")
    (tmp_path / "home").symlink_to(folder)
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path) -> None:
    """Leave not a byte."""
    with suppress(OSError), open(disk / "filler", "ab", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            with suppress(OSError):
                while file.write(bytes(size)):
                    pass
    assert shutil.disk_usage(disk).free == 0


def free(disk: Path) -> None:
    (disk / "filler").unlink(missing_ok=True)


def nothing_half_visible(running: Running) -> None:
    """Whatever a row names can be read."""
    with running.store.read():
        jobs = running.store.job_ids()
        rows = [row for job_id in jobs for row in running.store.checkpoints(job_id)]
    for row in rows:
        if artifacts.read_checkpoint(running.home, row) is None:        # unless it was removed meanwhile, with its row
            assert row["path"] not in running.store.checkpoint_paths()


def told(running: Running, job_id: str) -> list[int]:
    return [event["data"]["epoch"] for event in running.store.events(job_id, limit=1000) if event["type"] == "epoch"]


@short_or_full("times", 4, 100)
def test_a_job_survives_a_full_disk_at_any_instant(run: Callable[..., Running], disk: Path, times: int, shown: Callable[[str], None]) -> None:
    running, chance = run(lease_seconds=4 * PATIENCE, renew_seconds=PATIENCE), random.Random(9)
    spec = classifier(running.dataset(), EPOCHS, units=1024, every=2)
    whole = running.add(spec)
    running.wait(whole, "succeeded")
    filled = jobs = failed = 0
    while filled < times:
        job_id, jobs = running.add(spec), jobs + 1
        while running.store.get_job(job_id)["status"] not in TERMINAL and filled < times:
            time.sleep(PATIENCE / 2 + chance.random())
            fill(disk)
            filled += 1
            time.sleep(chance.random() * 2 * PATIENCE)
            nothing_half_visible(running)
            free(disk)
        job = running.wait(job_id)
        if job["status"] == "failed":       # there was no room whenever it looked
            assert job["error"]["code"] == "storage_full", job["error"]
            failed += 1
        else:
            assert running.weights(job_id) == running.weights(whole) and told(running, job_id) == list(range(1, EPOCHS + 1))
        artifacts.delete_job(running.store, job_id)
    assert running.stop() == 0
    intact(running.home)
    tidy(running.store)
    assert jobs > failed
    shown(f"disk filled at {filled} instants of {jobs} jobs: {jobs - failed} went on to the same bytes, {failed} failed as storage_full, nothing "
          "half-visible")


@short_or_full("times", 1, 10)
def test_a_disk_that_stays_full_is_told_and_work_goes_on_when_there_is_room(run: Callable[..., Running], disk: Path, times: int,
                                                                            shown: Callable[[str], None]) -> None:
    running = run("serve", lease_seconds=PATIENCE, renew_seconds=PATIENCE / 4, disk_watermark_bytes=1)
    assert running.process.stdout is not None
    http = httpx.Client(base_url=running.process.stdout.readline().split()[-1], timeout=60, trust_env=False)
    spec = classifier(running.dataset(), EPOCHS, every=2)
    for _ in range(times):
        job_id = running.add({**spec, "epochs": 100_000}, max_attempts=1)
        running.reached(job_id, 3)
        fill(disk)
        time.sleep(3 * PATIENCE)
        upload = http.post("/v1/datasets", params={"name": "x"}, content="a,b\n1,2\n", headers={"content-type": "text/csv"})
        assert upload.status_code == 507 and upload.json()["code"] == "storage_full", upload.text
        posted = http.post("/v1/jobs", json=spec)           # the log of the store may have a page left
        assert posted.status_code == 202 or posted.json()["code"] == "storage_full", posted.text
        assert http.get("/readyz").status_code == 503 and http.get(f"/v1/jobs/{job_id}").status_code == 200
        nothing_half_visible(running)
        free(disk)
        job = running.wait(job_id)
        assert job["status"] == "failed" and job["error"]["code"] == job["status_reason"] == "storage_full" and job["error"]["kind"] == "resource"
        assert job["hint"] and running.types(job_id)[-1] == "job.failed"
        if posted.status_code == 202:       # it may have been taken up while the disk was full
            job = running.wait(posted.json()["id"])
            assert job["status"] == "succeeded" or job["status_reason"] == "storage_full", job["error"]
        answer = http.post("/v1/jobs", json=spec)
        assert answer.status_code == 202 and running.wait(answer.json()["id"])["status"] == "succeeded"
        for made in running.store.job_ids():        # the disk is small
            artifacts.delete_job(running.store, made)
        assert http.get("/readyz").status_code == 200
    assert running.stop() == 0
    intact(running.home)
    tidy(running.store)
    shown(f"disk full for good {times} times: uploads 507, the job failed as storage_full, the next one succeeded")


@short_or_full("times", 100, 1200)
def test_damage_is_always_found(store: Store, times: int, shown: Callable[[str], None]) -> None:
    chance, claim = random.Random(0), claimed(store)
    good, better = chance.randbytes(9_999), chance.randbytes(10_000)
    for step, data in ((10, good), (20, better)):
        store.record(claim, checkpoint={"step": step, "epoch": 1, "metrics": {}, **artifacts.write_checkpoint(store.home, claim.job_id, step, data)})
    file = store.home / store.checkpoints(claim.job_id)[0]["path"]
    assert newest(store, claim.job_id) == (20, better)
    for number in range(times):
        file.write_bytes(flipped(better, chance) if number % 6 else better[: chance.randrange(len(better))])
        assert newest(store, claim.job_id) == (10, good)
    shown(f"{times:,} damaged checkpoints ({times // 6:,} cut off, the others with one bit flipped), all found, the generation before used")


@short_or_full("times", 2, 20)
def test_a_job_whose_newest_checkpoint_is_damaged_goes_on_from_the_one_before(running: Running, times: int, shown: Callable[[str], None]) -> None:
    chance, spec = random.Random(3), classifier(running.dataset(), EPOCHS, every=5)
    whole = running.add(spec)
    running.wait(whole, "succeeded")
    for number in range(times):
        job_id = running.add(spec)
        running.reached(job_id, 12)
        running.store.request_pause(job_id)
        running.wait(job_id, "paused")
        rows = running.store.checkpoints(job_id)
        file = running.home / rows[0]["path"]
        data = file.read_bytes()
        file.write_bytes(flipped(data, chance) if number % 2 else data[: chance.randrange(len(data))])
        running.store.resume(job_id)
        assert running.wait(job_id)["status"] == "succeeded"
        warnings = [event for event in running.store.events(job_id, limit=1000) if event["type"] == "warning"]
        assert [event["data"]["code"] for event in warnings] == ["checkpoint_corrupt"] and f"step {rows[1]['step']}" in warnings[0]["message"]
        assert running.weights(job_id) == running.weights(whole) and told(running, job_id) == list(range(1, EPOCHS + 1))
    shown(f"{times} jobs whose newest checkpoint was damaged while they were paused went on from the one before to the same bytes")


def flipped(data: bytes, chance: random.Random) -> bytes:
    damaged = bytearray(data)
    damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
    return bytes(damaged)
