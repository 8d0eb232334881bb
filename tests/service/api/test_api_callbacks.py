"""Callbacks over HTTP: a job that changes as it goes on, and specs whose callbacks cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
from running import SAMPLE_JOB, pointers, problem

from tests.homes import fresh
from tests.serving import serving
from tests.user import User, epochs

CALLBACKS: list[dict[str, Any]] = [
    {"kind": "adjust", "at": {"step": 30}, "set": {"learning_rate": 0.005}},
    {"kind": "freeze", "paths": ["layers.0"], "at": {"epoch": 3}},
    {"kind": "thaw", "paths": ["layers.0"], "at": {"epoch": 4}},
    {"kind": "replace", "paths": ["layers.1.bias"], "init": "zeros", "at": {"epoch": 4}},
    {"kind": "reduce_on_plateau", "monitor": "accuracy", "factor": 0.9, "patience": 1, "min_delta": 1.0, "cooldown": 500},
    {"kind": "on_nonfinite", "action": "rollback"},
    {"kind": "checkpoint", "keep_last": 4},
    {"kind": "stop_when", "metric": "train_accuracy", "above": 0.97},
    {"kind": "time_limit", "seconds": 3000.0},
]
JOB: dict[str, Any] = {
    **SAMPLE_JOB, "data": {"dataset": "sample:digits", "target": "label", "batch_size": 64, "validation": {"fraction": 0.2}}, "epochs": 500,
    "model": {"kind": "chain", "layers": [{"kind": "dense", "units": 16, "activation": "relu"}, {"kind": "dense", "units": 10}]}}


def test_a_job_changes_as_its_callbacks_say_and_ends_at_an_accuracy(tmp_path: Path) -> None:
    with serving(fresh(tmp_path / "home"), workers=1) as server:
        user = User(server.url)
        job_id, events = user.train({**JOB, "callbacks": CALLBACKS})
        told = [(event["data"]["by"], event["data"]["epoch"], event["data"]["step"]) for event in events if event["type"] == "adjusted"]
        assert told == [("adjust", 2, 30), ("reduce_on_plateau", 2, 46), ("freeze", 3, 46), ("thaw", 4, 69), ("replace", 4, 69)]
        changes = next(event["data"]["changes"] for event in events if event["type"] == "adjusted")
        assert changes == {"learning_rate": {"from": 0.01, "to": 0.005}}
        done = epochs(events)
        assert [round(epoch["learning_rate"], 6) for epoch in done[:3]] == [0.01, 0.005, 0.0045]
        assert done[-1]["train_accuracy"] > 0.97 >= done[-2]["train_accuracy"]
        assert user.get(f"/v1/jobs/{job_id}")["status_reason"] == "stop_when"
        kept = [row["epoch"] for row in user.get(f"/v1/jobs/{job_id}/checkpoints")["data"]]
        assert set(kept) >= {len(done) - k for k in range(4)} and len(kept) <= 6


def test_callbacks_that_cannot_be_are_refused_with_their_place(http: httpx.Client) -> None:
    wrong = [
        {"kind": "adjust", "at": {"epoch": 2}, "set": {"learning_rte": 0.1}}, {"kind": "reduce_on_plateau", "monitor": "val_loss"},
        {"kind": "freeze", "paths": ["layers.7"], "at": {"epoch": 2}}, {"kind": "stop_when", "metric": "acuracy", "above": 0.9}]
    body = problem(http.post("/v1/jobs", json={**JOB, "callbacks": wrong}), 422, "invalid_spec")
    assert pointers(body) == {"/callbacks/0/set/learning_rte": "unknown_field", "/callbacks/1/monitor": "unknown_metric",
                              "/callbacks/2/paths/0": "unknown_path", "/callbacks/3/metric": "unknown_metric"}
    assert [found.get("suggestion") for found in sorted(body["errors"], key=lambda found: found["pointer"])] == [
        "learning_rate", "valid_loss", "layers.1.bias", "accuracy"]
    kinds = {entry["kind"] for entry in http.get("/v1/catalogue/callbacks").json()["data"]}
    assert {"reduce_on_plateau", "adjust", "freeze", "thaw", "replace", "skip_when", "step_limit", "early_stopping", "webhook"} <= kinds
