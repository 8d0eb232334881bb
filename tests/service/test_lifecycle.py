"""What is asked of a job that runs: to pause and go on, to stop, to change; and that none of it costs a bit, whatever is killed meanwhile."""

from __future__ import annotations

import fcntl
import hashlib
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engine.errors import CheckpointError, DeviceError, NonFiniteError
from engine.train import Job, Recent, start
from engine.train.run.live import Adjustment
from service import endings
from service.artifacts import Corrupt
from service.attempt import Attempt, take
from service.crew import Crew
from service.errors import StorageFull, not_found
from service.heartbeat import Heartbeat
from service.samples import open_sample
from service.settings import Settings
from service.store import Store
from tests.homes import fresh
from tests.service.deeds import claimed
from tests.service.running import until
from tests.serving import Server, serving
from tests.user import User, epochs

LONG = 100_000      # epochs of a job that is stopped before its end


def job(number: int, **more: Any) -> dict[str, Any]:
    """A job of so many epochs of 45 steps each, which take a few milliseconds."""
    return {"model": {"kind": "chain", "layers": [{"kind": "dense", "units": 64, "activation": "relu"}, {"kind": "dropout", "rate": 0.1},
                                                  {"kind": "dense", "units": "target"}]},
            "loss": "logit_cross_entropy", "optimiser": {"kind": "adam", "learning_rate": 0.001}, "epochs": number, "seed": 4,
            "data": {"dataset": "sample:digits", "target": "label", "validation": {"fraction": 0.2}}, **more}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(fresh(tmp_path_factory.mktemp("lifecycle") / "home"), workers=2, threads=2, cancel_seconds=2) as found:
        yield found


@pytest.fixture(scope="module")
def user(server: Server) -> User:
    return User(server.url)


def wait(user: User, job_id: str, *states: str) -> dict[str, Any]:
    return until(lambda: found if (found := user.get(f"/v1/jobs/{job_id}"))["status"] in states else None, 60)


def reached(user: User, job_id: str, epoch: int) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        found = user.get(f"/v1/jobs/{job_id}")
        assert not found["is_terminal"], found
        return found if found["epoch"] >= epoch else None
    return until(look, 60)


def ask(user: User, job_id: str, wish: str) -> dict[str, Any]:
    answer = user.http.post(f"/v1/jobs/{job_id}/{wish}")
    assert answer.status_code == 202, answer.text
    return answer.json()


def patch(user: User, job_id: str, **changes: Any) -> dict[str, Any]:
    answer = user.http.patch(f"/v1/jobs/{job_id}", json=changes)
    assert answer.status_code == 200, answer.text
    return answer.json()


def last_sha(user: User, job_id: str) -> str:
    return next(row["sha256"] for row in user.get(f"/v1/jobs/{job_id}/checkpoints")["data"] if row["last"])


def uninterrupted(found: dict[str, Any]) -> str:
    """SHA-256 of the last checkpoint of one undisturbed run, of which the same was asked at the same steps."""
    asked = [Adjustment(change["step"], change["changes"]) for change in found.get("adjustments", ())]
    run = start(Job.model_validate(found["spec"]), {"sample:digits": open_sample("digits")}, adjustments=asked)
    *_, last = (event.payload for event in run.events() if event.payload is not None)
    return hashlib.sha256(last).hexdigest()


def kill(user: User, job_id: str) -> int:
    """SIGKILL for the worker that trains the job."""
    pid = until(lambda: user.get(f"/v1/jobs/{job_id}").get("worker", {}).get("pid"))
    os.kill(pid, signal.SIGKILL)
    return pid


