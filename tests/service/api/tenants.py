"""A service that several people share: its own token, and one of each kind for people."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx
from running import JOB, Running

from service.jobs import Event
from service.store import Store
from service.store.asking import Asker, asking

ROOT = "root-token"
LIMITS = {"TRAINYARD_TOKEN": ROOT, "TRAINYARD_MAX_QUEUED_PER_TOKEN": "5", "TRAINYARD_MAX_STREAMS_PER_TOKEN": "1",
          "TRAINYARD_MAX_UPLOADS_PER_TOKEN": "2", "TRAINYARD_MAX_STORAGE_BYTES_PER_TOKEN": "4000",
          "TRAINYARD_MAX_REQUESTS_PER_MINUTE": "150", "TRAINYARD_MAX_REFUSALS_PER_MINUTE": "1000"}
_numbers = itertools.count()


@dataclass
class Person:
    """Somebody with a token."""

    server: Running
    token: str
    id: str = ""
    owner: str = ""

    def ask(self, method: str, path: str, headers: Mapping[str, str] = {}, **request: Any) -> httpx.Response:
        known = {"authorization": f"Bearer {self.token}"} if self.token else {}
        return self.server.http.request(method, path, headers={**known, **headers}, **request)

    def get(self, path: str, **request: Any) -> httpx.Response:
        return self.ask("GET", path, **request)

    def post(self, path: str, json: Any = None, **request: Any) -> httpx.Response:
        return self.ask("POST", path, json=json, **request)

    def job(self, **more: Any) -> str:
        """The id of a queued job."""
        answer = self.post("/v1/jobs", {**JOB, **more})
        assert answer.status_code == 202, answer.text
        return answer.json()["id"]

    def dataset(self, marker: str = "x") -> str:
        answer = self.post("/v1/datasets", {"name": marker, "columns": {"x": [1.0, 2.0, 3.0], "y": [0, 1, 0]}})
        assert answer.status_code == 201, answer.text
        return answer.json()["id"]

    def store(self) -> Store:
        return self.server.store()

    def publish(self, name: str, job_id: str) -> None:
        """Give a name to a job that has a checkpoint in the store, but no file."""
        store = self.store()
        with asking(Asker(owner=self.owner, scope="submit")):
            store.publish(name, job_id)
        store.close()

    def finished(self, **more: Any) -> str:
        """The id of a job that has succeeded, with the row of a checkpoint."""
        job_id, store = self.job(**more), self.store()
        while True:
            claim, row = store.claim("test", 60) or (None, None)
            assert claim is not None and row is not None
            store.record(claim, events=[Event("epoch", "Epoch 1.", {"epoch": 1, "train_loss": 1.0}, key="epoch:1")],
                         checkpoint={"step": 2, "epoch": 1, "metrics": {}, "path": "jobs/none", "bytes": 1, "sha256": "0", "best": True})
            store.finish(claim, "succeeded", reason="completed", message="Done.")
            if claim.job_id == job_id:
                store.close()
                return job_id


def root(server: Running) -> Person:
    return Person(server, ROOT)


def person(server: Running, scope: str = "submit", **more: Any) -> Person:
    """Somebody new."""
    answer = root(server).post("/v1/tokens", {"name": f"person {next(_numbers)}", "scopes": [scope], **more})
    assert answer.status_code == 201, answer.text
    made = answer.json()
    return Person(server, made["token"], made["id"], made["owner"])
