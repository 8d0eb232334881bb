"""The one way in which a job's row changes: with its events, through the table of transitions, under its fence."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, bindparam, insert, select, update

from service import jobs as states
from service.errors import StaleFence, not_found
from service.jobs import Claim, EventLike
from service.store import outbox
from service.store.asking import sees
from service.store.tables import attempts, checkpoints, events, jobs

Row = dict[str, Any]
HOLDING = [column for column in jobs.c if column.name not in ("spec", "summary", "metadata", "warnings")]      # large, and not a trainer's to read

# Statements are made once: making one costs as much as running it.
_THIS = jobs.c.id == bindparam("this_job")
ONE_JOB = select(jobs).where(_THIS)
_FIND, _LOOK, _CHANGE = ONE_JOB.with_for_update(), select(*HOLDING).where(_THIS), update(jobs).where(_THIS)
_HELD = _LOOK.with_for_update()
_CLOSE = update(attempts).where(attempts.c.job_id == bindparam("this_job"), attempts.c.attempt == bindparam("this_attempt"))
_KEYS = select(events.c.key).where(events.c.job_id == bindparam("this_job"), events.c.key.in_(bindparam("keys", expanding=True)))
_LAST_STEP = select(checkpoints.c.step).where(checkpoints.c.job_id == bindparam("this_job"), checkpoints.c.last).limit(1)
_APPEND = insert(events)

UNHELD: Row = {"lease_owner": None, "lease_expires_at": None, "worker": None, "stop_requested_at": None, "eta_seconds": None}


def find(connection: Connection, job_id: str) -> Row:
    """The job's row, locked for the rest of the transaction; 404 when there is none."""
    row = connection.execute(_FIND, {"this_job": job_id}).mappings().first()
    if row is None or not sees(row):
        raise not_found("job", job_id)
    return dict(row)


def held(connection: Connection, claim: Claim, locked: bool = True) -> Row:
    """The row (HOLDING) of a job that `claim` still holds, locked for the rest of the transaction; else StaleFence."""
    row = connection.execute(_HELD if locked else _LOOK, {"this_job": claim.job_id}).mappings().first()
    if row is None or row["fence"] != claim.fence or row["status"] not in states.HELD:
        raise StaleFence(claim.job_id, claim.fence)
    return dict(row)


def change(connection: Connection, job: Row, happened: Iterable[EventLike], columns: Row) -> Row:
    """Write `columns` of a row read in this transaction and append what happened. A new status must be in the table of transitions."""
    if "status" in columns:
        states.transition(job["status"], columns["status"])
    columns = {**columns, "seq": append(connection, {**job, **columns}, happened), "version": job["version"] + 1}
    connection.execute(_CHANGE, {"this_job": job["id"], **columns})
    return {**job, **columns}


def let_go(connection: Connection, job: Row, ended_by: str, happened: Iterable[EventLike], columns: Row) -> Row:
    """The end of a worker's hold on a job: the attempt is closed, the lease given back, and the job becomes `columns["status"]`."""
    closed = {"ended_at": states.now(), "ended_by": ended_by, "to_step": columns.get("step", job["step"])}
    connection.execute(_CLOSE, {"this_job": job["id"], "this_attempt": job["attempt"], **closed})
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
        known = set(connection.execute(_KEYS, {"this_job": job["id"], "keys": keys}).scalars())
        fresh = [event for event in fresh if event.key is None or event.key not in known]
    moment = states.now()
    rows = [{"job_id": job["id"], "seq": seq, "type": event.type, "level": event.level, "message": event.message, "data": dict(event.data),
             "key": event.key, "fence": job["fence"], "created_at": moment} for seq, event in enumerate(fresh, job["seq"] + 1)]
    if not rows:
        return job["seq"]
    connection.execute(_APPEND, rows)
    last = job["seq"] + len(rows)
    if job["webhooks"] and outbox.post(connection, job, rows):
        return append(connection, {**job, "seq": last}, [outbox.LEFT_OUT])
    return last


def last_checkpoint_step(connection: Connection, job_id: str) -> int:
    """The step of the newest checkpoint; 0 when there is none."""
    return connection.execute(_LAST_STEP, {"this_job": job_id}).scalar() or 0
