"""Jobs over HTTP: created, checked, listed, read, cancelled, removed."""

from __future__ import annotations

import copy
import json
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from running import FIRST, JOB, SAMPLE_JOB, Running, pointers, problem, run_job


def test_a_job_with_inline_data_is_queued_by_one_post(http: httpx.Client) -> None:
    answer = http.post("/v1/jobs", json=JOB)
    assert answer.status_code == 202, answer.text
    job = answer.json()
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
    assert job["object"] == "job" and job["status"] == "queued" and job["status_reason"] == "waiting_for_worker" and not job["is_terminal"]
    assert job["epochs"] == 2 and job["epoch"] == 0 and job["queue_position"] >= 1 and job["attempts"] == []
    assert job["parameters"] == 2 * 4 + 4 + 4 * 3 + 3
    assert "finished_at" not in job and "error" not in job
    dataset = http.get(f"/v1/datasets/{job['spec']['data']['dataset']}").json()
    assert dataset["rows"] == 4 and [column["name"] for column in dataset["columns"]] == ["x", "y"]
    assert http.get(f"/v1/jobs/{job['id']}").json() == job


def test_validate_only_shows_every_default_and_queues_nothing(http: httpx.Client) -> None:
    before = http.get("/v1/jobs").json()["data"]
    answer = http.post("/v1/jobs?validate_only=true", json=JOB)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert found["object"] == "job.validation" and found["steps_per_epoch"] == 2 and found["rows"]["train"] == 4
    assert found["spec"]["seed"] == 0 and found["spec"]["optimiser"]["beta1"] == 0.9 and found["estimate"]["checkpoint_bytes"] > 0
    assert [layer["path"] for layer in found["layers"]][:1] == ["layers.0"] and found["parameters"] == 27
    assert http.get("/v1/jobs").json()["data"] == before
    again = http.post("/v1/jobs?validate_only=true", json=found["spec"])
    assert again.status_code == 200 and again.json()["spec"] == found["spec"]


def test_a_spec_has_all_its_problems_told_at_once(http: httpx.Client) -> None:
    wrong = copy.deepcopy(SAMPLE_JOB)
    wrong["model"] = {"kind": "chain", "layers": [{"kind": "dens", "units": 4}]}
    wrong["optimiser"] = {"kind": "adam", "lr": 0.1}
    wrong["data"]["target"] = "lable"
    body = problem(http.post("/v1/jobs", json=wrong), 422, "invalid_spec")
    assert body["detail"] == "3 errors"
    assert pointers(body) == {"/model/layers/0/kind": "unknown_kind", "/optimiser/lr": "unknown_field", "/data/target": "unknown_column"}
    assert {found["suggestion"] for found in body["errors"]} == {"dense", "learning_rate", "label"}


def test_a_dataset_that_is_not_there_is_a_problem_of_the_spec(http: httpx.Client) -> None:
    for dataset in ("ds_nothing", "sample:digit"):
        body = problem(http.post("/v1/jobs", json={**JOB, "data": {"dataset": dataset, "target": "y"}}), 422, "invalid_spec")
        assert pointers(body) == {"/data/dataset": "unknown_dataset"}


def test_inline_data_that_does_not_fit_is_told_with_its_place(http: httpx.Client) -> None:
    ragged = {**JOB, "data": {"dataset": {"columns": {"x": [[1, 2], [3]], "y": [0, 1]}}, "target": "y"}}
    assert "/data/dataset/columns/x/1" in pointers(problem(http.post("/v1/jobs", json=ragged), 422, "invalid_spec"))


def test_a_device_that_is_not_there_is_refused_with_its_place(http: httpx.Client) -> None:
    assert pointers(problem(http.post("/v1/jobs", json={**JOB, "device": "cuda"}), 422, "invalid_spec")) == {"/device": "no_device"}


@pytest.mark.parametrize(("body", "status", "code"), [
    (b"", 400, "malformed_json"), (b"{", 400, "malformed_json"), (b"\xff\xfe{}", 400, "malformed_json"), (b"[]", 422, "invalid_request"),
    (b"[" * 100_000, 422, "invalid_request"), (b"[" * 33 + b"]" * 33, 422, "invalid_request"), (b'{"a": 1, "a": 2}', 422, "invalid_request"),
    (b'{"seed": NaN}', 422, "invalid_request"), (b'{"seed": 1e999}', 422, "invalid_request"),
    (b'{"seed": ' + b"9" * 5000 + b"}", 422, "invalid_request"), (b'{"name": "\\ud800"}', 422, "invalid_request"),
    (b'{"seed": 99999999999999999999}', 422, "invalid_spec"),
], ids=range(12))
def test_bodies_that_are_not_honest_json_are_refused(http: httpx.Client, body: bytes, status: int, code: str) -> None:
    problem(http.post("/v1/jobs", content=body, headers={"content-type": "application/json"}), status, code)