def put_to_sleep(home: Path, pid: int) -> bool:
    """Stop a process, but not while it has the turn to write, which nobody else could then have."""
    os.kill(pid, signal.SIGSTOP)
    time.sleep(0.05)
    with open(f"{home / 'trainyard.db'}.lock", "ab") as queue, suppress(BlockingIOError):
        fcntl.flock(queue, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    os.kill(pid, signal.SIGCONT)
    return False


def test_a_job_that_was_paused_ends_with_the_same_bytes_and_its_stream_stays_open(user: User) -> None:
    job_id, told = user.submit(job(500)), []
    following = threading.Thread(target=lambda: told.extend(user.stream(job_id)))       # one connection
    following.start()
    reached(user, job_id, 20)
    assert ask(user, job_id, "pause")["status"] in ("pausing", "paused")
    paused = wait(user, job_id, "paused")
    assert paused["status_reason"] == "user_request" and "worker" not in paused and paused["attempts"][0]["ended_by"] == "paused"
    assert ask(user, job_id, "pause")["status"] == "paused"                             # it is already
    time.sleep(0.3)
    assert following.is_alive() and user.get(f"/v1/jobs/{job_id}") == paused
    assert ask(user, job_id, "resume")["status"] == "queued"
    refused = user.http.post(f"/v1/jobs/{job_id}/resume")
    assert refused.status_code == 409 and "paused" not in refused.json()["allowed"]
    found = wait(user, job_id, "succeeded", "failed")
    following.join(30)
    assert [event["type"] for event in told if event["type"] not in ("step", "epoch", "checkpoint")] == [
        "job.queued", "job.started", "job.pausing", "job.paused", "job.resumed", "job.started", "job.succeeded"]
    assert [event["seq"] for event in told] == list(range(1, len(told) + 1))
    assert [data["epoch"] for data in epochs(told)] == list(range(1, 501))
    assert found["attempts"][1]["from_step"] == found["attempts"][0]["to_step"] == paused["step"]
    assert user.get(f"/v1/jobs/{job_id}/metrics", by="step", points=100_000)["columns"]["step"] == list(range(1, 500 * 45 + 1))
    assert last_sha(user, job_id) == uninterrupted(found)


def test_changes_of_a_running_job_are_made_again_at_their_steps_whatever_is_killed(user: User) -> None:
    job_id = user.submit(job(600))
    before = reached(user, job_id, 10)
    longer = patch(user, job_id, learning_rate=0.004, epochs=900)
    assert longer["epochs"] == 900 and longer["progress"] < before["progress"] + 0.5
    kill(user, job_id)                                      # perhaps before the run knew of it
    reached(user, job_id, 60)
    patch(user, job_id, freeze=["layers.0"], beta1=0.8)
    until(lambda: all("step" in change for change in user.get(f"/v1/jobs/{job_id}")["adjustments"]))
    kill(user, job_id)
    patch(user, job_id, learning_rate=0.002)                # while nobody trains it
    until(lambda: user.http.post(f"/v1/jobs/{job_id}/pause").status_code == 202)
    wait(user, job_id, "paused")
    assert patch(user, job_id, thaw="layers.0.*")["status"] == "paused"
    ask(user, job_id, "resume")
    kill(user, job_id)
    found = wait(user, job_id, "succeeded", "failed")
    assert found["status"] == "succeeded" and found["epoch"] == found["epochs"] == 900 and found["progress"] == 1.0
    changes = found["adjustments"]
    assert [list(change["changes"]) for change in changes] == [["learning_rate", "epochs"], ["freeze", "beta1"], ["learning_rate"], ["thaw"]]
    events = user.watch(job_id)
    adjusted = [event["data"] for event in events if event["type"] == "adjusted"]
    assert [(data["by"], data["step"], data["epoch"]) for data in adjusted] == [("user", change["step"], change["epoch"]) for change in changes]
    assert adjusted[0]["changes"] == {"learning_rate": {"from": 0.001, "to": 0.004}, "epochs": {"from": 600, "to": 900}}
    told = epochs(events)
    assert [data["epoch"] for data in told] == list(range(1, 901)) and told[-1]["epochs"] == 900
    steps = user.get(f"/v1/jobs/{job_id}/metrics", by="step", points=100_000)["columns"]["step"]
    assert steps == list(range(1, 900 * 45 + 1))
    assert last_sha(user, job_id) == uninterrupted(found)
    assert [attempt["ended_by"] for attempt in found["attempts"]].count("signal_9") == 3


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(12))
def test_random_changes_pauses_and_kills_cost_no_bit(user: User, seed: int) -> None:
    chance = random.Random(seed)
    plateau = {"kind": "reduce_on_plateau", "monitor": "train_loss", "factor": 0.7, "patience": 9, "min_learning_rate": 1e-4}
    callbacks = [{"kind": "checkpoint", "every_epochs": 40}, plateau, {"kind": "freeze", "paths": ["layers.0.bias"], "at": {"epoch": 150}},
                 {"kind": "adjust", "at": {"epoch": 210}, "set": {"beta2": 0.99}}]
    schedule = {"kind": "cosine_anneal", "floor": 0.1, "period": 1000, "per": "step"}
    optimiser = [{"kind": "clip_global_norm", "max_norm": 1.0}, {"kind": "adamw", "learning_rate": 0.003, "schedule": schedule}, "ema"]
    job_id = user.submit(job(500, callbacks=callbacks, optimiser=optimiser, max_attempts=50, seed=seed))
    deeds: dict[str, Any] = {
        "rate": lambda: patch(user, job_id, learning_rate=chance.uniform(1e-4, 5e-3), beta1=chance.uniform(0.5, 0.95)),
        "freeze": lambda: patch(user, job_id, freeze=[chance.choice(["layers.0", "layers.2.bias", "*.weight"])], thaw=["layers.2.weight"]),
        "thaw": lambda: patch(user, job_id, thaw="*"),
        "epochs": lambda: patch(user, job_id, epochs=chance.randint(400, 700)),
        "pause": lambda: user.http.post(f"/v1/jobs/{job_id}/pause"),
        "kill": lambda: kill(user, job_id)}
    found = user.get(f"/v1/jobs/{job_id}")
    while not found["is_terminal"]:
        with suppress(AssertionError, ProcessLookupError):      # refused: it is in no state for that
            if found["status"] == "running" or chance.random() < 0.1:
                deeds[chance.choice(list(deeds))]()
        if found["status"] == "paused":
            user.http.post(f"/v1/jobs/{job_id}/resume")
        time.sleep(chance.random() * 0.4)
        found = user.get(f"/v1/jobs/{job_id}")
    assert found["status"] == "succeeded" and found["epoch"] == found["epochs"], found
    steps = user.get(f"/v1/jobs/{job_id}/metrics", by="step", points=100_000)["columns"]["step"]
    assert steps == list(range(1, found["epochs"] * 45 + 1))
    assert [data["epoch"] for data in epochs(user.watch(job_id))] == list(range(1, found["epochs"] + 1))
    assert all("step" in change for change in found.get("adjustments", ()))
    assert last_sha(user, job_id) == uninterrupted(found)
    print(f"{len(found['attempts'])} attempts, {len(found.get('adjustments', ()))} changes")


