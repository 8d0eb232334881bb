"""The rest of the API: who may ask, health, catalogue, documents, and one shape for every error of every route."""

from __future__ import annotations

import contextlib
import html
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from jsonschema_rs import validator_for
from pydantic import ValidationError
from running import JOB, ROOT, Running, pointers, problem, run_job

from engine.train.job import Job
from service.routes import ROUTERS, codes
from service.routes.render import finite

ROUTES = [(method, route.path) for router in ROUTERS for route in router.routes for method in sorted(route.methods)]   # type: ignore[attr-defined]


@pytest.mark.parametrize(("method", "path"), ROUTES, ids=lambda part: part)
def test_every_route_answers_errors_in_the_one_shape(http: httpx.Client, method: str, path: str) -> None:
    filled = path.replace("{", "no_").replace("}", "")
    answers = [http.request(method, filled, params={"surely_unknown": "1"}), http.request("BREW", filled),
               http.request(method, filled, headers={"host": "elsewhere.example"})]
    if "{" in path:
        answers.append(http.request(method, filled, content=b"{}", headers={"content-type": "application/json"}))
    for answer in answers:
        assert answer.status_code >= 400, (method, path, answer.status_code)
        problem(answer, answer.status_code, answer.json()["code"])


def test_the_openapi_document_knows_every_route_and_its_errors(http: httpx.Client) -> None:
    document = http.get("/openapi.json").json()
    calls = {(method.upper(), path): call for path, item in document["paths"].items() for method, call in item.items()}
    assert set(calls) == set(ROUTES)
    for call in calls.values():
        assert "application/problem+json" in call["responses"]["default"]["content"]
        assert "HTTPValidationError" not in str(call)
    references = set(re.findall(r"#/components/schemas/([^\"']+)", str(document)))
    assert references <= set(document["components"]["schemas"]), references - set(document["components"]["schemas"])


def test_every_code_of_an_error_has_its_place_on_the_page(http: httpx.Client) -> None:
    page = http.get("/docs/errors").text
    source = "".join(path.read_text() for path in Path(codes.__file__).parents[1].rglob("*.py"))
    used = set(re.findall(r'(?:DatasetError\(|ServiceError\(\d+, |"\w+", )"([a-z]+_[a-z_]+)"', source)) & set(re.findall(r'"([a-z_]+)"', source))
    raised = set(re.findall(r'(?:DatasetError\(|ServiceError\(\d+, )"([a-z_]+)"', source))
    assert raised and {code for code in raised if f'id="{code}"' not in page} == set(), used
    assert {code for code in (*codes.ANSWERS, *codes.PROBLEMS) if f'id="{code}"' not in page} == set()


def test_pages_have_no_scripts_and_nothing_from_elsewhere(http: httpx.Client) -> None:
    for path in ("/docs", "/docs/errors"):
        page = http.get(path)
        assert page.headers["content-security-policy"].startswith("default-src 'none'") and page.headers["x-content-type-options"] == "nosniff"
        assert "<script" not in page.text and not re.search(r"(src|href)=\"http", page.text)
    assert "/v1/jobs/{job_id}/events" in http.get("/docs").text
    assert http.get("/").headers["location"] == "/docs"


def test_the_first_request_on_the_page_is_taken_as_it_stands(http: httpx.Client, server: Running) -> None:
    post, watch = html.unescape(http.get("/docs").text.split("<pre>")[1].split("</pre>")[0]).split("\n\n")
    job = json.loads(subprocess.run(["bash", "-c", post], capture_output=True, check=True).stdout)
    assert job["status"] == "queued" and watch == f"curl -sN '{server.url}/v1/jobs/ID/events?format=text'"
    assert http.post(f"/v1/jobs/{job['id']}/cancel").status_code == 202