def test_numbers_that_are_not_finite_are_pointed_at(http: httpx.Client) -> None:
    body = json.dumps({**JOB, "epochs": float("nan"), "optimiser": {"kind": "adam", "learning_rate": float("-inf")}})
    assert pointers(problem(http.post("/v1/jobs", content=body), 422, "invalid_request")) == {
        "/epochs": "not_finite", "/optimiser/learning_rate": "not_finite"}


def test_too_much_is_413(http: httpx.Client) -> None:
    problem(http.post("/v1/jobs", json={**JOB, "name": "x" * 1_000_000}), 413, "too_large")
    problem(http.post("/v1/jobs", content=b" " * 17_100_000, headers={"content-type": "application/json"}), 413, "too_large")
    for metadata in ({str(k): "v" for k in range(17)}, {"k" * 65: "v"}, {"k": "v" * 513}):
        problem(http.post("/v1/jobs", json={**JOB, "metadata": metadata}), 413, "too_large")


def test_other_media_types_are_415(http: httpx.Client) -> None:
    problem(http.post("/v1/jobs", content="name=x", headers={"content-type": "application/x-www-form-urlencoded"}), 415, "unsupported_media_type")
    problem(http.post("/v1/jobs", content=b"{}", headers={"content-encoding": "gzip"}), 415, "unsupported_media_type")


def test_unknown_parameters_and_wrong_ones_are_422(http: httpx.Client) -> None:
    for path in ("/v1/jobs?limits=3", "/v1/jobs?limit=0", "/v1/jobs?limit=101", "/v1/jobs?status=runing", "/v1/jobs?metadata[]=x", "/healthz?x=1",
                 *(f"/v1/{what}?after=nonsense" for what in ("jobs", "datasets", "models", "uploads", "tokens", "audit"))):
        problem(http.get(path), 422, "invalid_request")
    body = problem(http.get("/v1/jobs?limits=3"), 422, "invalid_request")
    assert body["errors"][0]["suggestion"] == "limit"
    assert problem(http.get("/v1/jobs?status=runing"), 422, "invalid_request")["errors"][0]["suggestion"] == "running"


