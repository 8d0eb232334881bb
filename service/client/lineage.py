"""Forks, and models by name, from Python."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from service.client.connection import Connection
from service.client.objects import Answer, Job, Object
from service.client.uploads import plain

JOB = "job_"        # how ids of jobs begin, and no name does


class Model(Answer):
    """What a name answers with: a job's checkpoint. `history`, newest first, has what it answered with before."""

    id: str
    name: str
    job: str
    checkpoint: str
    created_at: str
    history: list[Object] = []


class Lineage:
    """The calls about what comes of a job's checkpoints."""

    connection: Connection

    def fork(self, job_id: str, *, more_epochs: int | None = None, checkpoint: str | int = "last", changes: Mapping[str, Any] | None = None,
             state: str = "keep") -> Job:
        """Queue a new job that goes on from a checkpoint: for longer, and changed (a merge patch of the job). With state "reset" it begins with the
        parameters alone.
        """
        given = {"checkpoint": checkpoint, "more_epochs": more_epochs, "changes": None if changes is None else plain(changes), "state": state}
        asked = {name: value for name, value in given.items() if value is not None}
        once = {"Idempotency-Key": str(uuid.uuid4())}
        return Job.model_validate(self.connection.json("POST", f"/v1/jobs/{job_id}/fork", json=asked, headers=once))

    def publish(self, name: str, job_id: str, *, checkpoint: str | int = "last") -> Model:
        """From now on the name answers with this model. `predict`, `evaluate`, `generate` and `download` take names too."""
        return Model.model_validate(self.connection.json("PUT", f"/v1/models/{name}", json={"job": job_id, "checkpoint": checkpoint}))

    def model(self, name: str) -> Model:
        return Model.model_validate(self.connection.json("GET", f"/v1/models/{name}"))

    def answering(self, model: str) -> tuple[str, str]:
        """(id of the job, checkpoint) of a model: a job's by its id, any other's by its name."""
        if model.startswith(JOB):
            return model, "last"
        found = self.model(model)
        return found.job, found.checkpoint

    def models(self) -> Iterator[Model]:
        """All names, those given last first."""
        after: dict[str, str] = {}
        while True:
            page = self.connection.json("GET", "/v1/models", params={**after, "limit": "100"})
            yield from map(Model.model_validate, page["data"])
            if not page["has_more"]:
                return
            after = {"after": page["last_id"]}

    def unpublish(self, name: str) -> None:
        """Remove a name; the jobs stay."""
        self.connection.send(lambda: self.connection.http.delete(f"/v1/models/{name}"))


def place(model: str) -> str:
    """The path of a model: a job's by its id, any other's by its name."""
    return f"/v1/jobs/{model}" if model.startswith(JOB) else f"/v1/models/{model}"
