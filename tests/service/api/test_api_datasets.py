"""Datasets over HTTP: every form of upload, previews, the bytes back, limits."""

from __future__ import annotations

import gzip
import io
from typing import Any

import httpx
import numpy as np
import pytest
from running import FIRST, JOB, Running, pointers, problem, run_job

CSV = "age,sex,alive\n22, male,0\n38, female,1\n?, female,1\n"


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def post(http: httpx.Client, body: bytes | str, media_type: str, query: str = "") -> dict[str, Any]:
    answer = http.post(f"/v1/datasets{query}", content=body, headers={"content-type": media_type})
    assert answer.status_code == 201, answer.text
    assert answer.headers["location"] == f"/v1/datasets/{answer.json()['id']}"
    return answer.json()


def test_a_csv_file_becomes_a_dataset(http: httpx.Client) -> None:
    found = post(http, CSV, "text/csv", "?name=people")
    assert found["object"] == "dataset" and found["name"] == "people" and found["format"] == "csv" and found["rows"] == 3
    age, sex, alive = found["columns"]
    assert age["kind"] == "number" and age["missing"] == 1 and age["max"] == 38.0
    assert sex["kind"] == "category" and sex["classes"] == ["female", "male"] and alive["kind"] == "number"
    assert http.get(f"/v1/datasets/{found['id']}").json() == found
    assert http.get("/v1/datasets?limit=1").json()["data"][0]["id"] == found["id"]


def test_rows_are_shown_and_bytes_come_back(http: httpx.Client) -> None:
    dataset = post(http, CSV, "text/csv")
    path = f"/v1/datasets/{dataset['id']}"
    page = http.get(f"{path}/rows?offset=1&limit=1").json()
    assert page["data"] == [{"age": 38, "sex": "female", "alive": 1}] and page["has_more"] and page["rows"] == 3
    assert http.get(f"{path}/rows?offset=2").json()["data"][0]["age"] is None
    assert http.get(f"{path}/rows?offset=9").json()["data"] == []
    content = http.get(f"{path}/content")
    assert content.text == CSV and content.headers["content-type"].startswith("text/csv")
    for part, text in (("bytes=2-4", CSV[2:5]), ("bytes=-3", CSV[-3:]), (f"bytes=4-{10**9}", CSV[4:])):
        piece = http.get(f"{path}/content", headers={"range": part, "if-range": content.headers["etag"]})
        assert piece.status_code == 206 and piece.text == text and piece.headers["content-range"].endswith(f"/{len(CSV)}")
    for no_part in ("bytes=4-2", "lines=1-2", "bytes=a-b", "é", "bytes=0-1,3-4"):
        assert http.get(f"{path}/content", headers={b"range": no_part.encode()}).text == CSV
    assert http.get(f"{path}/content", headers={"range": "bytes=0-1", "if-range": '"other"'}).text == CSV
    beyond = problem(http.get(f"{path}/content", headers={"range": f"bytes={len(CSV)}-"}), 416, "range_not_satisfiable")
    assert f"{len(CSV):,} bytes" in beyond["detail"]
    problem(http.get(f"{path}/rows?limit=0"), 422, "invalid_request")


def test_query_parameters_say_how_to_read(http: httpx.Client) -> None:
    found = post(http, "1;2\n3;4\n", "text/csv", "?header=false&delimiter=semicolon&types=c1:category&retain_seconds=60")
    assert [(column["name"], column["kind"]) for column in found["columns"]] == [("c0", "number"), ("c1", "category")]
    for query in ("?header=maybe", "?retain_seconds=-1", "?seperator=x", "?types=c9:number", "?delimiter=xx", "?format=xls"):
        answer = http.post(f"/v1/datasets{query}", content=b"a,b\n1,2\n", headers={"content-type": "text/csv"})
        assert answer.status_code == 422, (query, answer.text)


@pytest.mark.parametrize(("body", "media_type", "form"), [
    ("one\ntwo\n", "text/plain", "text"), ('{"a": 1}\n{"a": 2}\n', "application/x-ndjson", "ndjson"),
    (npy(np.eye(3)), "application/x-npy", "npy"), (gzip.compress(CSV.encode()), "text/csv", "csv"),
    (npy(np.eye(2)), "application/octet-stream", "npy"),
], ids=["text", "ndjson", "npy", "gzip", "unsaid"])
def test_other_files_are_read_too(http: httpx.Client, body: bytes | str, media_type: str, form: str) -> None:
    assert post(http, body, media_type)["format"] == form


