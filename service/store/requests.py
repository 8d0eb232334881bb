"""What a client may ask of a job that exists: cancel, pause, resume, adjust."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Connection, Table, func, insert, select

from service import jobs as states
from service.errors import ServiceError, conflict
from service.jobs import Event
from service.store.changes import Row, change, ending, find
from service.store.database import Database
from service.store.tables import adjustments, blocks, checkpoints

ADJUSTABLE = ("queued", "running", "paused")
MOST_CHANGES = 1000         # of one job: each attempt reads them all


class Requests(Database):
    def request_cancel(self, job_id: str) -> Row:
        """A waiting or paused job is cancelled at once; of a running one it is asked (`cancelling`). 409 for a terminal job."""
        with self.write("request_cancel") as connection:
            job = find(connection, job_id)
            if job["status"] == "cancelling":
                return job
            if job["status"] in ("queued", "paused"):
                message = "The job was cancelled before it started." if job["status"] == "queued" else "The paused job was cancelled."
                job = change(connection, job, [Event("job.cancelled", message)], {**_asked("cancelled", message), **ending("cancelled")})
            elif "cancelling" in states.allowed(job["status"]):
                message = "The job stops after the current batch."
                columns = {**_asked("cancelling", message), "stop_requested_at": states.now()}
                job = change(connection, job, [Event("job.cancelling", message)], columns)
                self.tell("stop", job_id)
            else:
                raise _refused(job, "cancelled")
            self.tell("events", job_id)
            return job

    def request_pause(self, job_id: str) -> Row:
        """Ask a running job to write a checkpoint and let go (`pausing`). 409 unless it is running, pausing or paused."""
        with self.write("request_pause") as connection:
            job = find(connection, job_id)
            if job["status"] in ("pausing", "paused"):
                return job
            if job["status"] != "running":
                raise _refused(job, "paused")
            message = "The job writes a checkpoint and pauses."
            columns = {**_asked("pausing", message), "stop_requested_at": states.now()}
            job = change(connection, job, [Event("job.pausing", message)], columns)
            self.tell("stop", job_id)
            self.tell("events", job_id)
            return job

    def resume(self, job_id: str) -> Row:
        """Put a paused job back into the queue. 409 in any other state."""
        with self.write("resume") as connection:
            job = find(connection, job_id)
            if job["status"] != "paused":
                raise _refused(job, "resumed")
            why, what = states.awaited(job["device"])
            message = f"The job waits for {what} to go on."
            columns = {"status": "queued", "status_reason": why, "message": message}
            job = change(connection, job, [Event("job.resumed", message)], columns)
            self.tell("queue", job_id)
            self.tell("events", job_id)
            return job

    def adjust(self, job_id: str, changes: Mapping[str, Any], *, epochs: int | None = None) -> Row:
        """Note a live change for the run to take up; `epochs` is the new total, if it changes. 409, naming fork, when the job can take none up."""
        with self.write("adjust") as connection:
            job = find(connection, job_id)
            if job["status"] not in ADJUSTABLE:
                raise no_more_changes(job)
            number = 1 + (_largest(connection, adjustments, "number", job_id) or 0)
            if number > MOST_CHANGES:
                raise conflict(f"the job was changed {MOST_CHANGES:,} times already: fork it with these changes instead")
            connection.execute(insert(adjustments), {"job_id": job_id, "number": number, "changes": dict(changes), "created_at": states.now()})
            self.tell("stop", job_id)
            return change(connection, job, (), {} if epochs is None else _lengthened(job, epochs))

    def adjustments(self, job_id: str, *, after: int = 0) -> list[Row]:
        """The live changes after number `after`, oldest first: number, changes, and the epoch and step where it took effect (None: not yet)."""
        return self.all_adjustments([job_id], after=after).get(job_id, [])

    def all_adjustments(self, job_ids: Iterable[str], *, after: int = 0) -> dict[str, list[Row]]:
        """`adjustments` of several jobs, for those that have any."""
        query = select(adjustments).where(adjustments.c.job_id.in_(list(job_ids)), adjustments.c.number > after).order_by(adjustments.c.number)
        found: dict[str, list[Row]] = {}
        with self.read() as connection:
            for row in connection.execute(query).mappings():
                found.setdefault(row["job_id"], []).append({name: value for name, value in row.items() if name != "job_id"})
        return found

    def published_step(self, job_id: str) -> int:
        """The furthest step of which anything was told: a live change from now on takes effect there or later, so that what was told stays true."""
        with self.read() as connection:
            told = [_largest(connection, table, column, job_id) for table, column in ((blocks, "last_step"), (checkpoints, "step"))]
        return int(max(step or 0 for step in told))


def no_more_changes(job: Mapping[str, Any]) -> ServiceError:
    """409, naming fork, for a job whose run cannot be changed any more."""
    return conflict(f"the job is {job['status']} and takes up no more changes: fork it with them instead (POST /v1/jobs/{job['id']}/fork)",
                    allowed=list(states.allowed(job["status"])))


def _largest(connection: Connection, table: Table, column: str, job_id: str) -> Any:
    return connection.execute(select(func.max(table.c[column])).where(table.c.job_id == job_id)).scalar()


def _lengthened(job: Row, epochs: int) -> Row:
    """The columns of a job that is to have so many epochs: what is done is another share of it, and the rest takes another time."""
    rest, progress = job["epochs"] - job["epoch"], min(1.0, job["progress"] * job["epochs"] / epochs)
    eta = None if job["eta_seconds"] is None or rest <= 0 else job["eta_seconds"] * max(0, epochs - job["epoch"]) / rest
    return {"epochs": epochs, "progress": progress, "eta_seconds": eta}


def _asked(status: str, message: str) -> Row:
    return {"status": status, "status_reason": "user_request", "message": message}


def _refused(job: Row, wish: str) -> ServiceError:
    allowed = list(states.allowed(job["status"]))
    way_out = f"; it can become {' or '.join(allowed)}" if allowed else ": it is over"
    return conflict(f"a {job['status']} job cannot be {wish}{way_out}", allowed=allowed)
