"""GPUs are handed out: who trains what, what waits, and what becomes of a job whose GPU fails. The driver is one that does nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from service import devices, probe
from service.store import Store
from tests import driver
from tests.homes import fresh
from tests.service.running import ROOT, Running, classifier, until
from tests.service.test_turns import queue

LONG = 100_000


@pytest.fixture(scope="module")
def null(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return driver.environment(tmp_path_factory.mktemp("driver"))


@pytest.fixture(scope="module")
def gpu(null: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A supervisor with a worker of each kind, whose GPU has 256 MiB and fails at jobs called faulty."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**null, "NULL_DRIVER_MEMORY": str(1 << 28), "TRAINYARD_CRASH_POINT": "device.faulty"}.items():
            patch.setenv(name, value)
        one = Running(fresh(tmp_path_factory.mktemp("gpu") / "home"), workers=1, gpus="0")
    until(lambda: len(ready(one)) == 2, 240)         # the first of all compiles kernels
    yield one
    one.close()


def ready(running: Running) -> list[int]:
    return [pid for pid, phase in running.workers().items() if phase != "starting"]


def has_gpu(pid: int) -> bool:
    return "CUDA_VISIBLE_DEVICES=0" in Path("/proc", str(pid), "environ").read_text().split("\0")


# ---------------------------------------------------------------- who takes what


def added(store: Store, device: str, **more: object) -> str:
    return store.add_job({"epochs": 1, "device": device}, {}, epochs=1, **more)["id"]       # type: ignore[arg-type]


def taken(store: Store, device: str, others: bool = True) -> str | None:
    found = store.claim("here", 60, device=device, others=others)
    return found[0].job_id if found else None


def test_a_job_is_claimed_by_who_can_train_it(store: Store) -> None:
    cuda, cpu, either, last = (added(store, device) for device in ("cuda", "cpu", "auto", "cuda"))
    assert taken(store, "cpu", others=False) == cpu
    assert taken(store, "cpu", others=False) is None        # a GPU is free: the job for either is left to it
    assert taken(store, "cpu") == either
    assert taken(store, "cpu") is None
    assert [taken(store, "cuda"), taken(store, "cuda"), taken(store, "cuda")] == [cuda, last, None]
    assert store.get_job(either)["device"] == "cpu"


def test_who_waits_for_a_gpu_keeps_no_other_owner_waiting(store: Store) -> None:
    for owner in ("ada", "ben"):
        with_cuda = queue(store, owner)[0]
        with store.write("test") as connection:
            connection.exec_driver_sql(f"UPDATE jobs SET device = 'cuda' WHERE id = '{with_cuda}'")
    cpu, = queue(store, "cid")
    assert taken(store, "cpu") == cpu


def test_places_are_told_among_those_that_are_trained_alike(store: Store) -> None:
    ids = [added(store, device) for device in ("cuda", "cpu", "cuda", "auto", "cpu", "cuda")]
    places = store.queue_positions(ids)
    assert [places[job_id] for job_id in ids] == [1, 1, 2, 4, 3, 4]
    assert [store.queue_position(store.get_job(job_id)) for job_id in ids] == [1, 1, 2, 4, 3, 4]
    row = store.get_job(ids[0])
    assert row["status_reason"] == "waiting_for_device" and row["message"] == "The job waits for a GPU."


def test_a_job_stays_with_the_device_that_began_it(store: Store) -> None:
    job_id = added(store, "auto")
    found = store.claim("here", 60, device="cuda")
    assert found is not None
    store.lost(job_id, found[0].fence)
    assert store.get_job(job_id)["status"] == "queued" and taken(store, "cpu") is None and taken(store, "cuda") == job_id


# ---------------------------------------------------------------- looking for GPUs


def test_a_search_says_what_is_missing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from service.probe import look; print(look('all').reason)"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    if probe.look("all").gpus:
        pytest.skip("there is a GPU")
    assert said.startswith(("no NVIDIA driver: libcuda.so.1", "no NVIDIA GPU")) or "not installed: pip install" in said


@driver.needed
def test_a_gpu_that_is_not_there_is_told(null: dict[str, str]) -> None:
    command = [sys.executable, "-c", "from service.probe import look; print(look('0').gpus[0]['name'], look('3').reason)"]
    said = subprocess.run(command, cwd=ROOT, env={**os.environ, **null}, capture_output=True, text=True, check=True).stdout
    assert said.strip() == "null none of the GPUs 3, which TRAINYARD_GPUS names, is among those here: 0"


def test_a_worker_sees_its_gpu_by_the_name_that_the_service_was_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    found = ({"index": 0}, {"index": 1})
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert devices.names(found) == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-5f2c")
    assert devices.names(found) == ["3", "GPU-5f2c"]


def test_without_a_gpu_a_job_for_one_is_refused_with_the_reason(run: Callable[..., Running]) -> None:
    running = run("serve", gpus="none")
    assert running.process.stdout is not None
    url = running.process.stdout.readline().strip().rpartition(" ")[2]
    job = {"model": {"kind": "dense", "units": 1}, "loss": "mse", "optimiser": "adam", "device": "cuda",
           "data": {"dataset": {"columns": {"x": [1.0, 2.0], "y": [1.0, 2.0]}}, "target": "y"}}
    for path in ("/v1/jobs", "/v1/jobs?validate_only=true"):
        answer = httpx.post(f"{url}{path}", json=job)
        assert answer.status_code == 422
        assert answer.json()["errors"] == [{"pointer": "/device", "code": "no_device", "suggestion": "auto",
                                            "detail": "there is no GPU to train on: this service is told to use none"}]
    errors = httpx.post(f"{url}/v1/jobs", json={**job, "epochs": 0}).json()["errors"]
    assert {error["pointer"] for error in errors} == {"/device", "/epochs"}
    told = httpx.get(f"{url}/v1/limits").json()["devices"]
    assert told["cuda"] == {"gpus": [], "reason": "this service is told to use none"} and told["cpu"]["workers"] == 1
    assert httpx.get(f"{url}/version").json()["devices"] == ["cpu"]


@pytest.mark.slow
@driver.needed
def test_a_gpu_of_a_worker_elsewhere_is_known_until_nothing_is_heard_of_it(run: Callable[..., Running], null: dict[str, str], tmp_path: Path,
                                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    here = run("serve", gpus="none", lease_seconds=2, renew_seconds=0.5)
    assert here.process.stdout is not None
    url = here.process.stdout.readline().strip().rpartition(" ")[2]
    job = {"model": {"kind": "dense", "units": 1}, "loss": "mse", "optimiser": "adam", "device": "cuda",
           "data": {"dataset": {"columns": {"x": [1.0, 2.0], "y": [1.0, 2.0]}}, "target": "y"}}

    def status() -> int:
        return httpx.post(f"{url}/v1/jobs?validate_only=true", json=job).status_code

    assert status() == 422
    for name, value in null.items():
        monkeypatch.setenv(name, value)
    elsewhere = Running(tmp_path / "elsewhere", workers=1, gpus="0", store=f"sqlite:///{here.home / 'trainyard.db'}", lease_seconds=2,
                        renew_seconds=0.5)       # of another machine it has a home of its own, and the store in common
    try:
        until(lambda: status() == 200)
        told = httpx.get(f"{url}/v1/limits").json()["devices"]["cuda"]
        assert [gpu["name"] for gpu in told["gpus"]] == ["null"] and "reason" not in told
        assert httpx.get(f"{url}/version").json()["devices"] == ["cpu", "cuda"]
        posted = httpx.post(f"{url}/v1/jobs", json=job)
        assert posted.status_code == 202 and posted.json()["status_reason"] == "waiting_for_device"
        httpx.post(f"{url}/v1/jobs/{posted.json()['id']}/cancel")
        elsewhere.process.kill()
        until(lambda: status() == 422)
    finally:
        elsewhere.close()
    assert httpx.get(f"{url}/v1/limits").json()["devices"]["cuda"]["gpus"] == []


def test_what_supervisors_tell_of_themselves_is_forgotten_in_time(store: Store) -> None:
    one, two = {"index": 0, "name": "one"}, {"index": 0, "name": "two"}
    store.tell_supervisor("b", [two], 3, 60)
    store.tell_supervisor("a", [one, two], 2, 60)
    assert store.gpus() == [one, two, two] and store.workers() == 5
    store.tell_supervisor("a", [one], 1, -1)         # heard of too long ago
    assert store.gpus() == [two] and store.workers() == 3
    store.tell_supervisor("b", [], 1, 60)
    assert store.gpus() == [] and store.workers() == 1 and store.get_setting("supervisor:a") is None
    store.tell_supervisor("b", [], 0, 60)
    assert store.workers() == 0 and store.get_setting("supervisor:b") is None


# ---------------------------------------------------------------- with the processes that there are


@driver.needed
def test_only_the_worker_of_a_gpu_sees_it(gpu: Running) -> None:
    seeing = [pid for pid in ready(gpu) if has_gpu(pid)]
    assert len(seeing) == 1 and not [pid for pid in gpu.children() if pid not in seeing and has_gpu(pid)]
    assert devices.told(gpu.home / "run").gpus[0]["name"] == "null"


@driver.needed
def test_a_job_for_either_goes_to_the_gpu_while_it_is_free_and_else_to_the_cpu(gpu: Running) -> None:
    dataset = gpu.dataset()
    until(lambda: set(gpu.phases()) == {"idle"})
    first = gpu.add(classifier(dataset, LONG, name="faulty") | {"device": "cpu"})
    either = gpu.add(classifier(dataset, 1))
    gpu.wait(either)
    started = gpu.store.events(either, types=["job.started"])[0]
    assert started["data"]["device"] == gpu.store.get_job(either)["device"] == "cuda"
    gpu.store.request_cancel(first)
    gpu.wait(first)


@driver.needed
def test_a_gpu_that_fails_costs_a_process_and_an_attempt_and_never_the_next_job(gpu: Running) -> None:
    dataset = gpu.dataset()
    faulty = gpu.add({**classifier(dataset, 1), "device": "cuda"}, name="faulty", max_attempts=2)
    following = gpu.add({**classifier(dataset, 1), "device": "cuda"})
    before = [pid for pid in ready(gpu) if has_gpu(pid)]
    job = gpu.wait(faulty)
    assert job["error"]["code"] == job["status_reason"] == "device_lost" and job["error"]["kind"] == "system" and job["error"]["retryable"]
    assert [attempt["ended_by"] for attempt in gpu.store.attempts(faulty)] == ["device_lost", "device_lost"]
    gpu.wait(following)
    assert gpu.store.events(following, types=["job.started"])[0]["data"]["device"] == "cuda"
    assert "device_lost" not in [attempt["ended_by"] for attempt in gpu.store.attempts(following)]
    assert until(lambda: [pid for pid in ready(gpu) if has_gpu(pid)]) != before


@driver.needed
def test_a_job_that_does_not_fit_into_the_gpu_fails_at_once_and_the_next_is_trained_by_the_same_worker(gpu: Running) -> None:
    dataset = gpu.dataset()
    large, small = {**classifier(dataset, 1, units=20_000), "device": "cuda"}, {**classifier(dataset, 1), "device": "cuda"}
    large["data"]["batch_size"] = 4000
    before = until(lambda: [pid for pid in ready(gpu) if has_gpu(pid)])
    jobs = [gpu.add(spec) for spec in (large, small, large, small)]
    ended = [gpu.wait(job_id) for job_id in jobs]
    for job in ended[::2]:
        assert job["error"]["code"] == job["status_reason"] == "out_of_memory" and job["error"]["kind"] == "resource"
        assert job["message"].startswith("There was not enough memory: the GPU has no room for ") and "smaller batch_size" in job["hint"]
    assert [job["status"] for job in ended[1::2]] == ["succeeded", "succeeded"]
    assert [len(gpu.store.attempts(job_id)) for job_id in jobs] == [1, 1, 1, 1]
    assert until(lambda: [pid for pid in ready(gpu) if has_gpu(pid)]) == before


@driver.needed
def test_a_worker_that_dies_on_a_gpu_is_replaced_by_one_that_has_it_too(gpu: Running) -> None:
    job_id = gpu.add({**classifier(gpu.dataset(), LONG), "device": "cuda"})
    first = gpu.holder(job_id)
    assert has_gpu(first)
    os.kill(first, signal.SIGKILL)
    until(lambda: gpu.store.get_job(job_id)["attempt"] == 2)
    assert has_gpu(gpu.holder(job_id)) and gpu.holder(job_id) != first
    gpu.store.request_cancel(job_id)
    gpu.wait(job_id)


@driver.needed
def test_an_error_of_the_driver_ends_the_worker_and_the_job_goes_on_once_the_gpu_works_again(gpu: Running, null: dict[str, str]) -> None:
    job_id, fault = gpu.add({**classifier(gpu.dataset(), LONG), "device": "cuda"}), Path(null["NULL_DRIVER_FAULT"])
    gpu.holder(job_id)
    fault.touch()
    try:
        until(lambda: gpu.store.attempts(job_id)[0]["ended_by"])
    finally:
        fault.unlink()
    assert gpu.store.attempts(job_id)[0]["ended_by"] == "device_lost"
    told = next(event for event in gpu.store.events(job_id, limit=1000) if event["type"] == "job.requeued")
    assert told["data"]["reason"] == "device_lost"
    until(lambda: gpu.store.get_job(job_id)["attempt"] == 2, 120)
    gpu.store.request_cancel(job_id)
    gpu.wait(job_id)
