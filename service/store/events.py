"""Reading events: a stream is a replay of these rows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import RowMapping, select

from service import jobs as states
from service.store.asking import sees
from service.store.database import Database
from service.store.tables import events, jobs

TERMINAL = list(states.TERMINAL_EVENTS)


class Events(Database):
    def events(self, job_id: str, *, after: int = 0, limit: int = 100, types: Iterable[str] = ()) -> list[dict[str, Any]]:
        """Events with a number above `after`, oldest first, as they go over the wire; with `types`, only these and the terminal event."""
        query = select(events).where(events.c.job_id == job_id, events.c.seq > after).order_by(events.c.seq).limit(limit)
        if wanted := list(types):
            query = query.where(events.c.type.in_(wanted + TERMINAL))
        with self.read() as connection:
            return [_wire(row) for row in connection.execute(query).mappings()]

    def head(self, job_id: str) -> tuple[int, bool] | None:
        """The number of the job's last event, and whether that one was the terminal one; None without such a job."""
        with self.read() as connection:
            row = connection.execute(select(jobs.c.seq, jobs.c.status, jobs.c.owner).where(jobs.c.id == job_id)).mappings().first()
        return None if row is None or not sees(row, job_id) else (row["seq"], row["status"] in states.TERMINAL)


def _wire(row: RowMapping) -> dict[str, Any]:
    return {"object": "job.event", "id": states.event_id(row["job_id"], row["seq"]), "job_id": row["job_id"], "seq": row["seq"], "type": row["type"],
            "level": row["level"], "message": row["message"], "data": row["data"], "created_at": row["created_at"]}