def test_a_cancel_is_done_within_a_batch_and_a_trainer_that_does_not_hear_it_is_killed(user: User, server: Server) -> None:
    job_id = user.submit(job(LONG))
    reached(user, job_id, 2)
    began = time.monotonic()
    assert ask(user, job_id, "cancel")["status"] in ("cancelling", "cancelled")
    found = wait(user, job_id, "cancelled")
    assert time.monotonic() - began < 10 and found["attempts"][-1]["ended_by"] == "cancelled"
    assert user.http.post(f"/v1/jobs/{job_id}/pause").json()["allowed"] == []

    job_id = user.submit(job(LONG))
    reached(user, job_id, 2)
    for wish, end in (("pause", "paused"), ("cancel", "cancelled")):
        pid = until(lambda: user.get(f"/v1/jobs/{job_id}").get("worker", {}).get("pid"))
        until(lambda pid=pid: put_to_sleep(server.home, pid))
        ask(user, job_id, wish)
        found = wait(user, job_id, end)
        assert found["attempts"][-1]["ended_by"] == "worker_lost" and not Path("/proc", str(pid)).exists()
        if end == "paused":
            ask(user, job_id, "resume")


def test_the_time_of_a_job_is_counted_over_all_attempts(user: User) -> None:
    job_id = user.submit(job(LONG, limits={"max_seconds": 3}))
    began = time.monotonic()
    until(lambda: time.monotonic() - began > 2 and reached(user, job_id, 1))
    ask(user, job_id, "pause")
    wait(user, job_id, "paused")
    ask(user, job_id, "resume")
    found = wait(user, job_id, "failed", "succeeded")
    assert found["error"]["code"] == found["status_reason"] == "time_limit" and found["error"]["kind"] == "timeout" and found["attempt"] == 2
    spans = [user_seconds(attempt) for attempt in found["attempts"]]
    assert spans[1] < 3 and sum(spans) > 2.5


def user_seconds(attempt: dict[str, Any]) -> float:
    return seconds(attempt["ended_at"]) - seconds(attempt["started_at"])


