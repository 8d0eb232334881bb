"""The one way in which a job's row changes: with its events, through the table of transitions, under its fence."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, insert, select, update

from service import jobs as states
from service.errors import StaleFence, not_found
from service.jobs import Claim, EventLike
from service.store.tables import attempts, checkpoints, events, jobs

Row = dict[str, Any]
HOLDING = [column for column in jobs.c if column.name not in ("spec", "summary", "metadata", "warnings")]      # large, and not a trainer's to read
UNHELD: Row = {"lease_owner": None, "lease_expires_at": None, "worker": None, "stop_requested_at": None, "eta_seconds": None}


def find(connection: Connection, job_id: str) -> Row:
    """The job's row, locked for the rest of the transaction; 404 when there is none."""
    row = connection.execute(select(jobs).where(jobs.c.id == job_id).with_for_update()).mappings().first()
    if row is None:
        raise not_found("job", job_id)
    return dict(row)


def held(connection: Connection, claim: Claim) -> Row:
    """The row (HOLDING) of a job that `claim` still holds; else StaleFence."""
    row = connection.execute(select(*HOLDING).where(jobs.c.id == claim.job_id).with_for_update()).mappings().first()
    if row is None or row["fence"] != claim.fence or row["status"] not in states.HELD:
        raise StaleFence(claim.job_id, claim.fence)
    return dict(row)


def change(connection: Connection, job: Row, happened: Iterable[EventLike], columns: Row) -> Row:
    """Write `columns` of a row read in this transaction and append what happened. A new status must be in the table of transitions."""
    if "status" in columns:
        states.transition(job["status"], columns["status"])
    columns = {**columns, "seq": append(connection, job, happened), "version": job["version"] + 1}
    connection.execute(update(jobs).where(jobs.c.id == job["id"]).values(columns))
    return {**job, **columns}


def let_go(connection: Connection, job: Row, ended_by: str, happened: Iterable[EventLike], columns: Row) -> Row:
    """The end of a worker's hold on a job: the attempt is closed, the lease given back, and the job becomes `columns["status"]`."""
    closed = {"ended_at": states.now(), "ended_by": ended_by, "to_step": columns.get("step", job["step"])}
    connection.execute(update(attempts).where(attempts.c.job_id == job["id"], attempts.c.attempt == job["attempt"]).values(closed))
    return change(connection, job, happened, {**UNHELD, **ending(columns["status"]), **columns})


def ending(status: str) -> Row:
    """The columns that every job gets with its last status."""
    if status not in states.TERMINAL:
        return {}
    moment = states.now()
    return {"finished_at": moment, "used_at": moment}


def append(connection: Connection, job: Row, happened: Iterable[EventLike]) -> int:
    """Give events their numbers and store them; those whose key the job already has are dropped. Returns the job's last number."""
    fresh = list(happened)
    if not fresh:
        return job["seq"]
    if keys := [event.key for event in fresh if event.key is not None]:
        known = set(connection.execute(select(events.c.key).where(events.c.job_id == job["id"], events.c.key.in_(keys))).scalars())
        fresh = [event for event in fresh if event.key is None or event.key not in known]
    moment = states.now()
    rows = [{"job_id": job["id"], "seq": seq, "type": event.type, "level": event.level, "message": event.message, "data": dict(event.data),
             "key": event.key, "fence": job["fence"], "created_at": moment} for seq, event in enumerate(fresh, job["seq"] + 1)]
    if rows:
        connection.execute(insert(events), rows)
    return job["seq"] + len(rows)


def last_checkpoint_step(connection: Connection, job_id: str) -> int:
    """The step of the newest checkpoint; 0 when there is none."""
    return connection.execute(select(checkpoints.c.step).where(checkpoints.c.job_id == job_id, checkpoints.c.last).limit(1)).scalar() or 0
