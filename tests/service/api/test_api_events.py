"""A job's events over HTTP: every form, exact resuming, waiting, ending."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from running import FIRST, JOB, SAMPLE_JOB, Running, problem, run_job

from service.jobs import Event


def parse(text: str) -> list[dict[str, Any]]:
    """The events of a stream of server-sent events; each must be whole."""
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if "data" in fields:
            event = json.loads(fields["data"])
            assert fields["id"] == str(event["seq"]) and fields["event"] == event["type"]
            found.append(event)
    return found


@pytest.fixture(scope="session")
def done(server: Running) -> str:
    """A finished job: queued, started, three epochs, succeeded."""
    job_id = server.http.post("/v1/jobs", json=FIRST).json()["id"]
    run_job(server, job_id, losses=(1.0, float("inf"), 0.5))
    return job_id


def test_a_stream_tells_all_that_happened_and_ends_with_the_job(http: httpx.Client, done: str) -> None:
    answer = http.get(f"/v1/jobs/{done}/events", headers={"accept": "text/event-stream"})
    assert answer.headers["content-type"].startswith("text/event-stream") and answer.headers["cache-control"] == "no-store"
    assert answer.text.startswith("retry: 1000\n\n")
    events = parse(answer.text)
    assert [event["seq"] for event in events] == [1, 2, 3, 4, 5, 6]
    assert [event["type"] for event in events] == ["job.queued", "job.started", "epoch", "epoch", "epoch", "job.succeeded"]
    assert events[3]["data"]["train_loss"] is None and events[3]["data"]["train_loss_text"] == "Infinity"
    assert {"object", "id", "job_id", "seq", "type", "level", "message", "data", "created_at"} == set(events[0])


@pytest.mark.parametrize("after", range(6))
def test_a_stream_resumes_without_gap_or_repeat(http: httpx.Client, done: str, after: int) -> None:
    event_id = http.get(f"/v1/jobs/{done}/events?after={max(after, 1) - 1}&limit=1").json()["data"][0]["id"]
    ways: list[Any] = [({"last-event-id": str(after)}, ""), ({}, f"&after={after}"), ({"last-event-id": str(after)}, "&after=1")]
    if after:
        ways += [({"last-event-id": event_id}, ""), ({}, f"&after={event_id}")]
    for headers, query in ways:
        events = parse(http.get(f"/v1/jobs/{done}/events?format=sse{query}", headers=headers).text)
        assert [event["seq"] for event in events] == list(range(after + 1, 7))


def test_resuming_at_or_after_the_last_event_is_204(http: httpx.Client, done: str) -> None:
    for after in (6, 7, 1000):
        answer = http.get(f"/v1/jobs/{done}/events", headers={"accept": "text/event-stream", "last-event-id": str(after)})
        assert answer.status_code == 204 and not answer.content


def test_lines_of_json_and_of_text(http: httpx.Client, done: str) -> None:
    lines = http.get(f"/v1/jobs/{done}/events", headers={"accept": "application/x-ndjson"})
    assert [json.loads(line)["seq"] for line in lines.text.splitlines()] == [1, 2, 3, 4, 5, 6]
    assert lines.headers["content-type"].startswith("application/x-ndjson")
    text = http.get(f"/v1/jobs/{done}/events?format=text&after=2")
    assert text.text == "Epoch 1.\nEpoch 2.\nEpoch 3.\nThe job is done.\n" and text.headers["content-type"].startswith("text/plain")


def test_a_list_comes_in_pages_that_follow_each_other(http: httpx.Client, done: str) -> None:
    path, seen, after = f"/v1/jobs/{done}/events", [], ""
    while True:
        page = http.get(f"{path}?limit=4{after}").json()
        seen += [event["seq"] for event in page["data"]]
        if not page["has_more"]:
            break
        after = f"&after={page['last_id']}"
    assert seen == [1, 2, 3, 4, 5, 6]
    assert http.get(path, headers={"accept": "*/*"}).json()["object"] == "list"
    assert http.get(f"{path}?format=json", headers={"accept": "text/event-stream"}).json()["object"] == "list"


def test_types_are_chosen_and_the_last_event_comes_always(http: httpx.Client, done: str) -> None:
    events = parse(http.get(f"/v1/jobs/{done}/events?format=sse&types=epoch,warning").text)
    assert [(event["seq"], event["type"]) for event in events] == [(3, "epoch"), (4, "epoch"), (5, "epoch"), (6, "job.succeeded")]


def test_what_cannot_be_asked_is_422(http: httpx.Client, done: str) -> None:
    path = f"/v1/jobs/{done}/events"
    for after in (2**31, 2**63 - 1):
        assert http.get(f"/v1/jobs/{done}/events?after={after}").json()["data"] == []
    for query in ("after=x", "after=-1", "after=event_other_3", "format=xml", "types=epochs", "limit=1001", "wait=61", "format=sse&limit=5",
                  "until=3"):
        problem(http.get(f"{path}?{query}"), 422, "invalid_request")
    assert problem(http.get(f"{path}?types=epochs"), 422, "invalid_request")["errors"][0]["suggestion"] == "epoch"
    for form in ("sse", "json", "ndjson", "text"):
        problem(http.get(f"/v1/jobs/job_no/events?format={form}"), 404, "not_found")


class Live:
    """A job that is held by this test."""

    def __init__(self, server: Running):
        self.server, self.store = server, server.store()
        self.job_id = server.http.post("/v1/jobs", json=FIRST).json()["id"]
        taken = self.store.claim("test", 600, {"pid": 1, "threads": 1})
        assert taken is not None and taken[0].job_id == self.job_id
        self.claim = taken[0]

    def tell(self, number: int) -> None:
        self.store.record(self.claim, events=[Event("step", f"Step {number}.", {"step": number})])

    def end(self) -> None:
        self.store.finish(self.claim, "succeeded", reason="completed", message="Done.")
        self.store.close()


@pytest.fixture
def live(server: Running) -> Iterator[Live]:
    made = Live(server)
    yield made
    if not made.store.head(made.job_id)[1]:        # type: ignore[index]
        made.end()


@contextmanager
def streaming(server: Running, job_id: str, **headers: str) -> Iterator[Iterator[str]]:
    with httpx.Client(base_url=server.url, timeout=30, trust_env=False) as client, \
            client.stream("GET", f"/v1/jobs/{job_id}/events?format=sse", headers=headers) as answer:
        yield answer.iter_lines()


def until(lines: Iterator[str], wanted: str) -> None:
    assert any(line == wanted for line in lines), f"the stream ended before {wanted!r}"


def test_an_event_reaches_open_streams(server: Running, live: Live) -> None:
    with streaming(server, live.job_id) as lines:
        until(lines, "id: 1")
        time.sleep(0.1)
        live.tell(1)
        until(lines, "id: 2")


def test_many_streams_each_tell_every_event_once(server: Running, live: Live) -> None:
    seen: dict[int, list[int]] = {}

    def watch(number: int) -> None:
        with streaming(server, live.job_id) as lines:
            seen[number] = [int(line[4:]) for line in lines if line.startswith("id: ")]

    threads = [threading.Thread(target=watch, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for number in range(100):
        live.tell(number)
    live.end()
    for thread in threads:
        thread.join(60)
    assert all(seen[number] == list(range(1, 103)) for number in range(20))


def test_a_stream_that_is_cut_again_and_again_misses_nothing(server: Running, live: Live) -> None:
    seen: list[int] = []

    def work() -> None:
        for number in range(60):
            live.tell(number)
        live.end()

    worker = threading.Thread(target=work)
    worker.start()
    while True:
        with streaming(server, live.job_id, **({"last-event-id": str(seen[-1])} if seen else {})) as lines:
            taken = 0
            for line in lines:
                if line.startswith("data: "):
                    seen.append(json.loads(line[6:])["seq"])
                    taken += 1
                if taken == 5:
                    break
            if taken < 5:
                break
    worker.join()
    assert seen == list(range(1, 63))


def test_a_list_waits_for_the_first_event(http: httpx.Client, live: Live) -> None:
    path = f"/v1/jobs/{live.job_id}/events?after=1"
    began = time.perf_counter()
    assert http.get(f"{path}&wait=0.3").json()["data"] == [] and time.perf_counter() - began > 0.25
    threading.Timer(0.3, live.tell, (7,)).start()
    began = time.perf_counter()
    found = http.get(f"{path}&wait=20").json()["data"]
    assert [event["data"] for event in found] == [{"step": 7}] and time.perf_counter() - began < 15
    live.end()
    assert http.get(f"/v1/jobs/{live.job_id}/events?after=3&wait=20").json()["data"] == []


def test_streams_are_given_back_when_clients_go_away(server: Running, live: Live) -> None:
    for _ in range(5):
        with streaming(server, live.job_id) as lines:
            until(lines, "id: 1")
    end = time.monotonic() + 30
    while time.monotonic() < end and "trainyard_sse_clients 0.0" not in server.http.get("/metrics").text:
        time.sleep(0.05)
    assert "trainyard_sse_clients 0.0" in server.http.get("/metrics").text


def test_too_many_streams_are_429(limited: Running) -> None:
    job_id = limited.http.post("/v1/jobs", json=SAMPLE_JOB).json()["id"]
    with streaming(limited, job_id) as lines:
        until(lines, "id: 1")
        answer = limited.http.get(f"/v1/jobs/{job_id}/events?format=sse")
        problem(answer, 429, "overloaded")
        assert int(answer.headers["retry-after"]) > 0


def test_a_stop_ends_streams_with_retry_and_answers_503(start_server: Any) -> None:
    server = start_server()
    job_id = server.http.post("/v1/jobs", json=JOB).json()["id"]
    with streaming(server, job_id) as lines:
        until(lines, "id: 1")
        began = time.monotonic()
        server.process.terminate()
        statuses = set()
        while time.monotonic() - began < 30:        # until it is gone
            try:
                answer = server.http.get("/healthz")
            except httpx.TransportError:
                break
            statuses.add(answer.status_code)
            if answer.status_code == 503:
                problem(answer, 503, "shutting_down")
                assert int(answer.headers["retry-after"]) > 0
        assert 503 in statuses
        assert "retry: 1000" in list(lines)
    server.process.wait(10)
    assert time.monotonic() - began < 10
