"""What the service tells those who run it: readiness that is true, numbers from every process, logs that name requests and jobs, traces."""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from service import heartbeat, logs, tally
from service.settings import Settings
from service.stream import run_folder
from tests.homes import fresh
from tests.service.receiver import receiving
from tests.service.running import Running, until
from tests.serving import ROOT, Server, serving
from tests.user import User

JOB: dict[str, Any] = {
    "model": {"kind": "dense", "units": 3}, "loss": "logit_cross_entropy", "optimiser": "adam", "epochs": 3,
    "data": {"dataset": {"columns": {"x": [[0.0, 1.0], [1.0, 0.0], [1.0, 1.0], [0.5, 0.0]], "y": [0, 1, 2, 0]}}, "target": "y", "batch_size": 2}}
NOBODY = "no worker is ready: none runs, here or on another machine"
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Collector:
    """A real OTLP receiver: spans by name."""

    def __init__(self):
        self.spans: list[Any] = []

    @contextmanager
    def listening(self) -> Iterator[str]:
        pb2 = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
        pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                sent = pb2.ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["content-length"])))
                collector.spans += [span for of_one in sent.resource_spans for scope in of_one.scope_spans for span in scope.spans]
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()

    def named(self, name: str) -> list[Any]:
        return [span for span in self.spans if span.name == name]


@pytest.fixture(scope="module")
def collector() -> Collector:
    return Collector()