def seconds(moment: str) -> float:
    hours, minutes, rest = moment.removesuffix("Z").partition("T")[2].split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(rest)


def test_fewer_epochs_end_a_running_job_and_never_fewer_than_have_begun(user: User) -> None:
    job_id = user.submit(job(LONG))
    done = reached(user, job_id, 3)["epoch"]
    patch(user, job_id, epochs=done + 400)
    found = wait(user, job_id, "succeeded", "failed")
    assert found["status"] == "succeeded" and found["epochs"] == found["epoch"] == done + 400
    late = user.http.patch(f"/v1/jobs/{job_id}", json={"epochs": 500})
    assert late.status_code == 409 and "fork" in late.json()["detail"] and late.json()["allowed"] == []
    assert patch(user, job_id, name="done", metadata={"kept": "yes"}, priority=-3)["name"] == "done"


@pytest.fixture
def attempted(home: Path, open_store: Any, tmp_path: Path) -> Any:
    """Trains the next job in this process; returns the attempt."""
    store: Store = open_store()
    (tmp_path / "run").mkdir()

    def attempt(meanwhile: Any = None) -> Attempt:
        taken = take(store, "here", 60, 1)
        assert taken is not None
        found = Attempt(store, Settings(home=home), Heartbeat(tmp_path / "run"), taken, 1, Recent())
        if meanwhile is not None:
            meanwhile(found)
        found.work()
        return found

    attempt.store = store       # type: ignore[attr-defined]
    return attempt


def queued(store: Store, number: int = 3) -> str:
    return store.add_job(Job.model_validate(job(number)).spec(), {"steps_per_epoch": 45}, epochs=number)["id"]


def test_a_change_that_comes_when_the_run_is_over_is_taken_up_by_another_attempt(attempted: Any) -> None:
    store = attempted.store
    job_id = queued(store)

    def late(attempt: Attempt) -> None:
        close = attempt.recording.close
        attempt.recording.close = lambda: store.adjust(job_id, {"epochs": 5}, epochs=5) and close()

    attempted(late)
    assert (row := store.get_job(job_id))["status"] == "queued" and row["epochs"] == 5 and row["losses"] == 0
    attempted()
    row = store.get_job(job_id)
    assert (row["status"], row["epoch"], row["epochs"]) == ("succeeded", 5, 5)
    assert [(change["number"], change["step"]) for change in store.adjustments(job_id)] == [(1, 3 * 45)]
    whole = queued(store, 5)
    attempted()
    assert [event["data"]["train_loss"] for event in store.events(job_id, types=["epoch"], limit=99) if event["type"] == "epoch"] == [
        event["data"]["train_loss"] for event in store.events(whole, types=["epoch"], limit=99) if event["type"] == "epoch"]


def test_a_change_that_would_freeze_all_is_left_out_and_said_so_once(attempted: Any) -> None:
    store = attempted.store
    job_id = queued(store)
    store.adjust(job_id, {"freeze": ["*"], "epochs": 9}, epochs=9)
    attempted()
    row = store.get_job(job_id)
    assert (row["status"], row["epoch"], row["epochs"]) == ("succeeded", 3, 3) and store.adjustments(job_id)[0]["step"] == 0
    warnings = [event for event in store.events(job_id, limit=99) if event["type"] == "warning"]
    assert [event["data"]["code"] for event in warnings] == ["nothing_trained"]


def test_a_fault_of_the_service_is_tried_again_and_one_of_the_job_is_not(attempted: Any) -> None:
    store = attempted.store

    def broken(error: Exception) -> Any:
        def fail(attempt: Attempt) -> None:
            attempt._train = lambda: (_ for _ in ()).throw(error)       # type: ignore[method-assign]
        return fail

    job_id = queued(store)
    for losses in (1, 2):
        attempted(broken(RuntimeError("a fault")))
        assert (row := store.get_job(job_id))["status"] == "queued" and row["losses"] == losses
    attempted(broken(RuntimeError("a fault")))
    row = store.get_job(job_id)
    assert row["status"] == "failed" and row["error"]["code"] == "internal" and "RuntimeError: a fault" in row["message"] and row["hint"]
    job_id = queued(store)
    attempted(broken(MemoryError("no room")))
    assert (row := store.get_job(job_id))["status"] == "failed" and row["attempt"] == 1 and row["error"]["code"] == "out_of_memory"


