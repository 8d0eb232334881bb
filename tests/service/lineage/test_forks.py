"""Forks: new jobs that go on from a checkpoint of another one."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
from jobs import DATA, problems

from tests.serving import Server
from tests.user import User, epochs

LAYERS = [{"kind": "dense", "units": 16, "activation": "relu"}, {"kind": "batch_norm"}, {"kind": "dropout", "rate": 0.2},
          {"kind": "dense", "units": "target"}]
RULE = {"kind": "adam", "learning_rate": 0.01, "schedule": {"kind": "cosine_anneal", "floor": 0.1, "period": 8, "per": "epoch"}}
SPEC: dict[str, Any] = {"model": {"kind": "chain", "layers": LAYERS}, "loss": "logit_cross_entropy", "data": DATA, "epochs": 2, "seed": 3,
                        "optimiser": [{"kind": "clip_global_norm", "max_norm": 1.0}, RULE], "name": "short", "metadata": {"team": "a"},
                        "callbacks": [{"kind": "early_stopping", "patience": 6}, {"kind": "checkpoint", "every_epochs": 1, "keep_last": 5}]}


def sha(user: User, job_id: str) -> str:
    return next(row["sha256"] for row in user.get(f"/v1/jobs/{job_id}/checkpoints")["data"] if row["last"])


def forked(user: User, job_id: str, body: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The job of a fork, when it has succeeded, and its events."""
    answer = user.http.post(f"/v1/jobs/{job_id}/fork", json=body)
    assert answer.status_code == 202, answer.text
    job = answer.json()
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}" and job["parent"] == job_id
    events = user.watch(job["id"])
    assert events[-1]["type"] == "job.succeeded", events[-1]
    return job, events


@pytest.fixture(scope="module")
def parent(user: User) -> str:
    return user.train(SPEC)[0]


def test_more_epochs_give_the_bytes_of_one_longer_job_also_when_the_parent_is_gone(service: Server, user: User) -> None:
    parent, _ = user.train(SPEC)
    whole, told = user.train({**SPEC, "epochs": 5})
    job, events = forked(user, parent, {"more_epochs": 3})
    assert (job["epoch"], job["epochs"], job["name"], job["metadata"]) == (2, 5, "short", {"team": "a"}) and job["best"]["epoch"] and job["step"]
    assert [event["epoch"] for event in epochs(events)] == [3, 4, 5] and sha(user, job["id"]) == sha(user, whole)
    values = [[event[name] for name in ("train_loss", "valid_loss", "learning_rate")] for event in epochs(told)[2:]]
    assert [[event[name] for name in ("train_loss", "valid_loss", "learning_rate")] for event in epochs(events)] == values
    assert next(event for event in events if event["type"] == "job.started")["data"]["resumed_from"] == job["step"]

    queued = user.post(f"/v1/jobs/{parent}/fork", {"more_epochs": 3, "checkpoint": 1, "changes": {"name": "from the first"}})
    user.http.delete(f"/v1/jobs/{parent}").raise_for_status()
    assert user.watch(queued["id"])[-1]["type"] == "job.succeeded"
    assert user.get(f"/v1/jobs/{queued['id']}")["epochs"] == 4
    assert user.post(f"/v1/jobs/{queued['id']}/predict", {"dataset": "sample:digits"})["job_id"] == queued["id"]


def test_changes_are_a_merge_patch_and_reach_the_rule_in_a_list(user: User, parent: str) -> None:
    changes = {"optimiser": {"learning_rate": 0.002, "schedule": None}, "metadata": {"team": None, "why": "slower"}, "callbacks": None,
               "data": {"batch_size": 32}}
    job, events = forked(user, parent, {"more_epochs": 1, "changes": changes})
    clip, rule = job["spec"]["optimiser"]
    assert clip["kind"] == "clip_global_norm" and rule["learning_rate"] == 0.002 and rule["kind"] == "adam" and rule.get("schedule") is None
    assert job["metadata"] == {"why": "slower"} and job["spec"]["callbacks"] == [] and job["spec"]["data"]["batch_size"] == 32
    assert job["spec"]["data"]["dataset"] == "sample:digits" and job["spec"]["seed"] == 3
    assert epochs(events)[0]["learning_rate"] == 0.002


def test_reset_starts_from_the_parameters_that_fit(user: User, parent: str) -> None:
    job, events = forked(user, parent, {"state": "reset", "more_epochs": 1, "checkpoint": "best", "changes": {"optimiser": "descent"}})
    assert (job["epoch"], job["epochs"], job["spec"]["initial"]) == (0, 1, {"job": parent, "checkpoint": "best"})
    assert [event["epoch"] for event in epochs(events)] == [1]
    wider = {"model": {"layers": [*LAYERS[:3], {"kind": "dense", "units": 7, "activation": "relu"}, LAYERS[3]]}}
    job, _ = forked(user, parent, {"state": "reset", "more_epochs": 1, "changes": wider})
    assert {path[:8] for path in job["spec"]["initial"]["paths"]} == {"layers.0", "layers.1"}
    assert job["warnings"][0]["code"] == "not_carried" and "layers.4.weight" in job["warnings"][0]["detail"]


