"""Trained models asked and taken away, by a real service: predictions as JSON and CSV, KServe V2, ONNX, files in parts; a predictor that dies."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import os
import signal
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import onnxruntime
import pytest

from service.client import Client, Refused
from tests.bench.service import processes
from tests.homes import fresh
from tests.serving import Server, command, serving

CLASSES = ("=yes", "no", "-1x")
TABLE = "sex,age,fare,class\n" + "".join(f"{'fe' * (k % 3 == 0)}male,{20 + k % 40},{k % 7 * 1.5},{CLASSES[k % 3]}\n" for k in range(60))
ROWS = [{"sex": "female", "age": 30, "fare": 2.5}, {"sex": "male", "age": None, "fare": 8}]


@dataclass
class Service:
    server: Server
    http: httpx.Client
    table: str      # job on a table of categories and numbers, of classes with dangerous names
    arrays: str     # job on arrays, of numbers

    def predictor(self) -> int:
        return next(pid for pid, name in processes(self.server.process.pid).items() if name == "predictor")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 3)).round(3)
    limits = {"max_predict_rows": 3000, "max_predict_numbers": 10_000}
    with serving(fresh(tmp_path_factory.mktemp("answers") / "home"), **limits) as server, Client(server.url) as client:
        common: dict[str, Any] = {"optimiser": "adam", "epochs": 2}
        dataset = client.connection.http.post("/v1/datasets?name=t", content=TABLE, headers={"content-type": "text/csv"}).json()["id"]
        table = client.submit({**common, "model": {"kind": "chain", "layers": [{"kind": "dense", "units": 8, "activation": "gelu"}, {
            "kind": "dense", "units": 3}]}, "loss": "logit_cross_entropy", "data": {"dataset": dataset, "target": "class"}})
        arrays = client.submit({**common, "model": {"kind": "dense", "units": 2}, "loss": "mse", "data": {
            "dataset": {"columns": {"x": x.tolist(), "y": np.stack([x[:, 0], x[:, 1]], 1).tolist()}}, "target": "y"}})
        for job in (table, arrays):
            assert client.wait(job.id).succeeded
        yield Service(server, httpx.Client(base_url=server.url, timeout=60, trust_env=False), table.id, arrays.id)


def ok(answer: httpx.Response) -> Any:
    assert answer.status_code == 200, answer.text
    return answer.json()


# ---------------------------------------------------------------- predictions

def test_rows_come_back_as_csv_whose_texts_are_no_formulas(service: Service) -> None:
    path = f"/v1/jobs/{service.table}/predict"
    found = ok(service.http.post(path, json={"rows": ROWS}))
    answer = service.http.post(path, json={"rows": ROWS}, headers={"accept": "text/csv"})
    assert answer.headers["content-type"].startswith("text/csv")
    header, *lines = csv.reader(io.StringIO(answer.text))
    assert header == ["class", *(f"probability_{name}" for name in found["class_names"])]
    guarded = {"=yes": "'=yes", "no": "no", "-1x": "'-1x"}
    assert [line[0] for line in lines] == [guarded[name] for name in found["classes"]]
    np.testing.assert_allclose([list(map(float, line[1:])) for line in lines], found["probabilities"])
    by_csv = service.http.post(path + "?format=csv", content="sex,age,fare\nfemale,30,2.5\nmale,,8\n", headers={"content-type": "text/csv"})
    assert by_csv.text == answer.text


def test_numbers_with_a_decimal_comma_are_read_as_in_an_upload(service: Service) -> None:
    path, headers = f"/v1/jobs/{service.table}/predict", {"content-type": "text/csv"}
    found = ok(service.http.post(path, content="sex;age;fare\nfemale;30;2,5\nmale;;1.008,25\n", headers=headers))
    assert found["outputs"] == ok(service.http.post(path, content="sex,age,fare\nfemale,30,2.5\nmale,,1008.25\n", headers=headers))["outputs"]


def test_a_quoted_cell_of_csv_may_have_lines(service: Service) -> None:
    body = 'sex,age,fare\n"fe\nmale",30,2.5\n'
    found = ok(service.http.post(f"/v1/jobs/{service.table}/predict", content=body, headers={"content-type": "text/csv"}))
    assert len(found["classes"]) == 1 and found["warnings"][0]["code"] == "unseen_category"


def test_a_data_set_streams_as_csv_and_has_an_end_as_json(service: Service) -> None:
    path = f"/v1/jobs/{service.arrays}/predict"
    some, many = (service.http.post("/v1/datasets", json={"name": "d", "columns": {"x": np.arange(3.0 * rows).reshape(-1, 3).tolist()}}).json()["id"]
                  for rows in (4000, 6000))
    answer = service.http.post(path, json={"dataset": some}, headers={"accept": "text/csv"})
    assert answer.headers["transfer-encoding"] == "chunked" and len(answer.text.splitlines()) == 4001
    refused = service.http.post(path, json={"dataset": many})
    assert refused.status_code == 413 and "12,000 numbers" in refused.json()["detail"] and "text/csv" in refused.json()["detail"]
    assert len(service.http.post(path, json={"dataset": many}, headers={"accept": "text/csv"}).text.splitlines()) == 6001
    rows = ok(service.http.post(path, json={"dataset": some}))["outputs"]
    np.testing.assert_allclose(np.loadtxt(io.StringIO(answer.text), delimiter=",", skiprows=1), rows, rtol=1e-6)
    for inputs in ([[0, 0, 0]] * 3001, [[[0, 0, 0]] * 3001], {"x": [[0, 0, 0]] * 3001}):
        assert service.http.post(path, json={"inputs": inputs}).status_code == 413
    assert len(ok(service.http.post(path, json={"inputs": [[[0, 0, 0]] * 3000]}))["outputs"]) == 3000


def test_who_leaves_a_stream_gives_its_place_back(service: Service) -> None:
    path = f"/v1/jobs/{service.arrays}/predict?format=csv"
    data = service.http.post("/v1/datasets", json={"name": "d", "columns": {"x": np.zeros((40_000, 3)).tolist()}}).json()["id"]
    for _ in range(20):
        with service.http.stream("POST", path, json={"dataset": data}) as answer:
            assert answer.status_code == 200 and next(answer.iter_bytes())
    assert len(service.http.post(path, json={"dataset": data}).text.splitlines()) == 40_001


@pytest.mark.parametrize("body, status, code", [
    (b"{", 400, "malformed_json"), (b'{"rows": 5}', 422, "invalid_request"), (b'{"rows": [], "inputs": []}', 422, "invalid_request"),
    (b'{"row": []}', 422, "invalid_request"), (b'{"rows": [{"x": NaN}]}', 422, "invalid_request"),
    (b'{"dataset": "ds_none"}', 422, "invalid_request"),
    (b'{"rows": []}', 422, "invalid_request")])
def test_wrong_bodies_are_refused_in_the_one_shape(service: Service, body: bytes, status: int, code: str) -> None:
    answer = service.http.post(f"/v1/jobs/{service.arrays}/predict", content=body, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert answer.headers["content-type"] == "application/problem+json"


def test_small_predictions_go_on_beside_large_ones(service: Service) -> None:
    path, small = f"/v1/jobs/{service.arrays}/predict", {"inputs": [[0.5, 0.5, 0.5]]}
    large = json.dumps({"rows": [{"x": [1.0, 2.0, 3.0]}] * 3000}).encode()
    expected, busy, over = ok(service.http.post(path, json=small)), [], threading.Event()

    def ask() -> None:
        while not over.is_set():
            busy.append(httpx.post(service.server.url + path, content=large, headers={"content-type": "application/json"}, timeout=60).status_code)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    answers = [service.http.post(path, json=small) for _ in range(30)]
    over.set()
    for thread in threads:
        thread.join()
    assert [ok(answer)["outputs"] for answer in answers] == [expected["outputs"]] * 30 and set(busy) == {200}


def test_a_predictor_that_is_killed_costs_no_answer(service: Service) -> None:
    path, small = f"/v1/jobs/{service.arrays}/predict", {"inputs": [[0.5, 0.5, 0.5]]}
    expected, found = ok(service.http.post(path, json=small))["outputs"], []

    def ask() -> None:
        with httpx.Client(base_url=service.server.url, timeout=60, trust_env=False) as http:
            for _ in range(40):
                found.append(http.post(path, json=small))
                time.sleep(0.01)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.2)
    os.kill(service.predictor(), signal.SIGKILL)
    for thread in threads:
        thread.join()
    assert {answer.status_code for answer in found} <= {200, 503} and found[-1].status_code == 200
    assert all(answer.json()["outputs"] == expected for answer in found if answer.status_code == 200)
    assert sum(answer.status_code == 200 for answer in found) >= 156


# ---------------------------------------------------------------- files

def test_a_model_of_a_table_runs_in_onnxruntime(service: Service, tmp_path: Path) -> None:
    with Client(service.server.url) as client:
        path = client.download(service.table, tmp_path, format="onnx")
    data = path.read_bytes()
    made = onnx.load_from_string(data)
    onnx.checker.check_model(made, full_check=True)
    told = {item.key: json.loads(item.value) for item in made.metadata_props}
    assert told["class_names"] == ["-1x", "=yes", "no"] and told["trainyard"]["spec"]["loss"]["kind"] == "logit_cross_entropy"
    assert told["inputs"]["x"][-2:] == ["age", "fare"] or "sex=female" in told["inputs"]["x"]
    columns = {column["name"]: column for column in told["trainyard"]["fitted"]["inputs"][0]["columns"]}
    x = np.zeros((1, len(told["inputs"]["x"])), np.float32)
    for name, value in (("age", 30.0), ("fare", 2.5)):
        x[0, told["inputs"]["x"].index(name)] = (value - columns[name]["shift"]) * columns[name]["scale"]
    x[0, told["inputs"]["x"].index("sex=female")] = 1
    session = onnxruntime.InferenceSession(data)
    outputs, probabilities = session.run(["outputs", "probabilities"], {"x": x})
    found = ok(service.http.post(f"/v1/jobs/{service.table}/predict", json={"rows": ROWS[:1]}))
    np.testing.assert_allclose(probabilities, found["probabilities"], rtol=1e-5)
    np.testing.assert_allclose(outputs, found["outputs"], rtol=1e-5, atol=1e-6)
    assert session.run(None, {"x": np.repeat(x, 7, 0)})[0].shape == (7, 3)


@pytest.mark.parametrize("form", ["safetensors", "npz", "onnx"])
def test_a_file_has_a_digest_a_tag_and_parts(service: Service, form: str) -> None:
    path = f"/v1/jobs/{service.arrays}/model?format={form}"
    whole = service.http.get(path)
    assert whole.status_code == 200 and int(whole.headers["content-length"]) == len(whole.content)
    assert whole.headers["repr-digest"] == f"sha-256=:{base64.b64encode(hashlib.sha256(whole.content).digest()).decode()}:"
    assert service.http.get(path).content == whole.content
    tag = whole.headers["etag"]
    same = service.http.get(path, headers={"if-none-match": tag})
    assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", tag)
    for part, begin, end in (("bytes=0-9", 0, 10), ("bytes=100-", 100, None), ("bytes=-7", -7, None), ("bytes=5-999999999", 5, None)):
        piece = service.http.get(path, headers={"range": part, "if-range": tag})
        assert piece.status_code == 206 and piece.content == whole.content[begin:end]
        assert piece.headers["content-range"].endswith(f"/{len(whole.content)}")
    assert service.http.get(path, headers={"range": "bytes=0-9", "if-range": '"other"'}).content == whole.content
    beyond = service.http.get(path, headers={"range": f"bytes={len(whole.content)}-"})
    assert beyond.status_code == 416 and beyond.headers["content-range"] == f"bytes */{len(whole.content)}"
    assert service.http.get(path, headers={"range": f"bytes={'9' * 5000}-"}).content == whole.content


def test_the_forms_hold_the_same_arrays_and_say_so(service: Service, tmp_path: Path) -> None:
    with Client(service.server.url) as client, np.load(client.download(service.arrays, tmp_path, format="npz")) as found:
        facts = json.loads(found["trainyard"].tobytes())
        made = onnx.load(client.download(service.arrays, tmp_path, format="onnx"))
        arrays = {item.name: onnx.numpy_helper.to_array(item) for item in made.graph.initializer}
        assert np.array_equal(arrays["weight"], found["weight"]) and np.array_equal(arrays["bias"], found["bias"])
    told = {item.key: json.loads(item.value) for item in made.metadata_props}["trainyard"]
    assert told["sha256"] == facts["sha256"] and told["spec"] == facts["spec"] and told["fitted"] == facts["fitted"]


def test_the_command_line_saves_onnx_and_writes_csv(service: Service, tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("sex,age,fare\nfemale,30,2.5\n")
    saved = command("download", service.table, tmp_path, "--format", "onnx", "--url", service.server.url)
    assert saved.returncode == 0 and onnx.load(saved.stdout.strip()).graph.output[0].name == "outputs"
    written = command("predict", service.table, file, "--format", "csv", "--url", service.server.url)
    assert written.returncode == 0 and written.stdout.startswith("class,probability_") and len(written.stdout.splitlines()) == 2
    assert command("download", service.table, tmp_path, "--format", "onyx", "--url", service.server.url).returncode == 2


# ---------------------------------------------------------------- KServe V2

def test_kserve_says_what_it_is_and_what_models_take(service: Service) -> None:
    assert ok(service.http.get("/v2"))["extensions"] == ["binary_tensor_data"]
    assert ok(service.http.get("/v2/health/live")) == {"live": True} and ok(service.http.get("/v2/health/ready")) == {"ready": True}
    found = ok(service.http.get(f"/v2/models/{service.table}"))
    assert {tensor["name"]: (tensor["datatype"], tensor["shape"]) for tensor in found["inputs"]} == {
        "sex": ("BYTES", [-1]), "age": ("FP64", [-1]), "fare": ("FP64", [-1])}
    assert {tensor["name"]: (tensor["datatype"], tensor["shape"]) for tensor in found["outputs"]} == {
        "outputs": ("FP32", [-1, 3]), "probabilities": ("FP32", [-1, 3]), "classes": ("BYTES", [-1])}
    assert found["platform"] == "trainyard" and found["versions"] == ["2"]
    assert ok(service.http.get(f"/v2/models/{service.table}/ready"))["ready"] is True
    assert ok(service.http.get(f"/v2/models/{service.arrays}/versions/2"))["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 3]}]


@pytest.mark.parametrize("datatype", ["FP64", "FP32", "FP16", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"])
def test_kserve_takes_every_type_of_number_nested_or_flat(service: Service, datatype: str) -> None:
    expected = ok(service.http.post(f"/v1/jobs/{service.arrays}/predict", json={"inputs": [[1, 2, 3], [4, 5, 6]]}))["outputs"]
    for data in ([[1, 2, 3], [4, 5, 6]], [1, 2, 3, 4, 5, 6]):
        found = ok(service.http.post(f"/v2/models/{service.arrays}/infer", json={
            "id": "a7", "inputs": [{"name": "x", "shape": [2, 3], "datatype": datatype, "data": data}]}))
        assert (found["model_name"], found["model_version"], found["id"]) == (service.arrays, "2", "a7")
        assert [(tensor["name"], tensor["shape"], tensor["datatype"]) for tensor in found["outputs"]] == [("outputs", [2, 2], "FP32")]
        np.testing.assert_allclose(np.reshape(found["outputs"][0]["data"], (2, 2)), expected, rtol=1e-6)


def test_kserve_by_name_with_texts_and_chosen_outputs(service: Service) -> None:
    assert service.http.put("/v1/models/riders", json={"job": service.table}).status_code == 200
    inputs = [{"name": "sex", "shape": [2], "datatype": "BYTES", "data": ["female", "male"]},
              {"name": "age", "shape": [2, 1], "datatype": "FP32", "data": [[30], [41]]},
              {"name": "fare", "shape": [2], "datatype": "INT64", "data": [2, 8]}]
    found = ok(service.http.post("/v2/models/riders/infer", json={"inputs": inputs, "outputs": [{"name": "classes"}]}))
    rows = [{"sex": "female", "age": 30, "fare": 2}, {"sex": "male", "age": 41, "fare": 8}]
    assert found["outputs"] == [{"name": "classes", "datatype": "BYTES", "shape": [2], "data": ok(
        service.http.post("/v1/models/riders/predict", json={"rows": rows}))["classes"]}]


def test_kserve_by_binary_tensors_as_tritonclient_sends_them(service: Service) -> None:
    x = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
    head = json.dumps({"inputs": [{"name": "x", "shape": [2, 3], "datatype": "FP32", "parameters": {"binary_data_size": x.nbytes}}],
                       "outputs": [{"name": "outputs", "parameters": {"binary_data": True}}]}).encode()
    answer = service.http.post(f"/v2/models/{service.arrays}/infer", content=head + x.tobytes(), headers={
        "Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/octet-stream"
    size = int(answer.headers["inference-header-content-length"])
    told = json.loads(answer.content[:size])["outputs"][0]
    assert told["parameters"]["binary_data_size"] == len(answer.content) - size
    expected = ok(service.http.post(f"/v1/jobs/{service.arrays}/predict", json={"inputs": x.tolist()}))["outputs"]
    np.testing.assert_allclose(np.frombuffer(answer.content[size:], "<f4").reshape(told["shape"]), expected, rtol=1e-6)
    texts = b"".join(struct.pack("<I", len(text)) + text for text in (b"female", b"male"))
    head = json.dumps({"parameters": {"binary_data_output": True}, "inputs": [
        {"name": "sex", "shape": [2], "datatype": "BYTES", "parameters": {"binary_data_size": len(texts)}},
        *({"name": name, "shape": [2], "datatype": "FP64", "data": [1, 2]} for name in ("age", "fare"))]}).encode()
    answer = service.http.post(f"/v2/models/{service.table}/infer", content=head + texts, headers={"Inference-Header-Content-Length": str(len(head))})
    size = int(answer.headers["inference-header-content-length"])
    assert sum(tensor["parameters"]["binary_data_size"] for tensor in json.loads(answer.content[:size])["outputs"]) == len(answer.content) - size


@pytest.mark.parametrize("change, says", [
    ({"name": "y2"}, "no input 'y2'"), ({"shape": [2, 2]}, "4 numbers"), ({"datatype": "FP31"}, "no datatype 'FP31'"),
    ({"data": ["a"] * 6}, "numbers only"),
    ({"datatype": "INT8", "data": [300] * 6}, "fit"), ({"shape": "many"}, "shape"), ({"parameters": 5}, "object"),
    ({"parameters": {"binary_data_size": 24}}, "0 bytes left"), ({"colour": 1}, "no field"), ({"shape": [3, 2]}, "shape"),
    ({"datatype": {}}, "no datatype '{}'"), ({"shape": [0, 3], "data": []}, "none of them 0"), ({"shape": [1] * 40}, "1 to 32 lengths"),
    ({"data": 1}, "data is a list"), ({"datatype": "INT32", "data": [0.5] * 6}, "fit INT32")])
def test_kserve_refuses_with_one_sentence(service: Service, change: dict[str, Any], says: str) -> None:
    tensor = {"name": "x", "shape": [2, 3], "datatype": "FP32", "data": [1, 2, 3, 4, 5, 6], **change}
    if "binary_data_size" in str(change):
        tensor.pop("data")
    answer = service.http.post(f"/v2/models/{service.arrays}/infer", json={"inputs": [tensor]})
    assert answer.status_code == 422 and says in answer.json()["error"], answer.text


@pytest.mark.parametrize("change, says", [
    ({"id": {}}, "id is a text"), ({"outputs": 0}, "outputs is a list"), ({"parameters": {"binary_data_output": "no"}}, "true or false"),
    ({"outputs": [{"name": "outputs", "parameters": {"binary_data": 1}}]}, "true or false")])
def test_kserve_refuses_what_stands_beside_the_tensors(service: Service, change: dict[str, Any], says: str) -> None:
    tensor = {"name": "x", "shape": [1, 3], "datatype": "INT32", "data": [1.0, 2, 3]}
    path = f"/v2/models/{service.arrays}/infer"
    answer = service.http.post(path, json={"inputs": [tensor], **change})
    assert answer.status_code == 422 and says in answer.json()["error"], answer.text
    assert "id" not in ok(service.http.post(path, json={"inputs": [tensor], "id": None, "parameters": None, "outputs": None}))


@pytest.mark.parametrize("length", ["²", "-1", "0", "1e1", "999999999999"])
def test_kserve_refuses_a_length_of_json_that_is_none(service: Service, length: str) -> None:
    answer = service.http.post(f"/v2/models/{service.arrays}/infer", json={"inputs": []},
                               headers={b"inference-header-content-length": length.encode("latin-1")})
    assert answer.status_code == 400 and "the body has" in answer.json()["detail"], answer.text


def test_kserve_refuses_models_and_outputs_that_are_not_there(service: Service) -> None:
    for path, status in (("/v2/models/nobody", 404), ("/v2/models/job_00000000000000000000000000/ready", 404),
                         (f"/v2/models/{service.arrays}/versions/77", 409), (f"/v2/models/{service.arrays}/versions/x", 404)):
        answer = service.http.get(path)
        assert answer.status_code == status and isinstance(answer.json()["error"], str)
    answer = service.http.post(f"/v2/models/{service.arrays}/infer", json={"outputs": [{"name": "classes"}], "inputs": [
        {"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}]})
    assert answer.status_code == 422 and "no output 'classes'" in answer.json()["error"]
    with Client(service.server.url) as client, pytest.raises(Refused):
        client.download(service.arrays, format="onnx", checkpoint=99)