def test_a_form_with_a_file_or_with_arrays(http: httpx.Client) -> None:
    one = http.post("/v1/datasets?name=titled", files={"file": ("people.csv", CSV.encode(), "text/csv")})
    assert one.status_code == 201 and one.json()["format"] == "csv" and one.json()["name"] == "titled"
    two = http.post("/v1/datasets", files={"x": ("x.npy", npy(np.zeros((4, 2), np.float32))), "y": ("y.npy", npy(np.arange(4)))})
    assert two.status_code == 201, two.text
    assert [(column["name"], column["shape"]) for column in two.json()["columns"]] == [("x", [2]), ("y", [])]
    problem(http.post("/v1/datasets", data={"name": "x"}, files={"file": ("a.csv", CSV.encode())}), 422, "not_a_file")
    problem(http.post("/v1/datasets", content=b"rubbish", headers={"content-type": "multipart/form-data; boundary=x"}), 400, "invalid_request")
    problem(http.post("/v1/datasets", content=b"rubbish", headers={"content-type": "multipart/form-data"}), 400, "invalid_request")


def test_json_columns_and_rows(http: httpx.Client) -> None:
    columns = http.post("/v1/datasets", json={"name": "grid", "columns": {"x": [[1, 2], [3, 4]], "y": [0, 1]}}).json()
    assert columns["name"] == "grid" and columns["columns"][0]["shape"] == [2]
    rows = http.post("/v1/datasets", json={"rows": [{"a": 1, "b": "u"}, {"a": None, "b": "v"}]}).json()
    assert [column["kind"] for column in rows["columns"]] == ["number", "category"]
    body = problem(http.post("/v1/datasets", json={"columns": {"x": [[1, 2], [3]]}}), 422, "ragged")
    assert "/columns/x/1" in pointers(body)
    assert pointers(problem(http.post("/v1/datasets", json={"colums": {}}), 422, "invalid_request")) == {"/colums": "unknown_field"}
    problem(http.post("/v1/datasets", json={"rows": [], "columns": {}}), 422, "invalid_request")
    problem(http.post("/v1/datasets", content=b"{", headers={"content-type": "application/json"}), 400, "malformed_json")


def test_what_is_no_data_is_refused(http: httpx.Client) -> None:
    for body, media_type, status in ((b"", "text/csv", 422), (b"\x80\x04pickle", "application/octet-stream", 415), (b"GIF89a", "image/gif", 415),
                                     (b"PAR1....", "application/vnd.apache.parquet", 422)):
        answer = http.post("/v1/datasets", content=body, headers={"content-type": media_type})
        problem(answer, status, answer.json()["code"])


def test_an_upload_beyond_the_limit_is_413_and_leaves_nothing(limited: Running) -> None:
    http = limited.http
    problem(http.post("/v1/datasets", content=b"a\n" + b"1\n" * 2000, headers={"content-type": "text/csv"}), 413, "too_large")
    stream = (b"1\n" * 100 for _ in range(20))
    problem(http.post("/v1/datasets", content=stream, headers={"content-type": "text/csv"}), 413, "too_large")
    bomb = gzip.compress(b"1\n" * 100_000)
    problem(http.post("/v1/datasets", content=bomb, headers={"content-type": "text/csv"}), 413, "too_large")
    assert http.get("/v1/datasets").json()["data"] == []
    assert list((limited.home / "datasets").iterdir()) == []


def test_the_same_upload_with_the_same_key_is_one_dataset(http: httpx.Client) -> None:
    headers = {"content-type": "text/csv", "idempotency-key": "upload"}
    first, second = (http.post("/v1/datasets?name=twice", content=CSV, headers=headers) for _ in range(2))
    assert first.content == second.content and second.headers["idempotency-replayed"] == "true"
    problem(http.post("/v1/datasets?name=twice", content=CSV + "1,male,0\n", headers=headers), 422, "idempotency_mismatch")


def test_a_dataset_in_use_stays_and_an_unused_one_goes(server: Running, http: httpx.Client) -> None:
    dataset = http.post("/v1/datasets", json=JOB["data"]["dataset"]).json()["id"]
    job_id = http.post("/v1/jobs", json={**FIRST, "data": {**JOB["data"], "dataset": dataset}}).json()["id"]
    refused = http.delete(f"/v1/datasets/{dataset}")
    problem(refused, 409, "in_use")
    assert refused.headers["x-should-retry"] == "false"
    run_job(server, job_id)
    assert http.delete(f"/v1/datasets/{dataset}").status_code == 204
    problem(http.delete(f"/v1/datasets/{dataset}"), 404, "not_found")
    again = http.post("/v1/jobs", json={**JOB, "data": {**JOB["data"], "dataset": dataset}})
    assert pointers(problem(again, 422, "invalid_spec")) == {"/data/dataset": "unknown_dataset"}


def test_samples_are_in_the_catalogue_and_can_be_looked_at(http: httpx.Client) -> None:
    found = http.get("/v1/catalogue/samples").json()["data"]
    assert found[0]["dataset"] == "sample:digits" and [column["name"] for column in found[0]["columns"]] == ["pixels", "label"]
    rows = http.get("/v1/datasets/sample:digits/rows?limit=2").json()["data"]
    assert len(rows) == 2 and len(rows[0]["pixels"]) == 64