def test_everything_that_is_wrong_is_told_at_once_with_its_place(user: User, parent: str) -> None:
    def refused(body: dict[str, Any]) -> dict[str, tuple[str, str | None]]:
        found = problems(user.http.post(f"/v1/jobs/{parent}/fork", json=body))
        return {pointer: (problem["code"], problem.get("suggestion")) for pointer, problem in found.items()}

    assert refused({"more_epoch": 1, "state": "kept", "changes": {"optimiser": {"lr": 1}, "data": {"target": "lable"}}}) == {
        "/more_epoch": ("unknown_field", "more_epochs"), "/state": ("invalid_value", "keep"), "/more_epochs": ("nothing_left", None),
        "/changes/optimiser/lr": ("unknown_field", "learning_rate"), "/changes/data/target": ("unknown_column", "label")}
    assert refused({"more_epochs": 1, "changes": {"optimiser": "descent"}}) == {"/changes/optimiser": ("not_carried", '"state": "reset"')}
    units = {"model": {"layers": [{**LAYERS[0], "units": 17}, *LAYERS[1:]]}}
    assert refused({"more_epochs": 1, "changes": units}) == {"/changes/model": ("not_carried", '"state": "reset"')}
    assert refused({}) == {"/more_epochs": ("nothing_left", None)}
    assert refused({"changes": {"epochs": 1}}) == {"/changes/epochs": ("nothing_left", None)}
    assert refused({"more_epochs": 0}) == {"/more_epochs": ("invalid_value", None)}
    assert refused({"more_epochs": 1, "changes": {"epochs": 9}})["/more_epochs"][0] == "one_form"
    assert refused({"more_epochs": 1, "changes": {"initial": {"job": parent}}})["/changes/initial"][0] == "invalid_value"
    assert refused({"more_epochs": 1, "changes": {"data": {"dataset": "ds_none"}}})["/changes/data/dataset"][0] == "unknown_dataset"
    assert refused({"checkpoint": "worst"})["/checkpoint"][0] == "invalid_value"
    missing = user.http.post(f"/v1/jobs/{parent}/fork", json={"checkpoint": 99, "more_epochs": 1})
    assert missing.status_code == 409 and missing.json()["code"] == "no_checkpoint"
    assert user.http.post("/v1/jobs/job_none/fork", json={}).status_code == 404


def test_a_killed_fork_has_the_same_bits_too(user: User, parent: str) -> None:
    whole, told = user.train({**SPEC, "epochs": 40})
    job_id = user.post(f"/v1/jobs/{parent}/fork", {"more_epochs": 38})["id"]
    killed: list[int] = []

    def kill(event: dict[str, Any]) -> bool:
        if not killed and event["type"] in ("job.started", "epoch") and (worker := user.get(f"/v1/jobs/{job_id}").get("worker")):
            killed.append(worker["pid"])
            os.kill(worker["pid"], signal.SIGKILL)
        return False

    events = user.watch(job_id, kill)
    assert killed and [event["train_loss"] for event in epochs(events)] == [event["train_loss"] for event in epochs(told)[2:]]
    assert sha(user, job_id) == sha(user, whole)


def test_of_the_best_epoch_the_whole_state_is_there_only_if_it_was_kept(user: User) -> None:
    worse = {"kind": "adjust", "at": {"epoch": 3}, "set": {"learning_rate": 9.0}}
    spec = {**SPEC, "epochs": 4, "optimiser": {"kind": "adam", "learning_rate": 0.01}}
    lost, _ = user.train({**spec, "callbacks": [worse]})
    assert user.get(f"/v1/jobs/{lost}")["best"]["epoch"] == 2
    refused = problems(user.http.post(f"/v1/jobs/{lost}/fork", json={"checkpoint": "best", "more_epochs": 1}))["/checkpoint"]
    assert refused["suggestion"] == '"state": "reset"' and "epochs 4" in refused["detail"]
    kept, _ = user.train({**spec, "callbacks": [worse, {"kind": "checkpoint"}]})
    job, _ = forked(user, kept, {"checkpoint": "best", "more_epochs": 1, "changes": {"callbacks": None}})
    assert (job["epoch"], job["epochs"]) == (2, 3) and "Trained 1 epoch in" in user.get(f"/v1/jobs/{job['id']}")["message"]


def test_the_same_key_forks_once(user: User, parent: str) -> None:
    first, again = (user.http.post(f"/v1/jobs/{parent}/fork", json={"more_epochs": 1}, headers={"idempotency-key": "fork"}) for _ in range(2))
    assert first.json()["id"] == again.json()["id"] and again.headers["idempotency-replayed"] == "true"


def test_a_running_job_is_forked_and_one_that_has_not_begun_is_not(service: Server, user: User) -> None:
    first = user.submit({**SPEC, "epochs": 100_000, "callbacks": [{"kind": "checkpoint", "every_epochs": 1}], "priority": 5})
    for event in user.stream(first):
        if event["type"] == "checkpoint":
            break
    bodies = [{"more_epochs": 1, "changes": {"priority": 9, "callbacks": None}}] * 5
    ids = [user.post(f"/v1/jobs/{first}/fork", body)["id"] for body in bodies]
    late = user.submit({**SPEC, "priority": -50, "metadata": {"late": "yes"}})
    refused = user.http.post(f"/v1/jobs/{late}/fork", json={"more_epochs": 1})
    if user.get(f"/v1/jobs/{late}")["status"] == "queued":
        assert refused.status_code == 409 and refused.json()["code"] == "no_checkpoint"
    user.http.post(f"/v1/jobs/{first}/cancel").raise_for_status()
    for job_id in ids:
        assert user.watch(job_id)[-1]["type"] == "job.succeeded"
    assert not list((service.home / "trash").glob("*.held"))
