"""PATCH, pause and resume over HTTP; conditions; the queue. No worker runs: the tests do in the store what one would do."""

from __future__ import annotations

import copy
from typing import Any

import httpx
import pytest
from running import FIRST, JOB, Running, pointers, problem, run_job

from service.store import Event


def queued(http: httpx.Client, **more: Any) -> str:
    answer = http.post("/v1/jobs", json={**copy.deepcopy(JOB), **more})
    assert answer.status_code == 202, answer.text
    return answer.json()["id"]


@pytest.fixture
def over(server: Running) -> str:
    job_id = server.http.post("/v1/jobs", json=FIRST).json()["id"]
    run_job(server, job_id)
    return job_id


class TestChanges:
    def test_a_waiting_job_is_changed_and_says_what_it_has_to_take_up(self, http: httpx.Client) -> None:
        job_id = queued(http)
        answer = http.patch(f"/v1/jobs/{job_id}", json={"learning_rate": 0.5, "epochs": 7, "freeze": ["layers.0.*"], "name": "other", "priority": 2})
        assert answer.status_code == 200, answer.text
        job = answer.json()
        assert (job["epochs"], job["name"], job["priority"], job["status"]) == (7, "other", 2, "queued")
        (change,) = job["adjustments"]
        assert change["changes"] == {"learning_rate": 0.5, "epochs": 7, "freeze": ["layers.0.*"]} and change["number"] == 1 and "step" not in change
        assert job["spec"]["optimiser"]["learning_rate"] == 0.01        # the spec stays what was sent
        found = http.get(f"/v1/jobs/{job_id}")
        assert found.json() == job and found.headers["etag"] == answer.headers["etag"]
        assert http.patch(f"/v1/jobs/{job_id}", json={"name": None}).json()["name"] is None
        assert http.patch(f"/v1/jobs/{job_id}", json={}).status_code == 200

    def test_all_mistakes_are_told_at_once_with_what_was_meant(self, http: httpx.Client) -> None:
        job_id = queued(http)
        wrong = {"lr": 1, "learning_rate": "fast", "beta1": 1.5, "epochs": 0, "freeze": ["layer.0.weight"], "thaw": 3, "prority": 1, "priority": 101,
                 "name": 3, "metadata": {"a": 1}, "batch_size": 4, "optimiser": {"learning_rate": 0.1}, "a/b": 1}
        body = problem(http.patch(f"/v1/jobs/{job_id}", json=wrong), 422, "invalid_request")
        assert pointers(body) == {
            "/lr": "unknown_field", "/learning_rate": "invalid_value", "/beta1": "out_of_range", "/epochs": "out_of_range",
            "/freeze/0": "unknown_path", "/thaw": "invalid_value", "/prority": "unknown_field", "/priority": "out_of_range", "/name": "invalid_value",
            "/metadata/a": "invalid_value", "/batch_size": "unknown_field", "/optimiser": "unknown_field", "/a~1b": "unknown_field"}
        near = {found["pointer"]: found.get("suggestion") for found in body["errors"]}
        assert (near["/lr"], near["/prority"], near["/freeze/0"], near["/optimiser"]) == (
            "learning_rate", "priority", "layers.0.weight", "learning_rate")
        assert "fork" in next(found["detail"] for found in body["errors"] if found["pointer"] == "/batch_size")
        assert "adjustments" not in http.get(f"/v1/jobs/{job_id}").json()

    def test_something_must_be_left_to_be_trained(self, http: httpx.Client) -> None:
        job_id = queued(http)
        assert http.patch(f"/v1/jobs/{job_id}", json={"freeze": ["layers.0"]}).status_code == 200
        body = problem(http.patch(f"/v1/jobs/{job_id}", json={"freeze": "layers.1"}), 422, "invalid_request")
        assert pointers(body) == {"/freeze": "nothing_trained"}
        assert http.patch(f"/v1/jobs/{job_id}", json={"freeze": "layers.1", "thaw": ["*", "!layers.1"]}).status_code == 200

    def test_bodies_that_are_too_much_are_refused(self, http: httpx.Client) -> None:
        path = f"/v1/jobs/{queued(http)}"
        problem(http.patch(path, json={"metadata": {str(k): "v" for k in range(17)}}), 413, "too_large")
        problem(http.patch(path, content=b"[]"), 422, "invalid_request")
        problem(http.patch(path, content=b'{"learning_rate": NaN}'), 422, "invalid_request")
        problem(http.patch(path, content="x", headers={"content-type": "text/plain"}), 415, "unsupported_media_type")
        assert len(problem(http.patch(path, json={f"f{k}": k for k in range(500)}), 422, "invalid_request")["errors"]) == 100
        assert pointers(problem(http.patch(path, json={"freeze": ["*"] * 1001}), 422, "invalid_request")) == {"/freeze": "out_of_range"}

    def test_a_job_that_is_over_changes_its_labels_only(self, http: httpx.Client, over: str) -> None:
        before = http.get(f"/v1/jobs/{over}").json()
        for changes in ({"learning_rate": 0.1}, {"epochs": 10, "name": "x"}):
            body = problem(http.patch(f"/v1/jobs/{over}", json=changes), 409, "conflict")
            assert "fork" in body["detail"] and body["allowed"] == []
        assert http.get(f"/v1/jobs/{over}").json() == before
        body = problem(http.patch(f"/v1/jobs/{over}", json={"learning_rat": 0.1, "epochs": 3}), 422, "invalid_request")
        assert pointers(body) == {"/learning_rat": "unknown_field"} and body["errors"][0]["suggestion"] == "learning_rate"
        after = http.patch(f"/v1/jobs/{over}", json={"name": "x", "metadata": {"note": "good"}, "priority": -100}).json()
        assert after == {**before, "name": "x", "metadata": {"note": "good"}, "priority": -100}

    def test_a_job_that_does_not_exist_is_not_changed(self, http: httpx.Client) -> None:
        for method, path in (("PATCH", ""), ("POST", "/pause"), ("POST", "/resume")):
            problem(http.request(method, f"/v1/jobs/job_no{path}", json={}), 404, "not_found")

    def test_a_change_sent_twice_with_one_key_is_made_once(self, http: httpx.Client) -> None:
        job_id = queued(http)
        answers = [http.patch(f"/v1/jobs/{job_id}", json={"learning_rate": 0.5}, headers={"idempotency-key": f"change {job_id}"}) for _ in range(2)]
        assert answers[0].content == answers[1].content and answers[1].headers["idempotency-replayed"] == "true"
        assert len(http.get(f"/v1/jobs/{job_id}").json()["adjustments"]) == 1

    def test_labels_are_found_after_a_change_and_together_with_states(self, http: httpx.Client) -> None:
        kept, other = (queued(http, metadata={"set": "before", "of": name}) for name in ("a", "b"))
        http.patch(f"/v1/jobs/{kept}", json={"metadata": {"set": "after"}})
        http.post(f"/v1/jobs/{other}/cancel")

        def found(query: str) -> list[str]:
            return [job["id"] for job in http.get(f"/v1/jobs?{query}").json()["data"]]

        assert found("metadata[set]=after") == found("metadata[set]=after&status=queued") == [kept]
        assert found("metadata[set]=before") == found("metadata[set]=before&metadata[of]=b&status=cancelled,running") == [other]
        assert found("metadata[of]=a") == found("metadata[set]=after&status=cancelled") == found("metadata[set]=after&metadata[of]=a") == []

    def test_the_queue_follows_a_changed_priority(self, http: httpx.Client) -> None:
        first, second = queued(http, priority=99), queued(http, priority=99)
        place = [http.get(f"/v1/jobs/{job_id}").json()["queue_position"] for job_id in (first, second)]
        assert place[1] == place[0] + 1
        assert http.patch(f"/v1/jobs/{second}", json={"priority": 100}).json()["queue_position"] == place[0]
        assert http.get(f"/v1/jobs/{first}").json()["queue_position"] == place[1]
        for job_id in (first, second):
            http.post(f"/v1/jobs/{job_id}/cancel")


