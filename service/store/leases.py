"""Who trains what: claims, leases, and what becomes of a job whose worker lets go or is lost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Unpack

from sqlalchemy import Connection, and_, bindparam, func, insert, or_, select, update

from service import jobs as states
from service.jobs import LET_GO, Claim, Event
from service.store.asking import OWN
from service.store.changes import Row, held, last_checkpoint_step, let_go
from service.store.database import Database
from service.store.notes import Note, write_note
from service.store.record import Recorded
from service.store.tables import attempts, jobs

FAR = 10    # a lease whose end is more lease times away than this, before or behind, was written by another clock: it is over, and nobody's fault

_EXPIRED = or_(jobs.c.lease_expires_at < bindparam("now"), jobs.c.lease_expires_at > bindparam("far"))
_TAKEN = bindparam("taken", expanding=True)
_ANY = select(jobs.c.id).where(or_(and_(jobs.c.status == "queued", jobs.c.device.in_(_TAKEN)), _EXPIRED)).limit(1)
_ORPHANS = select(jobs).where(_EXPIRED)
_HELD = [jobs.c[name] for name in ("id", "fence", "attempt", "status", "step", "stop_requested_at", "worker")]

# Owners take turns: who has fewest jobs running, of equals who was served longest ago. Priority orders the jobs of one owner. Every look is at the
# front of an index, so that a claim costs the number of owners who wait, not of jobs: but for those in front that another kind of worker trains.
_QUEUE, _MORE, _HERS = jobs.alias("waiting"), jobs.alias("more"), jobs.alias("hers")
_FIRST = select(func.min(_QUEUE.c.owner).label("owner")).where(_QUEUE.c.status == "queued").cte("owners", recursive=True)
_OWNERS = _FIRST.union_all(select(select(func.min(_MORE.c.owner)).where(_MORE.c.status == "queued", _MORE.c.owner > _FIRST.c.owner).scalar_subquery())
                           .where(_FIRST.c.owner.isnot(None)))
_HEAD = select(_QUEUE.c.id).where(
    _QUEUE.c.status == "queued", _QUEUE.c.owner == _OWNERS.c.owner, _QUEUE.c.device.in_(_TAKEN)).order_by(
    _QUEUE.c.priority.desc(), _QUEUE.c.id).limit(1).with_for_update(skip_locked=True).correlate(_OWNERS).scalar_subquery()
_BUSY = select(func.count()).select_from(_HERS).where(
    _HERS.c.status.in_(sorted(states.HELD)), _HERS.c.owner == _OWNERS.c.owner).correlate(_OWNERS).scalar_subquery()
_SERVED = select(func.max(_HERS.c.started_at)).where(_HERS.c.owner == _OWNERS.c.owner).correlate(_OWNERS).scalar_subquery()
_HEADS = select(_HEAD.label("id"), _BUSY.label("busy"), _SERVED.label("served")).select_from(_OWNERS).where(
    _OWNERS.c.owner.isnot(None), or_(_OWNERS.c.owner == OWN, bindparam("most") > _BUSY)).subquery("heads")
_NEXT = select(_HEADS.c.id).where(_HEADS.c.id.isnot(None)).order_by(_HEADS.c.busy, _HEADS.c.served.nulls_first(), _HEADS.c.id).limit(1)
_CLAIM = update(jobs).where(jobs.c.id == _NEXT.scalar_subquery()).values(
    status="running", status_reason=None, message="A worker has taken the job.", fence=jobs.c.fence + 1, attempt=jobs.c.attempt + 1,
    version=jobs.c.version + 1, lease_owner=bindparam("this_owner"), lease_expires_at=bindparam("expires"),
    device=bindparam("this_device", type_=jobs.c.device.type), worker=bindparam("worker_now", type_=jobs.c.worker.type),
    started_at=func.coalesce(jobs.c.started_at, bindparam("moment"))).returning(*jobs.c)


class Leases(Database):
    def claim(self, owner: str, lease_seconds: float, worker: Mapping[str, Any] | None = None,
              most: int = 1 << 30, device: str = "cpu", others: bool = True) -> tuple[Claim, Row] | None:
        """Take the next queued job for `owner` (the supervisor that will renew the lease): of the owner whose turn it is the job of highest
        priority, the oldest of equals. An owner has at most `most` running, but for what the service's own token queued.
        It is one for `device`, or with `others` one for any, which from here on is one for this device.

        Jobs whose lease has expired go back to the queue (or end) first. `worker` is {"pid", "threads"}. None when nothing waits.
        """
        moment = states.seconds_now()
        bounds = {"now": moment, "far": moment + FAR * lease_seconds}
        taken = [device, states.ANY] if others else [device]
        with self.read() as connection:
            if connection.execute(_ANY, {**bounds, "taken": taken}).scalar() is None:
                return None
        with self.write("claim") as connection:
            for row in connection.execute(_ORPHANS, bounds).mappings().all():
                self._expire(connection, dict(row), abs(row["lease_expires_at"] - moment) <= FAR * lease_seconds)
                self.tell("lease_expired", row["id"])
            row = connection.execute(_CLAIM, {"this_owner": owner, "expires": states.seconds_now() + lease_seconds, "moment": states.now(),
                                              "this_device": device, "taken": taken, "most": most,
                                              "worker_now": dict(worker) if worker else None}).mappings().first()
            if row is None:
                return None
            job = dict(row)
            connection.execute(insert(attempts), {"job_id": job["id"], "attempt": job["attempt"], "fence": job["fence"], "owner": owner,
                                                  "started_at": states.now(), "from_step": last_checkpoint_step(connection, job["id"])})
            return Claim(job["id"], job["fence"], job["attempt"], owner), job

    def renew(self, owner: str, lease_seconds: float) -> list[Row]:
        """Renew every lease of `owner`; returns what it holds: id, fence, attempt, status, step, stop_requested_at, worker."""
        with self.write("renew") as connection:
            query = update(jobs).where(jobs.c.lease_owner == owner).values(lease_expires_at=states.seconds_now() + lease_seconds).returning(*_HELD)
            return [dict(row) for row in connection.execute(query).mappings()]

    def owned(self, owner: str | None = None) -> list[Row]:
        """What `owner` (or anybody) holds, without renewing it; also lease_owner and lease_expires_at."""
        mine = jobs.c.lease_owner.isnot(None) if owner is None else jobs.c.lease_owner == owner
        query = select(*_HELD, jobs.c.lease_owner, jobs.c.lease_expires_at).where(mine)
        with self.read() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def release(self, claim: Claim, reason: str = "draining", **note: Unpack[Note]) -> Recorded:
        """The worker lets go as it was asked to: running goes back to the queue, pausing becomes paused, cancelling cancelled.

        It never counts as a loss. What `record` would write comes first, in the same transaction.
        """
        with self.write("release") as connection:
            job, removed = write_note(connection, held(connection, claim), note)
            status = LET_GO[job["status"]]
            ended_by = reason if status == "queued" else status
            return Recorded(self._return(connection, job, status, reason if status == "queued" else "user_request", ended_by), removed)

    def lost(self, job_id: str, fence: int, *, code: str = "worker_lost", kind: str = "system", message: str = "The worker was lost.",
             hint: str | None = None, **note: Unpack[Note]) -> Row:
        """The trainer died, stalled, broke a limit, or met what is not the job's fault. Pausing becomes paused, cancelling cancelled. A running job
        goes back to the queue when `kind` is "system", until `max_attempts` in a row were lost without a new checkpoint; else it fails with `code`.

        What `record` would write comes first. StaleFence when the claim is over.
        """
        with self.write("lost") as connection:
            job, _ = write_note(connection, held(connection, Claim(job_id, fence, 0, "")), note)
            return self._lose(connection, job, code, kind, message, hint)

    def _expire(self, connection: Connection, job: Row, counts: bool) -> None:
        """A lease was not renewed; where the clock has jumped, it does not count as a loss."""
        if counts:
            self._lose(connection, job, "worker_lost", "system", "The worker was not heard of any more.", None)
        else:
            status = LET_GO[job["status"]]
            self._return(connection, job, status, "worker_lost" if status == "queued" else "user_request", "worker_lost")

    def _lose(self, connection: Connection, job: Row, code: str, kind: str, message: str, hint: str | None) -> Row:
        status = LET_GO[job["status"]]
        if status != "queued":
            return self._return(connection, job, status, "user_request", code)
        losses = job["losses"] + (kind == "system")
        if kind == "system" and losses < job["max_attempts"]:
            return self._return(connection, job, "queued", "worker_lost", code, losses)
        if kind == "system":
            message = f"{message} This was attempt {job['attempt']}; {losses} in a row ended without a new checkpoint."
        error = {"kind": kind, "code": code, "message": message, "epoch": job["epoch"], "step": job["step"], "retryable": kind != "user"}
        self.tell("events", job["id"])
        columns = {"status": "failed", "status_reason": code, "losses": losses, "message": message, "hint": hint, "error": error}
        return let_go(connection, job, code, [Event("job.failed", message, {"error": error}, "error")], columns)

    def _return(self, connection: Connection, job: Row, status: str, why: str, ended_by: str, losses: int | None = None) -> Row:
        """A hold that ends without a result: back to the queue, paused or cancelled."""
        step = last_checkpoint_step(connection, job["id"])
        message = {"queued": f"The job goes back to the queue ({ended_by}) and goes on from step {step}.",
                   "paused": f"The job is paused at step {step}.", "cancelled": "The job was cancelled."}[status]
        event = Event(f"job.{status}", message)
        if status == "queued":
            event = Event("job.requeued", message, {"reason": ended_by, "resumed_from": step}, "warn")
            self.tell("queue", job["id"])
        self.tell("events", job["id"])
        columns = {"status": status, "status_reason": why, "message": message, "losses": job["losses"] if losses is None else losses}
        return let_go(connection, job, ended_by, [event], columns)

