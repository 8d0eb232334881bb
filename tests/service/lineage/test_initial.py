"""Jobs that begin with the parameters of another one, or of a file."""

from __future__ import annotations

import json
import os
import signal
import struct
from typing import Any

import numpy as np
import pytest
from jobs import DATA, SMALL, problems
from safetensors.numpy import load, save

from tests.serving import Server
from tests.user import User

LAYERS = [{"kind": "dense", "units": 8, "activation": "relu"}, {"kind": "batch_norm"}, {"kind": "dense", "units": 10}]
SOURCE: dict[str, Any] = {**SMALL, "model": {"kind": "chain", "layers": LAYERS}}
HEAD = {"kind": "chain", "layers": [*LAYERS[:2], {"kind": "dense", "units": 12, "activation": "relu"}, {"kind": "dense", "units": 10}]}
FROZEN = {"model": HEAD, "trainable": ["layers.2", "layers.3"]}         # what is taken over stays as it was


@pytest.fixture(scope="module")
def source(user: User) -> str:
    return user.train(SOURCE)[0]


def arrays(user: User, job_id: str, which: str = "last") -> dict[str, np.ndarray]:
    return load(user.http.get(f"/v1/jobs/{job_id}/model", params={"checkpoint": which}).content)


def test_parameters_of_another_job_are_taken_over_and_outlive_it(service: Server, user: User) -> None:
    source = user.train(SOURCE)[0]
    before = arrays(user, source, "best")
    blocker = user.submit({**SMALL, "epochs": 100_000, "priority": 50})
    second = user.submit({**SMALL, "epochs": 100_000, "priority": 50})
    initial = {"job": source, "paths": ["layers.0.*", "layers.1.weight"]}
    job_id = user.submit({**SOURCE, **FROZEN, "initial": initial})
    user.http.delete(f"/v1/jobs/{source}").raise_for_status()
    assert (service.home / "jobs" / job_id / "initial.safetensors").exists() and not (service.home / "jobs" / source).exists()
    for job in (blocker, second):
        user.http.post(f"/v1/jobs/{job}/cancel").raise_for_status()
    assert user.watch(job_id)[-1]["type"] == "job.succeeded"
    after = arrays(user, job_id)
    assert all(after[path].tobytes() == before[path].tobytes() for path in ("layers.0.weight", "layers.0.bias"))
    user.http.delete(f"/v1/jobs/{job_id}").raise_for_status()
    assert not (service.home / "jobs" / job_id).exists()


def test_a_killed_job_begins_again_with_the_same_bits(user: User, source: str) -> None:
    spec = {**SOURCE, "initial": {"job": source}, "epochs": 60}
    whole, _ = user.train(spec)
    job_id = user.submit(spec)
    killed: list[int] = []

    def kill(event: dict[str, Any]) -> bool:
        if event["type"] == "job.started" and not killed and (worker := user.get(f"/v1/jobs/{job_id}").get("worker")):
            killed.append(worker["pid"])
            os.kill(worker["pid"], signal.SIGKILL)
        return False

    assert user.watch(job_id, kill)[-1]["type"] == "job.succeeded" and killed
    assert user.get(f"/v1/jobs/{job_id}/checkpoints")["data"][0]["sha256"] == user.get(f"/v1/jobs/{whole}/checkpoints")["data"][0]["sha256"]


def test_what_does_not_fit_is_told_with_shapes_and_names(user: User, source: str) -> None:
    def refused(initial: Any, **more: Any) -> dict[str, dict[str, Any]]:
        return problems(user.http.post("/v1/jobs?validate_only=true", json={**SOURCE, **more, "initial": initial}))

    wider = {"kind": "chain", "layers": [LAYERS[0], LAYERS[1], {"kind": "dense", "units": "target", "name": "head"}]}
    assert refused({"job": source}, model=wider)["/initial"]["suggestion"] == "layers.2.bias"
    detail = refused({"job": source}, model=HEAD)["/initial"]["detail"]
    assert "layers.3" in detail or "[8, 12]" in detail
    wrong = refused({"job": source, "paths": ["layers.0.*", "layer.2.*", "layers.2.wieght"]})
    assert wrong["/initial/paths/1"]["suggestion"] == "layers.2.*" and wrong["/initial/paths/2"]["suggestion"] == "layers.2.weight"
    assert refused({"job": source[:-1] + "_"})["/initial/job"]["suggestion"] == source
    found = refused({"job": source, "checkpoint": 44, "path": ["a"]}, optimiser={"kind": "adam", "lr": 1})
    assert found.keys() >= {"/initial/path", "/optimiser/lr"}
    assert refused({"job": source, "checkpoint": 44})["/initial/checkpoint"]["code"] == "no_checkpoint"
    assert "/initial" in refused({"job": source, "dataset": "ds_1"}) and "/initial" in refused({})
    assert refused({"dataset": "ds_none"})["/initial/dataset"]["code"] == "unknown_dataset"
    found = user.http.post("/v1/jobs?validate_only=true", json={**SOURCE, "initial": {"job": source}, "monitor": "valid_los"})
    assert list(problems(found)) == ["/monitor"]