def test_health_and_version(http: httpx.Client, server: Running) -> None:
    assert http.get("/healthz").json() == {"status": "ok"}
    nobody = "no worker is ready: none runs, here or on another machine"
    assert problem(http.get("/readyz"), 503, "unavailable")["checks"] == {"store": "ok", "worker": nobody, "disk": "ok"}
    assert set(http.get("/version").json()) == {"version", "api", "schema", "engine", "numba", "numpy", "python", "devices"}
    limits = http.get("/v1/limits").json()
    assert limits["spec_bytes"] == 1_000_000 and limits["inline_bytes"] == 16_000_000 and limits["predict_rows"] == 10_000


def test_numbers_for_prometheus_never_name_an_id(http: httpx.Client) -> None:
    http.get("/v1/jobs/job_unknown")
    text = http.get("/metrics").text
    assert 'trainyard_jobs{status="queued"}' in text and 'route="/v1/jobs/{job_id}",status="404"' in text and "job_unknown" not in text
    assert "trainyard_http_request_duration_seconds_bucket" in text and "trainyard_workers 0.0" in text


def test_the_catalogue_has_every_group(http: httpx.Client) -> None:
    whole = http.get("/v1/catalogue").json()
    for group in ("layers", "losses", "optimisers", "transforms", "schedules", "metrics", "activations", "initialisers", "callbacks",
                  "preprocessing", "ops", "samples"):
        entries = http.get(f"/v1/catalogue/{group}").json()["data"]
        assert entries and entries == whole[group]
        assert all(entry["kind"] and entry["description"] and isinstance(entry["aliases"], list) for entry in entries)
    assert http.get("/v1/catalogue/optimizers").json() == http.get("/v1/catalogue/optimisers").json()
    assert "did you mean layers" in problem(http.get("/v1/catalogue/layer"), 404, "not_found")["detail"].lower()
    assert http.get("/v1/schemas/job.json").json()["properties"]["epochs"]["default"] == 10


@pytest.mark.parametrize(("changes", "right"), [
    ({}, True), ({"loss": "CrossEntropyLoss"}, True), ({"optimiser": "sgd"}, True), ({"optimiser": ["clip_grad", {"kind": "adam"}]}, True),
    ({"optimizer": "adam", "optimiser": None}, True), ({"optimiser": {"kind": "rmsprop", "centered": True}}, True),
    ({"callbacks": ["early_stopping"]}, True),
    ({"model": {"kind": "conv2d", "filters": 2, "kernel_size": 3}}, True), ({"metrics": ["acc", {"kind": "f1", "average": "macro"}]}, True),
    ({"optimizer": "adam"}, False), ({"optimiser": None}, False), ({"loss": "mze"}, False), ({"model": "dense"}, False), ({"epochs": 0}, False),
    ({"optimiser": {"kind": "rmsprop", "centred": True, "centered": True}}, False), ({"callbacks": ["stop_when"]}, False),
])
def test_the_schema_of_a_job_takes_what_the_service_takes(http: httpx.Client, changes: dict[str, Any], right: bool) -> None:
    body = {name: value for name, value in {**JOB, "loss": "logit_cross_entropy", **changes}.items() if value is not None}
    assert validator_for(http.get("/v1/schemas/job.json").json()).is_valid(body) is right
    with contextlib.suppress(ValidationError):
        assert Job.model_validate(body) and right
        return
    assert not right


