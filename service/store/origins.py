"""What jobs begin with: the rows of the files that `service.origins` has put in place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import insert, select, update

from service import jobs as states
from service.store.changes import Row
from service.store.database import Database
from service.store.tables import checkpoints, jobs

CARRIED = ("epoch", "step", "metrics", "best", "progress", "message")


class Origins(Database):
    def begin_from(self, job: Row, origin: Mapping[str, Any], *, checkpoint: Mapping[str, Any] | None = None,
                   columns: Mapping[str, Any] | None = None) -> Row:
        """A job that was queued in this transaction begins with a file: `origin` says which. With a `checkpoint` it goes on from there, and has what
        a job has that came so far by itself (`columns`).
        """
        if unknown := set(columns or {}) - set(CARRIED):
            raise ValueError(f"a job does not begin with {sorted(unknown)}")
        with self.write("begin_from") as connection:
            found: Row = {"origin": dict(origin), **(columns or {})}
            if origin.get("kind") == "fork" and job.get("device") == states.ANY:      # it goes on with the bits of one longer job
                found["device"] = connection.execute(select(jobs.c.device).where(jobs.c.id == origin.get("job"))).scalar() or states.ANY
                found["status_reason"] = states.awaited(found["device"])[0]
            connection.execute(update(jobs).where(jobs.c.id == job["id"]).values(**found))
            if checkpoint is not None:
                row = {"kept": False, **checkpoint, "last": True, "job_id": job["id"], "fence": 0, "created_at": states.now()}
                connection.execute(insert(checkpoints), row)
            return {**job, **found}
