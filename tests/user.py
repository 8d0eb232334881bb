"""What a user of the HTTP API does: upload, submit, follow, ask."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx

Event = dict[str, Any]
PATIENCE = 240.0        # seconds for a job of a test to end: less than a test has


class User:
    """Talks to one service with nothing but HTTP."""

    def __init__(self, url: str):
        self.http = httpx.Client(base_url=url, timeout=60, trust_env=False)

    def get(self, path: str, **query: Any) -> Any:
        return self._told(self.http.get(path, params=query))

    def post(self, path: str, body: Any) -> Any:
        return self._told(self.http.post(path, json=body))

    def upload(self, name: str, **sent: Any) -> str:
        """A dataset from a file (`content`, `headers`) or from parts (`files`); its id."""
        return self._told(self.http.post("/v1/datasets", params={"name": name}, **sent))["id"]

    def submit(self, spec: dict[str, Any]) -> str:
        """Queue a job; its id."""
        answer = self.http.post("/v1/jobs", json=spec)
        job = self._told(answer)
        assert answer.status_code == 202 and answer.headers["location"] == f"/v1/jobs/{job['id']}"
        return job["id"]

    def refused(self, spec: dict[str, Any] | str) -> list[dict[str, Any]]:
        """The errors of a job that is not taken."""
        answer = self.http.post("/v1/jobs", content=spec if isinstance(spec, str) else json.dumps(spec), headers={"content-type": "application/json"})
        assert answer.status_code == 422 and answer.headers["content-type"] == "application/problem+json", answer.text
        return answer.json()["errors"]

    def stream(self, job_id: str, after: int = 0, until: float = math.inf) -> Iterator[Event]:
        """The events of one connection after a number, as they come. What the connection does not tell whole is not told. It ends `until` that time
        of the monotonic clock, or with the first line after it: there is one every 15 s."""
        headers = {"accept": "text/event-stream", **({"last-event-id": str(after)} if after else {})}
        with self.http.stream("GET", f"/v1/jobs/{job_id}/events", headers=headers) as answer:
            assert answer.status_code in (200, 204), answer.read()
            fields: dict[str, str] = {}
            for line in answer.iter_lines():
                if time.monotonic() > until:
                    return
                name, _, value = line.partition(": ")
                fields[name] = value
                if not line and "data" in fields:
                    event = json.loads(fields["data"])
                    assert fields["id"] == str(event["seq"]) and fields["event"] == event["type"]
                    yield event
                if not line:
                    fields = {}

    def watch(self, job_id: str, each: Callable[[Event], bool] = lambda event: False, seconds: float = PATIENCE) -> list[Event]:
        """All events up to the last one, over as many connections as it takes; `each` sees them as they come and may cut the connection. Where the
        job does not end in so many seconds, an AssertionError tells how far it came; what the service wrote is in the test's captured output."""
        told, lost, until = list[Event](), "", time.monotonic() + seconds
        while not told or told[-1]["type"] not in ("job.succeeded", "job.failed", "job.cancelled"):
            assert time.monotonic() < until, (f"{job_id} has not ended in {seconds:g} s; {self._state_of(job_id)}; {len(told)} events came, "
                                              f"the last of them {told[-1:]}{lost}")
            try:
                for event in self.stream(job_id, told[-1]["seq"] if told else 0, until):
                    told.append(event)
                    if each(event):
                        break
            except httpx.TransportError as error:
                lost = f"; the last connection was lost: {error!r}"
                time.sleep(0.01)
        return told

    def _state_of(self, job_id: str) -> str:
        """What the service says of a job that does not end, and of itself."""
        try:
            job, ready, live = self.http.get(f"/v1/jobs/{job_id}"), self.http.get("/readyz"), self.http.get("/v1/jobs?status=running")
        except httpx.TransportError as error:
            return f"the service does not answer: {error!r}"
        shown = {name: job.json().get(name) for name in ("status", "status_reason", "queue_position", "epoch", "epochs", "attempts", "worker")}
        return f"the service says {shown}, runs {[one['id'] for one in live.json()['data']]} and is {ready.text}"

    def train(self, spec: dict[str, Any], seconds: float = PATIENCE) -> tuple[str, list[Event]]:
        """A job that succeeds in so many seconds: its id and its events."""
        job_id = self.submit(spec)
        events = self.watch(job_id, seconds=seconds)
        assert events[-1]["type"] == "job.succeeded", events[-1]
        assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
        return job_id, events

    @staticmethod
    def _told(answer: httpx.Response) -> Any:
        assert answer.is_success, answer.text
        return answer.json()


def epochs(events: list[Event]) -> list[dict[str, Any]]:
    """The data of the epoch events."""
    return [event["data"] for event in events if event["type"] == "epoch"]