# ---------------------------------------------------------------- how jobs end badly

def test_a_loss_that_is_not_finite_says_where_and_what_to_try(user: User) -> None:
    wild = {"kind": "adjust", "at": {"epoch": 3}, "set": {"learning_rate": 1e30}}
    found = wait(user, user.submit(job(9, callbacks=["checkpoint", wild])), "failed", "succeeded")
    assert found["status"] == "failed" and found["status_reason"] == found["error"]["code"] == "nonfinite_loss" and found["error"]["kind"] == "user"
    assert found["error"]["epoch"] == 3 and found["error"]["step"] > 90 and f"in epoch 3, step {found['error']['step']}." in found["message"]
    assert "Try learning_rate 1e+29 (now 1e+30) or clip_global_norm; fork from epoch 2." in found["hint"]


def test_a_job_that_needs_more_steps_than_it_may_have_fails(user: User) -> None:
    found = wait(user, user.submit(job(9, limits={"max_steps": 50})), "failed", "succeeded")
    assert found["status_reason"] == found["error"]["code"] == "step_limit" and found["step"] == 50 and found["epoch"] == 1


@pytest.mark.parametrize(("error", "kind", "code", "retried"), [
    (MemoryError(), "resource", "out_of_memory", False), (StorageFull(), "resource", "storage_full", False),
    (Corrupt([3]), "system", "checkpoint_corrupt", False), (CheckpointError("of another job"), "system", "checkpoint_corrupt", False),
    (not_found("dataset", "ds_x"), "user", "dataset_missing", False), (NonFiniteError("NaN"), "user", "nonfinite_loss", False),
    (DeviceError("gone"), "system", "device_lost", True), (KeyError("x"), "system", "internal", True)])
def test_what_a_worker_meets_has_its_code(error: Exception, kind: str, code: str, retried: bool) -> None:
    found = endings.of(error)
    assert (found.kind, found.code, found.retried) == (kind, code, retried) and found.message.endswith(".") and found.hint


def test_what_ends_a_worker_has_its_code(home: Path, tmp_path: Path, open_store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    crew = Crew(Settings(home=home, workers=0), open_store(), tmp_path, "here", [], False)
    for code, expected in ((-11, "signal_11"), (3, "exit_3"), (-9, "signal_9")):
        assert crew._post_mortem(code).code == expected and crew._post_mortem(code).kind == "system"
    monkeypatch.setattr("service.crew.oom_kills", lambda: crew.kills + 1)
    assert (crew._post_mortem(-9).code, crew._post_mortem(-9).kind) == ("out_of_memory", "resource")


def test_only_what_is_not_the_jobs_fault_is_tried_again(store: Store) -> None:
    for kind, code, status in (("system", "signal_9", "queued"), ("resource", "out_of_memory", "failed"), ("timeout", "stalled", "failed")):
        claim = claimed(store)
        row = store.lost(claim.job_id, claim.fence, kind=kind, code=code, message="It ended.")
        assert (row["status"], row["losses"]) == (status, int(kind == "system"))
        if status == "failed":
            assert row["error"]["retryable"] and row["message"] == "It ended." and store.attempts(claim.job_id)[0]["ended_by"] == code
        else:
            store.request_cancel(claim.job_id)


def test_a_supervisor_that_slept_takes_nobody_for_stalled(home: Path, tmp_path: Path, open_store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    crew = Crew(Settings(home=home, workers=1, stalled_seconds=300), open_store(), tmp_path, "here", [Sleeper()], False)    # type: ignore[list-item]
    (worker,), clock = crew.workers, [0.0]
    monkeypatch.setattr("service.crew.time", SimpleNamespace(monotonic=lambda: clock[0]))       # of the supervisor alone
    worker.heart, killed = Heartbeat(tmp_path), []
    monkeypatch.setattr(worker, "send", killed.append)
    held = {"fence": 1, "stop_requested_at": None}
    worker.looked_at = 0.0
    for moment in (0.5, 3600.0, 3600.5, 7200.0):
        clock[0] = moment
        worker.look(held)
    assert not killed and worker.verdict is None
    for _ in range(700):
        clock[0] += 0.5
        worker.look(held)
    assert worker.verdict is not None and worker.verdict.code == "stalled" and len(killed) == 1


class Sleeper:
    """A process that does nothing."""

    pid = os.getpid()