def upload(user: User, data: bytes, **query: str) -> dict[str, Any]:
    answer = user.http.post("/v1/datasets", content=data, params=query, headers={"content-type": "application/x-safetensors"})
    assert answer.status_code == 201, answer.text
    return answer.json()


def test_a_file_of_parameters_is_a_start_too(service: Server, user: User, source: str) -> None:
    model = user.http.get(f"/v1/jobs/{source}/model").content
    dataset = upload(user, model, name="mine")
    assert (dataset["format"], dataset["rows"], dataset["bytes"]) == ("safetensors", 0, len(model))
    assert {"name": "layers.0.weight", "kind": "tensor", "dtype": "float32", "shape": [64, 8], "missing": 0} in dataset["columns"]
    assert user.http.get(f"/v1/datasets/{dataset['id']}/content").content == model
    assert user.http.get(f"/v1/datasets/{dataset['id']}/rows").json()["code"] == "wrong_format"
    assert "initial" in user.refused({**SMALL, "data": {**DATA, "dataset": dataset["id"]}})[0]["detail"]
    file, _ = user.train({**SOURCE, "initial": {"dataset": dataset["id"]}})
    job, _ = user.train({**SOURCE, "initial": {"job": source, "checkpoint": "last"}})
    assert arrays(user, file)["layers.0.weight"].tobytes() == arrays(user, job)["layers.0.weight"].tobytes()
    user.http.delete(f"/v1/datasets/{dataset['id']}").raise_for_status()

    mine = upload(user, save({"layers.0.weight": np.ones((64, 8), np.float16), "layers.2.weight": np.ones((10, 8), np.float32),
                              "layers.1.weight": np.ones(8, np.int64), "layers.0.bias": np.zeros(8, np.float64)}))
    whole = user.refused({**SOURCE, "initial": {"dataset": mine["id"], "paths": ["layers.1.weight"]}})
    assert [(found["pointer"], found["code"]) for found in whole] == [("/initial", "dtype_mismatch")]
    turned = user.refused({**SOURCE, "initial": {"dataset": mine["id"], "paths": ["layers.2.weight"]}})[0]
    assert turned["code"] == "shape_mismatch" and "[in, out]" in turned["detail"] and "[8, 10]" in turned["detail"] and "[10, 8]" in turned["detail"]
    job_id, _ = user.train({**SOURCE, "initial": {"dataset": mine["id"], "paths": ["layers.0"]}, "trainable": ["layers.2.*"]})
    assert np.all(arrays(user, job_id)["layers.0.weight"] == 1)


def header(value: Any, data: bytes = b"", size: int | None = None) -> bytes:
    text = json.dumps(value).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + data


ONE = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize("lie", [
    header({"a": {**ONE, "shape": [2**40, 2**40]}}, b"1234"), header({"a": ONE, "b": ONE}, b"1234"), header({"a": ONE}, b"12341234"),
    header({"a": {**ONE, "data_offsets": [4, 8]}}, b"12341234"), header({"a": ONE}, b"1234", 2**63), header({"a": ONE}, b"1234", 2**20),
    header({"a": {**ONE, "shape": [-1]}}, b"1234"), header({}), header({"a\n": ONE}, b"1234"), header({"a": ONE}, b"12"), b"\x80\x04\x95", b"{}",
    header({f"{n:07d}" * 20: ONE for n in range(8000)}, b"1234"),
], ids=range(13))
def test_a_file_that_lies_is_refused(user: User, lie: bytes) -> None:
    answer = user.http.post("/v1/datasets", content=lie, headers={"content-type": "application/x-safetensors"})
    assert answer.status_code in (413, 415, 422) and answer.headers["content-type"] == "application/problem+json", answer.text