@pytest.fixture(scope="module")
def server(collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One that logs in JSON, to a file, and traces."""
    home = fresh(tmp_path_factory.mktemp("observed") / "home")
    with collector.listening() as endpoint, pytest.MonkeyPatch.context() as patch, open(home.parent / "log", "w") as log:
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        patch.setattr(subprocess, "Popen", _logging_to(log))
        with serving(home, workers=2, log_format="json", lease_seconds=2, renew_seconds=0.5, webhook_allow="127.0.0.1") as one:
            yield one


def _logging_to(log: Any) -> Any:
    start = subprocess.Popen
    return lambda *arguments, **more: start(*arguments, **{"stderr": log, **more})


@pytest.fixture
def user(server: Server) -> User:
    return User(server.url)


def lines(server: Server) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (server.home.parent / "log").read_text().splitlines()]


def number(user: User, name: str) -> float:
    """One number of /metrics."""
    return next(float(line.rpartition(" ")[2]) for line in user.http.get("/metrics").text.splitlines() if line.startswith(f"{name} "))


def readiness(user: User) -> dict[str, str]:
    answer = user.http.get("/readyz")
    checks = answer.json()["checks"]
    assert answer.status_code == (200 if set(checks.values()) == {"ok"} else 503)
    assert answer.status_code == 200 or "Retry-After" in answer.headers
    return checks


# ---------------------------------------------------------------- requests, jobs and their traces

def test_a_request_has_an_id_that_is_given_back_and_logged(server: Server, user: User) -> None:
    answer = user.http.get("/v1/jobs/job_of_nobody", headers={"x-request-id": "mine-1"})
    assert answer.headers["x-request-id"] == "mine-1" and answer.json()["request_id"] == "mine-1"
    unfit: list[dict[str, str]] = [{}, {"x-request-id": "a b"}, {"x-request-id": "x" * 500}]
    made = [user.http.get("/v1/limits", headers=headers).headers["x-request-id"] for headers in unfit]
    assert len(set(made)) == 3 and all(one.startswith("req_") for one in made)
    line = until(lambda: next((line for line in lines(server) if line.get("request_id") == "mine-1"), None))
    assert line["route"] == "/v1/jobs/{job_id}" and line["status"] == 404 and line["role"] == "api" and line["level"] == "info"
    assert user.http.get("/nowhere").json()["request_id"].startswith("req_")


def test_a_job_is_followed_through_logs_numbers_and_traces(server: Server, user: User, collector: Collector, tmp_path: Path) -> None:
    with receiving(tmp_path / "receiver") as receiver:
        before = {name: number(user, name) for name in ("trainyard_epoch_seconds_count", "trainyard_checkpoint_write_seconds_count",
                                                        'trainyard_jobs_ended_total{status="succeeded"}', "trainyard_attempts_total")}
        spec = {**JOB, "callbacks": [{"kind": "webhook", "url": receiver.url}]}
        answer = user.http.post("/v1/jobs", json=spec, headers={"traceparent": TRACEPARENT, "x-request-id": "the-post"})
        job_id = answer.json()["id"]
        user.watch(job_id)
        until(lambda: number(user, 'trainyard_webhooks_total{result="delivered"}') == 1)
        user.post(f"/v1/jobs/{job_id}/predict", {"inputs": [[0.0, 1.0]]})
    assert number(user, "trainyard_epoch_seconds_count") == before["trainyard_epoch_seconds_count"] + 3
    assert number(user, "trainyard_checkpoint_write_seconds_count") > before["trainyard_checkpoint_write_seconds_count"]
    assert number(user, 'trainyard_jobs_ended_total{status="succeeded"}') == before['trainyard_jobs_ended_total{status="succeeded"}'] + 1
    assert number(user, 'trainyard_job_duration_seconds_bucket{le="+Inf",status="succeeded"}') >= 1
    assert number(user, 'trainyard_predictions_total{status="200"}') == 1 and number(user, "trainyard_workers") == 2
    text = user.http.get("/metrics").text
    assert job_id not in text and "trainyard_sse_clients" in text and "trainyard_lease_expired_total" in text
    families = [family for family in text_string_to_metric_families(text) if family.name.startswith("trainyard_")]
    labels = {label for family in families for sample in family.samples for label in sample.labels}
    assert labels == {"method", "route", "status", "result", "le"} and len(families) > 20

    def said() -> dict[str, list[dict[str, Any]]]:
        mine = [line for line in lines(server) if line.get("job_id") == job_id]
        return {role: [line for line in mine if line["role"] == role] for role in ("api", "worker", "courier")}

    told = until(lambda: found if all((found := said()).values()) and len(found["worker"]) >= 2 else None)
    assert told["api"][0]["request_id"] == "the-post" and told["worker"][-1]["status"] == "succeeded"
    [attempt] = until(lambda: collector.named("job"))
    [request] = until(lambda: collector.named("POST /v1/jobs"))
    assert request.trace_id.hex() == attempt.trace_id.hex() == TRACEPARENT.split("-")[1]
    assert request.parent_span_id.hex() == TRACEPARENT.split("-")[2] and attempt.parent_span_id == request.span_id
    values = {item.key: item.value.string_value for item in attempt.attributes}
    assert values["trainyard.job_id"] == job_id and values["trainyard.job_status"] == "succeeded"


def test_numbers_go_on_where_a_killed_worker_left_them(server: Server, user: User) -> None:
    before, lost = number(user, "trainyard_attempts_total"), number(user, "trainyard_workers_lost_total")
    long = {**JOB, "epochs": 1_000_000}
    job_id = user.submit(long)
    until(lambda: number(user, "trainyard_attempts_total") == before + 1)
    os.kill(user.get(f"/v1/jobs/{job_id}")["worker"]["pid"], signal.SIGKILL)
    until(lambda: number(user, "trainyard_workers_lost_total") == lost + 1)
    until(lambda: number(user, "trainyard_attempts_total") >= before + 2)
    assert any("signal 9" in line["message"] for line in lines(server) if line["role"] == "supervisor")
    user.post(f"/v1/jobs/{job_id}/cancel", {})
    user.watch(job_id)


@pytest.mark.slow
def test_a_lease_that_nobody_renews_is_counted_when_another_worker_takes_the_job(server: Server, user: User) -> None:
    before = number(user, "trainyard_lease_expired_total")
    job_id = user.submit({**JOB, "epochs": 1_000_000})
    until(lambda: user.get(f"/v1/jobs/{job_id}")["status"] == "running")
    os.kill(server.process.pid, signal.SIGSTOP)         # it renews no lease now
    try:
        until(lambda: number(user, "trainyard_lease_expired_total") > before)
    finally:
        os.kill(server.process.pid, signal.SIGCONT)
    user.post(f"/v1/jobs/{job_id}/cancel", {})
    assert user.watch(job_id)[-1]["type"] == "job.cancelled"


# ---------------------------------------------------------------- readiness

def test_it_is_not_ready_while_no_worker_is_awake(server: Server, user: User) -> None:
    folder = run_folder(server.home)
    until(lambda: len(phases := heartbeat.workers(folder)) == 2 and "starting" not in phases.values(), 60)
    until(lambda: set(readiness(user).values()) == {"ok"}, 60)
    pids = [int(path.suffix[1:]) for path in folder.glob("worker.*")]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        said = until(lambda: found if (found := readiness(user)["worker"]) != "ok" else None)
        assert "none has said that it is there" in said and readiness(user)["store"] == "ok"
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    until(lambda: readiness(user)["worker"] == "ok")


@contextmanager
def workers_elsewhere(folder: Path, url: str = "") -> Iterator[tuple[User, Running]]:
    """A service without workers, and a worker as on another machine: with a run folder of its own, and the store in common."""
    brief = {"lease_seconds": 2, "renew_seconds": 0.5, "gpus": "none"}
    with serving(folder / "api", workers=0, store=url, **brief) as server:
        user = User(server.url)
        assert readiness(user)["worker"] == NOBODY
        elsewhere = Running(folder / "elsewhere", workers=1, store=url or f"sqlite:///{server.home / 'trainyard.db'}", **brief)
        try:
            until(lambda: readiness(user)["worker"] == "ok")
            yield user, elsewhere
        finally:
            elsewhere.close()


def test_it_is_ready_until_nothing_is_heard_of_the_machine_that_has_the_workers(tmp_path: Path) -> None:
    with workers_elsewhere(tmp_path) as (user, elsewhere):
        elsewhere.process.kill()
        until(lambda: readiness(user)["worker"] == NOBODY)


@pytest.mark.slow
@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_it_is_ready_while_workers_of_another_machine_are_awake(database: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    url = "" if database == "sqlite" else request.getfixturevalue("postgres").fresh()
    with workers_elsewhere(tmp_path, url) as (user, elsewhere):
        [worker] = elsewhere.workers()
        os.kill(worker, signal.SIGSTOP)
        until(lambda: readiness(user)["worker"] == NOBODY)
        os.kill(worker, signal.SIGCONT)
        until(lambda: readiness(user)["worker"] == "ok")
        assert elsewhere.stop() == 0
        assert readiness(user)["worker"] == NOBODY


def test_it_is_not_ready_while_the_store_takes_no_write(server: Server, user: User) -> None:
    api = next(int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit() and _is_api(path, server))
    soft, hard = resource.prlimit(api, resource.RLIMIT_FSIZE)
    resource.prlimit(api, resource.RLIMIT_FSIZE, (0, hard))         # as on a full disk: every write of this process fails
    try:
        said = until(lambda: found if (found := readiness(user)["store"]) != "ok" else None)
        assert "disk is full" in said or "cannot be written" in said
        assert user.http.get("/healthz").status_code == 200
    finally:
        resource.prlimit(api, resource.RLIMIT_FSIZE, (soft, hard))
    until(lambda: readiness(user)["store"] == "ok")


def test_it_is_not_ready_while_another_holds_the_store(server: Server, user: User) -> None:
    code = "import fcntl, sys; file = open(sys.argv[1], 'w'); fcntl.flock(file, fcntl.LOCK_EX); print('held', flush=True); input()"
    holder = subprocess.Popen([sys.executable, "-c", code, server.home / "trainyard.db.lock"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        time.sleep(0.6)
        assert "has taken no write" in readiness(user)["store"]
    finally:
        holder.kill()
        holder.wait()
    until(lambda: readiness(user)["store"] == "ok")


def _is_api(path: Path, server: Server) -> bool:
    try:
        command = (path / "cmdline").read_bytes().split(b"\0")
        return b"service.app" in command and int(command[command.index(b"service.child") + 1]) == server.process.pid
    except (OSError, ValueError):
        return False


def test_each_check_says_what_is_wrong(home: Path) -> None:
    environment = {**os.environ, "TRAINYARD_DISK_WATERMARK_BYTES": str(10**18)}
    done = subprocess.run([sys.executable, "-m", "service.cli", "get", "/readyz", "--home", str(home)], cwd=ROOT, env=environment,
                          capture_output=True, text=True)
    body = json.loads(done.stdout)
    assert body["status"] == 503 and body["checks"]["store"] == "ok"
    assert body["checks"]["worker"] == NOBODY
    assert "bytes are free on the disk, fewer than" in body["checks"]["disk"] and body["checks"]["disk"] in body["detail"]


# ---------------------------------------------------------------- the parts

def test_what_is_not_asked_for_is_not_loaded() -> None:
    """OpenTelemetry without an endpoint; and torch, which the writer of TensorBoard's files would load."""
    code = ("import sys; from service import app, traces; from service.routes import eventfile; traces.begin('api'); eventfile._library(); "
            "print(*{'opentelemetry.sdk.trace', 'torch', 'tensorboard', 'mlflow'} & set(sys.modules))")
    without = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=without, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_a_log_that_nobody_reads_holds_up_nobody() -> None:
    code = ("import time\nfrom service import logs\nfrom service.settings import Settings\n"
            "logs.install(Settings(log_format='json'), 'worker')\nlog = logs.of('worker')\nbegan = time.monotonic()\n"
            "for n in range(30_000):\n    log.info('line %d', n)\nprint(time.monotonic() - began, flush=True)\n")
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and float(process.stdout.readline()) < 30        # the pipe is full after the first 64 kB
    process.kill()
    process.wait()


def test_plain_lines_are_for_people() -> None:
    record = logging.LogRecord("trainyard.worker", logging.WARNING, "", 0, "all of %s", ("it",), None)
    with logs.about(job_id="job_1"):
        assert logs.Plain("supervisor").format(record) == "supervisor: all of it  [job_id=job_1]"
        assert json.loads(logs.Lines("worker").format(record))["job_id"] == "job_1"
    assert Settings(log_format="json").log_level == ""


def test_tallies_of_one_slot_go_on_and_those_of_all_are_added(tmp_path: Path) -> None:
    for slot, seconds in (("1.0", 0.02), ("1.1", 4000.0), ("1.0", 0.02)):
        tally.begin(tmp_path, slot)
        tally.count("attempts")
        tally.count("no such", "thing")
        tally.observe("epoch_seconds", seconds)
    found = tally.totals(tmp_path)
    assert found["attempts", ""] == [3.0]
    assert found["epoch_seconds", ""][-1] == pytest.approx(4000.04) and sum(found["epoch_seconds", ""][:-1]) == 3
    assert found["epoch_seconds", ""][tally.LONG.index(0.03)] == 2
    tally._mine = None