class TestWhoMayAsk:
    @pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "localhost@evil.example", "10.0.0.1"])
    def test_another_host_name_is_refused(self, http: httpx.Client, host: str) -> None:
        for path in ("/healthz", "/v1/jobs"):
            problem(http.get(path, headers={"host": host}), 403, "forbidden")

    @pytest.mark.parametrize("host", ["localhost", "localhost:8000", "127.0.0.1", "[::1]:99", "trainyard.localhost"])
    def test_names_of_this_machine_are_answered(self, http: httpx.Client, host: str) -> None:
        assert http.get("/healthz", headers={"host": host}).status_code == 200

    def test_pages_of_others_are_refused(self, http: httpx.Client, server: Running) -> None:
        for origin in ("http://evil.example", "null", "https://127.0.0.1.evil.example", "http://localhost:1"):
            for method in ("GET", "POST", "DELETE"):
                problem(http.request(method, "/v1/jobs", headers={"origin": origin}), 403, "forbidden")
        assert http.get("/v1/jobs", headers={"origin": server.url}).status_code == 200

    def test_a_token_is_needed_where_one_is_set(self, start_server: Any) -> None:
        server = start_server(TRAINYARD_TOKEN="secret-token")
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "secret-token"}, {"authorization": "Basic secret-token"}):
            answer = server.http.get("/v1/jobs", headers=headers)
            problem(answer, 401, "unauthorised")
            assert answer.headers["www-authenticate"] == "Bearer"
        assert server.http.get("/v1/jobs", headers={"authorization": "Bearer secret-token"}).status_code == 200
        assert server.http.get("/healthz").status_code == 200
        assert problem(server.http.post("/nowhere"), 401, "unauthorised")

    def test_beyond_loopback_a_token_is_made_and_kept_hashed(self, start_server: Any, capfd: pytest.CaptureFixture[str]) -> None:
        server = start_server(TRAINYARD_HOST="0.0.0.0")
        token = re.search(r"shown only now: (\S+)", capfd.readouterr().out)
        assert token is not None and token[1].encode() not in (server.home / "trainyard.db").read_bytes()
        problem(server.http.get("/v1/jobs"), 401, "unauthorised")
        headers = {"authorization": f"Bearer {token[1]}", "host": "a.name.of.ours"}
        assert server.http.get("/v1/jobs", headers=headers).status_code == 200
        server.stop()
        again = start_server(server.home, TRAINYARD_HOST="0.0.0.0")
        assert "shown only now" not in capfd.readouterr().out
        assert again.http.get("/v1/jobs", headers=headers).status_code == 200


def test_what_was_answered_is_there_after_a_kill(start_server: Any) -> None:
    server = start_server()
    headers = {"idempotency-key": "k"}
    first = server.http.post("/v1/jobs", json=JOB, headers=headers)
    server.process.kill()
    server.process.wait()
    again = start_server(server.home)
    assert again.http.post("/v1/jobs", json=JOB, headers=headers).content == first.content
    run_job(again, first.json()["id"])
    assert [event["seq"] for event in again.http.get(f"/v1/jobs/{first.json()['id']}/events").json()["data"]] == [1, 2, 3, 4, 5, 6]


def test_gradients_are_asked_of_the_predictor(http: httpx.Client, server: Running) -> None:
    environment = {**os.environ, "TRAINYARD_HOME": str(server.home)}
    predictor = subprocess.Popen([sys.executable, "-m", "service.predictor"], env=environment, cwd=ROOT)
    try:
        request = {"model": {"kind": "dense", "units": 1, "bias": False}, "loss": "mse", "data": {"x": [[1.0, 2.0]], "y": [0.5]},
                   "parameters": {"weight": [[3.0], [1.0]]}}
        answer = http.post("/v1/gradients", json=request)
        assert answer.status_code == 200, answer.text
        assert answer.json()["value"] == 4.5 ** 2 and answer.json()["gradients"] == {"weight": [[9.0], [18.0]]}
        body = problem(http.post("/v1/gradients", json={**request, "mode": "sideways", "lost": 1}), 422, "invalid_spec")
        assert set(pointers(body)) == {"/mode", "/lost"}
    finally:
        predictor.kill()
        predictor.wait()


def test_numbers_that_json_lacks_are_told_beside() -> None:
    nan, infinite = float("nan"), float("inf")
    assert finite({"a": nan, "b": [1.0, infinite, [-infinite]], "c": {"d": [{"e": nan}]}, "f": 1.5}) == {
        "a": None, "a_text": "NaN", "b": [1.0, None, [None]], "b_text": {"1": "Infinity", "2/0": "-Infinity"},
        "c": {"d": [{"e": None, "e_text": "NaN"}]}, "f": 1.5}