class TestPauses:
    def test_what_cannot_be_paused_or_resumed_says_what_it_can_become(self, http: httpx.Client, over: str) -> None:
        job_id = queued(http)
        for wish in ("pause", "resume"):
            assert problem(http.post(f"/v1/jobs/{job_id}/{wish}"), 409, "conflict")["allowed"] == ["running", "cancelled", "failed"]
            refused = http.post(f"/v1/jobs/{over}/{wish}")
            assert problem(refused, 409, "conflict")["allowed"] == [] and refused.headers["x-should-retry"] == "false"
        assert pointers(problem(http.post(f"/v1/jobs/{job_id}/pause", json={"now": True}), 422, "invalid_request")) == {"/now": "unknown_field"}

    def test_a_running_job_pauses_is_changed_and_goes_on(self, server: Running, http: httpx.Client) -> None:
        job_id = http.post("/v1/jobs", json=FIRST).json()["id"]
        store = server.store()
        claim, _ = store.claim("test", 60, {"pid": 1, "threads": 1}) or pytest.fail("nothing to claim")
        store.record(claim, events=[Event("job.started")], job={"epoch": 1, "step": 2, "progress": 0.5, "eta_seconds": 4.0})
        longer = http.patch(f"/v1/jobs/{job_id}", json={"epochs": 5}).json()
        assert (longer["epochs"], longer["progress"], longer["eta_seconds"]) == (5, 0.2, 16.0)
        answers = [http.post(f"/v1/jobs/{job_id}/pause", headers={"idempotency-key": f"pause {job_id}"}) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [202, 202] and answers[0].json()["status"] == "pausing"
        assert answers[1].headers["idempotency-replayed"] == "true"
        body = problem(http.patch(f"/v1/jobs/{job_id}", json={"beta1": 0.5}), 409, "conflict")
        assert "pausing" in body["detail"] and "fork" in body["detail"]
        store.release(claim)
        assert problem(http.patch(f"/v1/jobs/{job_id}", json={"epochs": 0}), 422, "invalid_request")
        assert http.patch(f"/v1/jobs/{job_id}", json={"beta1": 0.5}).json()["status"] == "paused"
        assert http.post(f"/v1/jobs/{job_id}/resume").json()["status"] == "queued"
        assert http.post(f"/v1/jobs/{job_id}/cancel").json()["status"] == "cancelled"
        assert [event["type"] for event in http.get(f"/v1/jobs/{job_id}/events").json()["data"]] == [
            "job.queued", "job.started", "job.pausing", "job.paused", "job.resumed", "job.cancelled"]
        store.close()

    def test_epochs_that_are_done_cannot_be_taken_back(self, server: Running, http: httpx.Client) -> None:
        job_id = http.post("/v1/jobs", json={**FIRST, "epochs": 9}).json()["id"]
        store = server.store()
        claim, _ = store.claim("test", 60, {"pid": 1, "threads": 1}) or pytest.fail("nothing to claim")
        store.record(claim, job={"epoch": 4})
        body = problem(http.patch(f"/v1/jobs/{job_id}", json={"epochs": 3}), 422, "invalid_request")
        assert pointers(body) == {"/epochs": "out_of_range"} and "4 are done" in body["detail"]
        assert http.patch(f"/v1/jobs/{job_id}", json={"epochs": 4}).status_code == 200
        store.finish(claim, "succeeded", reason="completed", message="Done.")
        store.close()


class TestConditions:
    def test_a_stale_tag_changes_and_removes_nothing(self, http: httpx.Client) -> None:
        job_id = queued(http)
        tag = http.get(f"/v1/jobs/{job_id}").headers["etag"]
        renamed = http.patch(f"/v1/jobs/{job_id}", json={"name": "one"}, headers={"if-match": tag})
        assert renamed.status_code == 200 and renamed.headers["etag"] != tag
        stale = http.patch(f"/v1/jobs/{job_id}", json={"name": "two"}, headers={"if-match": tag})
        problem(stale, 412, "precondition_failed")
        assert stale.headers["etag"] == renamed.headers["etag"] and http.get(f"/v1/jobs/{job_id}").json()["name"] == "one"
        http.post(f"/v1/jobs/{job_id}/cancel")
        problem(http.delete(f"/v1/jobs/{job_id}", headers={"if-match": tag}), 412, "precondition_failed")
        weak = "W/" + http.get(f"/v1/jobs/{job_id}").headers["etag"]
        problem(http.delete(f"/v1/jobs/{job_id}", headers={"if-match": weak}), 412, "precondition_failed")
        fresh = http.get(f"/v1/jobs/{job_id}").headers["etag"]
        assert http.patch(f"/v1/jobs/{job_id}", json={}, headers={"if-match": "*"}).status_code == 200
        fresh = http.get(f"/v1/jobs/{job_id}").headers["etag"]
        assert http.delete(f"/v1/jobs/{job_id}", headers={"if-match": f'"x", {fresh}'}).status_code == 204
        problem(http.patch(f"/v1/jobs/{job_id}", json={}, headers={"if-match": fresh}), 404, "not_found")

    def test_what_is_known_is_not_sent_again(self, http: httpx.Client) -> None:
        dataset = http.get(f"/v1/jobs/{queued(http)}").json()["spec"]["data"]["dataset"]
        for path in (f"/v1/jobs/{queued(http, priority=-100)}", f"/v1/datasets/{dataset}", f"/v1/datasets/{dataset}/content"):
            whole = http.get(path)
            tag = whole.headers["etag"]
            for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
                same = http.get(path, headers={"if-none-match": known})
                assert same.status_code == 304 and not same.content and same.headers["etag"] == tag
            assert http.get(path, headers={"if-none-match": '"other"'}).content == whole.content
