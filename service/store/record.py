"""What a trainer writes while it holds a job, and the end of the job. All of one call or nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Unpack

from service.jobs import Claim, Event
from service.store.changes import Row, held, let_go
from service.store.database import Database
from service.store.models import publish_model
from service.store.notes import Note, write_note


@dataclass(frozen=True)
class Recorded:
    """The answer to a write: the job as it is now, without its large columns, and files below home that no row names any more."""

    job: Row
    removed: list[str] = field(default_factory=list)

    @property
    def status(self) -> str:
        """Other than "running", it asks the trainer to stop."""
        return self.job["status"]


class Record(Database):
    def record(self, claim: Claim, **note: Unpack[Note]) -> Recorded:
        """Write what happened in training (see Note). StaleFence, and nothing written, when the claim is over."""
        with self.write("record") as connection:
            self.tell("events", claim.job_id)
            return Recorded(*write_note(connection, held(connection, claim), note))

    def finish(self, claim: Claim, status: str, *, reason: str, message: str, hint: str | None = None, error: Mapping[str, Any] | None = None,
               publish: str | None = None, published: str = "last", **note: Unpack[Note]) -> Recorded:
        """End the job as "succeeded" or "failed", with its last event, after what `record` would write.

        `publish` gives the model, at its checkpoint `published`, a name in the same transaction.
        """
        with self.write("finish") as connection:
            row, removed = write_note(connection, held(connection, claim), note)
            ending: Row = {"status": status, "status_reason": reason, "message": message, "hint": hint, "error": error and dict(error)}
            if status == "succeeded":
                named = {"published": publish} if publish is not None else {}
                last = Event("job.succeeded", message, {"metrics": row["metrics"], "best": row["best"], **named})
                ending["progress"] = 1.0
            else:
                last = Event(f"job.{status}", message, {"error": ending["error"]}, "error")
            row = let_go(connection, row, status, [last], ending)
            if publish is not None:
                publish_model(connection, publish, claim.job_id, published)
            self.tell("events", claim.job_id)
            return Recorded(row, removed)

    def holds(self, claim: Claim) -> Row:
        """The job's row if the claim still holds it; else StaleFence. A cheap look between batches."""
        with self.read() as connection:
            return held(connection, claim, locked=False)