def test_unknown_paths_ids_and_methods_have_the_shape(http: httpx.Client) -> None:
    for path in ("/nothing", "/v1/jobs/", "/v1/jobs/job_no", "/v1/jobs/job_no/events", "/v1/jobs/job_no/metrics", "/v1/datasets/ds_no",
                 "/v1/datasets/ds_no/rows", "/v1/catalogue/nothing"):
        problem(http.get(path), 404, "not_found")
    answer = http.put("/v1/jobs")
    problem(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "GET, HEAD, POST"
    problem(http.request("PURGE", "/v1/jobs/x"), 405, "method_not_allowed")


def test_head_answers_like_get_without_a_body(http: httpx.Client) -> None:
    job_id = http.post("/v1/jobs", json=JOB).json()["id"]
    for path in ("/healthz", "/openapi.json", "/docs", f"/v1/jobs/{job_id}", "/v1/jobs/job_no", "/v2/health/live", "/v1/catalogue/losses"):
        head, full = http.head(path), http.get(path)
        assert (head.status_code, head.content) == (full.status_code, b"")
        assert {name: head.headers.get(name) for name in ("content-type", "content-length", "etag")} == {
            name: full.headers.get(name) for name in ("content-type", "content-length", "etag")}
    stream = http.head(f"/v1/jobs/{job_id}/events?format=sse", timeout=20)
    assert stream.status_code == 200 and stream.headers["content-type"].startswith("text/event-stream") and stream.content == b""
    assert http.head(f"/v1/jobs/{job_id}/cancel").status_code == 405


def test_a_job_without_a_name_shows_null(http: httpx.Client) -> None:
    named, nameless = (http.post("/v1/jobs", json=spec).json() for spec in (JOB, {name: value for name, value in JOB.items() if name != "name"}))
    assert named["name"] == "small" and nameless["name"] is None
    assert http.get(f"/v1/jobs/{nameless['id']}").json()["name"] is None


def test_jobs_are_listed_newest_first_in_pages(http: httpx.Client) -> None:
    made = [http.post("/v1/jobs", json={**JOB, "metadata": {"sweep": "pages", "n": str(n)}}).json()["id"] for n in range(5)]
    first = http.get("/v1/jobs?metadata[sweep]=pages&limit=2").json()
    assert [job["id"] for job in first["data"]] == made[:2:-1] and first["has_more"] and first["last_id"] == made[3]
    rest = http.get(f"/v1/jobs?metadata[sweep]=pages&after={first['last_id']}").json()
    assert [job["id"] for job in rest["data"]] == made[2::-1] and not rest["has_more"]
    assert len(http.get("/v1/jobs?metadata[sweep]=pages&metadata[n]=3&status=queued,running").json()["data"]) == 1
    assert http.get("/v1/jobs?metadata[sweep]=pages&status=failed").json() == {"object": "list", "data": [], "has_more": False}


def test_the_etag_changes_with_the_job(http: httpx.Client) -> None:
    job_id = http.post("/v1/jobs", json=JOB).json()["id"]
    tag = http.get(f"/v1/jobs/{job_id}").headers["etag"]
    same = http.get(f"/v1/jobs/{job_id}", headers={"if-none-match": tag})
    assert same.status_code == 304 and not same.content
    http.post(f"/v1/jobs/{job_id}/cancel")
    assert http.get(f"/v1/jobs/{job_id}", headers={"if-none-match": tag}).status_code == 200


def test_a_queued_job_is_cancelled_at_once_and_then_may_be_removed(http: httpx.Client) -> None:
    job_id = http.post("/v1/jobs", json=JOB).json()["id"]
    problem(http.delete(f"/v1/jobs/{job_id}"), 409, "conflict")
    cancelled = http.post(f"/v1/jobs/{job_id}/cancel")
    assert cancelled.status_code == 202 and cancelled.json()["status"] == "cancelled"
    again = http.post(f"/v1/jobs/{job_id}/cancel")
    assert problem(again, 409, "conflict")["allowed"] == [] and again.headers["x-should-retry"] == "false"
    assert http.delete(f"/v1/jobs/{job_id}").status_code == 204
    problem(http.get(f"/v1/jobs/{job_id}"), 404, "not_found")


def test_a_running_job_is_told_to_stop(server: Running, http: httpx.Client) -> None:
    job_id = http.post("/v1/jobs", json=FIRST).json()["id"]
    store = server.store()
    store.claim("test", 60, {"pid": 1, "threads": 1})
    assert http.get(f"/v1/jobs/{job_id}").json()["worker"] == {"pid": 1, "threads": 1}
    assert http.post(f"/v1/jobs/{job_id}/cancel").json()["status"] == "cancelling"
    store.close()


class TestIdempotency:
    def test_the_same_key_gets_the_first_answer_and_makes_nothing_again(self, http: httpx.Client) -> None:
        headers = {"idempotency-key": "one"}
        first, second = (http.post("/v1/jobs", json={**JOB, "metadata": {"of": "one"}}, headers=headers) for _ in range(2))
        assert (first.status_code, first.content) == (second.status_code, second.content) and second.headers["location"] == first.headers["location"]
        assert "idempotency-replayed" not in first.headers and second.headers["idempotency-replayed"] == "true"
        assert len(http.get("/v1/jobs?metadata[of]=one").json()["data"]) == 1

    def test_another_body_or_path_with_the_same_key_is_422(self, http: httpx.Client) -> None:
        headers = {"idempotency-key": "two"}
        job_id = http.post("/v1/jobs", json=JOB, headers=headers).json()["id"]
        problem(http.post("/v1/jobs", json={**JOB, "seed": 1}, headers=headers), 422, "idempotency_mismatch")
        problem(http.post(f"/v1/jobs/{job_id}/cancel", headers=headers), 422, "idempotency_mismatch")

    def test_a_refused_request_may_be_sent_right_with_the_same_key(self, http: httpx.Client) -> None:
        headers = {"idempotency-key": "three"}
        problem(http.post("/v1/jobs", json={**JOB, "epochs": 0}, headers=headers), 422, "invalid_spec")
        assert http.post("/v1/jobs", json=JOB, headers=headers).status_code == 202

    def test_many_at_once_make_one_job(self, http: httpx.Client) -> None:
        spec = {**JOB, "metadata": {"of": "many"}}
        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda _: http.post("/v1/jobs", json=spec, headers={"idempotency-key": "many"}), range(32)))
        assert {answer.status_code for answer in answers} <= {202, 409}
        assert len({answer.json()["id"] for answer in answers if answer.status_code == 202}) == 1
        for answer in answers:
            if answer.status_code == 409:
                problem(answer, 409, "idempotency_running")
                assert "x-should-retry" not in answer.headers
        assert len(http.get("/v1/jobs?metadata[of]=many").json()["data"]) == 1

    def test_a_cancel_sent_twice_is_answered_twice(self, http: httpx.Client) -> None:
        job_id = http.post("/v1/jobs", json=JOB).json()["id"]
        answers = [http.post(f"/v1/jobs/{job_id}/cancel", headers={"idempotency-key": "stop"}) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [202, 202] and answers[0].content == answers[1].content


class TestResults:
    @pytest.fixture(scope="class")
    @staticmethod
    def done(server: Running) -> tuple[Running, str]:
        job_id = server.http.post("/v1/jobs", json=FIRST).json()["id"]
        run_job(server, job_id, losses=(1.0, float("nan"), 0.25))
        return server, job_id

    def test_a_finished_job_says_how_it_went(self, done: tuple[Running, str]) -> None:
        job = done[0].http.get(f"/v1/jobs/{done[1]}").json()
        assert job["status"] == "succeeded" and job["is_terminal"] and job["progress"] == 1.0 and "queue_position" not in job
        assert job["attempts"][0]["attempt"] == 1 and job["attempts"][0]["to_step"] == 30

    def test_metrics_come_by_column_with_words_for_numbers_that_json_lacks(self, done: tuple[Running, str]) -> None:
        found = done[0].http.get(f"/v1/jobs/{done[1]}/metrics").json()
        assert found["object"] == "metrics" and found["by"] == "epoch" and found["thinned"] is False and found["job_id"] == done[1]
        expected = {"epoch": [1, 2, 3], "step": [10, 20, 30], "train_loss": [1.0, None, 0.25], "train_loss_text": {"1": "NaN"}}
        assert {name: found["columns"][name] for name in expected} == expected

    def test_steps_come_once_each_and_long_series_are_thinned(self, done: tuple[Running, str]) -> None:
        found = done[0].http.get(f"/v1/jobs/{done[1]}/metrics?by=step&series=loss").json()
        assert found["columns"]["step"] == list(range(1, 31)) and found["columns"]["epoch"] == [1] * 10 + [2] * 10 + [3] * 10
        thin = done[0].http.get(f"/v1/jobs/{done[1]}/metrics?by=step&series=loss&points=6").json()
        assert thin["thinned"] and len(thin["columns"]["step"]) <= 6
        named = done[0].http.get(f"/v1/jobs/{done[1]}/metrics?by=step&series=train_loss,loss").json()["columns"]
        assert list(named)[:3] == ["epoch", "step", "train_loss"] and named["train_loss"] == named["loss"] == found["columns"]["loss"]

    def test_metrics_come_as_csv_too(self, done: tuple[Running, str]) -> None:
        for answer in (done[0].http.get(f"/v1/jobs/{done[1]}/metrics?series=train_loss", headers={"accept": "text/csv"}),
                       done[0].http.get(f"/v1/jobs/{done[1]}/metrics?series=train_loss&format=csv")):
            assert answer.headers["content-type"].startswith("text/csv")
            assert answer.text == "epoch,step,train_loss\n1,10,1.0\n2,20,nan\n3,30,0.25\n"

    def test_an_unknown_series_is_422_with_the_nearest(self, done: tuple[Running, str]) -> None:
        body = problem(done[0].http.get(f"/v1/jobs/{done[1]}/metrics?series=trian_loss"), 422, "invalid_request")
        assert body["errors"][0]["suggestion"] == "train_loss"

    def test_without_a_checkpoint_there_is_no_model_yet(self, done: tuple[Running, str]) -> None:
        http, path = done[0].http, f"/v1/jobs/{done[1]}"
        assert http.get(f"{path}/checkpoints").json() == {"object": "list", "data": [], "has_more": False}
        for answer in (http.get(f"{path}/model"), http.post(f"{path}/predict", json={"rows": []}),
                       http.post(f"{path}/evaluate", json={"split": "train"}), http.post(f"{path}/gradients", json={})):
            problem(answer, 409, "no_checkpoint")
        problem(http.get(f"{path}/model?checkpoint=first"), 422, "invalid_request")
        problem(http.get(f"{path}/model?format=onnx"), 409, "no_checkpoint")

    def test_a_finished_job_is_removed_with_all_it_had(self, done: tuple[Running, str]) -> None:
        server, _ = done
        job = server.http.post("/v1/jobs", json={**FIRST, "data": {**JOB["data"], "dataset": {"columns": {"x": [1.5, 2.5], "y": [0, 1]}}},
                                                 "model": {"kind": "dense", "units": 2}}).json()
        run_job(server, job["id"])
        dataset = job["spec"]["data"]["dataset"]
        assert server.http.delete(f"/v1/jobs/{job['id']}").status_code == 204
        for path in (f"/v1/jobs/{job['id']}", f"/v1/jobs/{job['id']}/events", f"/v1/datasets/{dataset}"):
            problem(server.http.get(path), 404, "not_found")
