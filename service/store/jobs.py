"""Jobs as a client sees them: create, read, list, rename, remove, count."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from math import ceil
from typing import Any

from sqlalchemy import Connection, and_, bindparam, case, delete, exists, func, insert, or_, select, union_all, update

from service import jobs as states
from service.errors import conflict, not_found
from service.jobs import Event
from service.store.asking import made, mine, owner, sees
from service.store.changes import ONE_JOB, Row, append, change, find
from service.store.database import Database
from service.store.datasets import check_present, insert_dataset, pass_on, touch
from service.store.models import newest
from service.store.outbox import hooks_of
from service.store.tables import JOB_PARTS, attempts, datasets, deliveries, job_datasets, job_metadata, jobs, models

ATTEMPT = ("attempt", "started_at", "ended_at", "ended_by", "from_step", "to_step")
_ATTEMPTS = select(attempts.c.job_id, *(attempts.c[name] for name in ATTEMPT)).where(
    attempts.c.job_id.in_(bindparam("these", expanding=True))).order_by(attempts.c.job_id, attempts.c.attempt)
EMPTY: Row = {"attempt": 0, "fence": 0, "losses": 0, "seq": 0, "version": 1, "epoch": 0, "step": 0, "progress": 0.0, "elapsed_seconds": 0.0,
              "metrics": {}, "status": "queued"}
_DEVICE = bindparam("this_device", type_=jobs.c.device.type)
_AHEAD = select(func.count()).select_from(jobs).where(jobs.c.status == "queued", jobs.c.owner == bindparam("this_owner"), or_(
    jobs.c.priority > bindparam("this_priority"), and_(jobs.c.priority == bindparam("this_priority"), jobs.c.id < bindparam("this_job"))),
    or_(jobs.c.device.in_((states.ANY, _DEVICE)), _DEVICE == states.ANY))
_IN_TURN = (jobs.c.priority.desc(), jobs.c.id)
_OF_ANY = func.sum(case((jobs.c.device == states.ANY, 1), else_=0)).over(partition_by=jobs.c.owner, order_by=_IN_TURN)
_PLACES = select(jobs.c.id, case(
    (jobs.c.device == states.ANY, func.row_number().over(partition_by=jobs.c.owner, order_by=_IN_TURN)),
    else_=_OF_ANY + func.row_number().over(partition_by=(jobs.c.owner, jobs.c.device), order_by=_IN_TURN)).label("place")).where(
    jobs.c.status == "queued").subquery()

_LATEST = select(jobs.c.elapsed_seconds).where(jobs.c.status == "succeeded").order_by(jobs.c.id.desc()).limit(20).subquery()
_PACE = select(select(func.avg(_LATEST.c.elapsed_seconds)).scalar_subquery(),
               select(func.count()).select_from(jobs).where(jobs.c.status.in_(states.HELD)).scalar_subquery(), func.count(),
               func.count(jobs.c.owner.distinct())).select_from(jobs).where(jobs.c.status == "queued")


class Jobs(Database):
    def add_job(self, spec: Mapping[str, Any], summary: Mapping[str, Any], *, name: str = "", epochs: int = 0, priority: int = 0,
                max_attempts: int = 3, metadata: Mapping[str, str] | None = None, warnings: Iterable[Mapping[str, Any]] = (),
                parent: str | None = None, retain_seconds: float | None = None, datasets: Iterable[str] = (),
                inline: Mapping[str, Any] | None = None, job_id: str | None = None, traceparent: str | None = None) -> Row:
        """Queue a job: its row, event 1 `job.queued`, its inline dataset (`inline`: a dataset row), what it reads (`datasets`: ids), or nothing.

        409 when one of the datasets was removed meanwhile.
        """
        device = spec.get("device") or states.ANY
        why, what = states.awaited(device)
        job = {**EMPTY, "status_reason": why, "message": f"The job waits for {what}.", "device": device,
               "id": job_id or states.new_id("job"), "name": name, "spec": dict(spec), "summary": dict(summary),
               "metadata": dict(metadata or {}), "priority": priority, "max_attempts": max_attempts, "epochs": epochs, "parent": parent,
               "warnings": list(warnings), "retain_seconds": retain_seconds, "created_at": states.now(), "owner": owner(),
               "webhooks": hooks_of(spec), "traceparent": traceparent}
        made(job["id"])
        with self.write("add_job") as connection:
            reads = sorted(set(datasets))
            check_present(connection, reads)
            touch(connection, reads)
            if inline is not None:
                reads.append(insert_dataset(connection, {**inline, "job_id": job["id"]})["id"])
            connection.execute(insert(jobs), {**job, "seq": 1})
            append(connection, job, [Event("job.queued", job["message"])])
            if reads:
                connection.execute(insert(job_datasets), [{"job_id": job["id"], "dataset_id": dataset_id} for dataset_id in reads])
            _index_metadata(connection, job["id"], job["metadata"])
            self.tell("queue", job["id"])
            return {**dict.fromkeys(column.name for column in jobs.c), **job, "seq": 1}

    def get_job(self, job_id: str) -> Row:
        """All columns of one job; 404 when there is none."""
        with self.read() as connection:
            row = connection.execute(ONE_JOB, {"this_job": job_id}).mappings().first()
        if row is None or not sees(row):
            raise not_found("job", job_id)
        return dict(row)

    def list_jobs(self, *, status: Iterable[str] = (), metadata: Mapping[str, str] | None = None, after: str | None = None,
                  limit: int = 20) -> tuple[list[Row], bool]:
        """Jobs, newest first, older than `after`, with each of the metadata pairs; and whether there are more."""
        conditions: list[Any] = [mine(jobs)]
        if after is not None:
            conditions.append(jobs.c.id < after)
        for key, value in (metadata or {}).items():
            conditions.append(exists().where(job_metadata.c.job_id == jobs.c.id, job_metadata.c.key == key, job_metadata.c.value == value))
        # of each state the newest, from the index: all jobs of a state, sorted, would be a long way to a page of them
        pages = [select(jobs.c.id).where(*conditions, jobs.c.status == state).order_by(jobs.c.id.desc()).limit(limit + 1).subquery()
                 for state in dict.fromkeys(status)]
        wanted = jobs.c.id.in_(union_all(*(select(page.c.id) for page in pages))) if pages else and_(*conditions)
        query = select(jobs).where(wanted).order_by(jobs.c.id.desc()).limit(limit + 1)
        with self.read() as connection:
            rows = [dict(row) for row in connection.execute(query).mappings()]
        return rows[:limit], len(rows) > limit

    def job_ids(self) -> set[str]:
        """The id of every job."""
        with self.read() as connection:
            return set(connection.execute(select(jobs.c.id)).scalars())

    def update_job(self, job_id: str, *, name: str | None = None, metadata: Mapping[str, str] | None = None, priority: int | None = None) -> Row:
        """Change what may change in any state; what is None stays. `metadata` replaces the whole."""
        columns: Row = {key: value for key, value in (("name", name), ("metadata", metadata), ("priority", priority)) if value is not None}
        with self.write("update_job") as connection:
            job = find(connection, job_id)
            if metadata is not None:
                connection.execute(delete(job_metadata).where(job_metadata.c.job_id == job_id))
                _index_metadata(connection, job_id, metadata)
            return change(connection, job, (), columns)

    def delete_job(self, job_id: str, check: Callable[[Row], None] | None = None) -> list[str]:
        """Remove a terminal job, all its rows and its inline dataset, unless another job reads that too; returns the sha256 of the content that went
        (`artifacts.delete_job` does it all).

        409 while it is live or a published model answers with it. `check` sees the row in the same transaction, and may raise.
        """
        with self.write("delete_job") as connection:
            job = find(connection, job_id)
            if job["status"] not in states.TERMINAL:
                raise conflict(f"the job is {job['status']}: cancel it first", allowed=list(states.allowed(job["status"])))
            if name := connection.execute(select(models.c.name).where(models.c.id.in_(newest()), models.c.job_id == job_id)).scalar():
                raise conflict(f"the model {name!r} answers with this job: publish another one, or remove the name first", "in_use")
            if check is not None:
                check(job)
            for part in (*JOB_PARTS, models):
                connection.execute(delete(part).where(part.c.job_id == job_id))
            connection.execute(delete(deliveries).where(deliveries.c.job_id == job_id, deliveries.c.next_at.is_(None)))
            pass_on(connection, job_id)
            contents = list(connection.execute(delete(datasets).where(datasets.c.job_id == job_id).returning(datasets.c.sha256)).scalars())
            connection.execute(delete(jobs).where(jobs.c.id == job_id))
            self.tell("events", job_id)
        return contents

    def attempts(self, job_id: str) -> list[Row]:
        """The job's attempts, oldest first: attempt, started_at, ended_at, ended_by, from_step, to_step."""
        return self.all_attempts([job_id]).get(job_id, [])

    def all_attempts(self, job_ids: Iterable[str]) -> dict[str, list[Row]]:
        """`attempts` of several jobs, for those that have any."""
        found: dict[str, list[Row]] = {}
        with self.read() as connection:
            for job_id, *values in connection.execute(_ATTEMPTS, {"these": list(job_ids)}):
                found.setdefault(job_id, []).append(dict(zip(ATTEMPT, values, strict=True)))
        return found

    def queue_position(self, job: Mapping[str, Any]) -> int | None:
        """1 for the queued job that is claimed next of its owner's by a worker that may train it; None when it is not queued."""
        if job["status"] != "queued":
            return None
        with self.read() as connection:
            return 1 + connection.execute(_AHEAD, {"this_owner": job["owner"], "this_priority": job["priority"],
                                                  "this_job": job["id"], "this_device": job["device"]}).scalar_one()

    def queue_positions(self, job_ids: Iterable[str]) -> dict[str, int]:
        """The place of each of these jobs that is queued."""
        with self.read() as connection:
            return {row.id: row.place for row in connection.execute(select(_PLACES).where(_PLACES.c.id.in_(list(job_ids))))}

    def etas(self, places: Mapping[str, int]) -> dict[str, float]:
        """Seconds until each of some queued jobs, given with its place, may have ended: if it and those before it take as long as the last twenty
        that succeeded, side by side as many as run now, owners in turn. Nothing while no job has succeeded.
        """
        if not places:
            return {}
        with self.read() as connection:
            seconds, held, queued, owners = connection.execute(_PACE).one()
        return {} if seconds is None else {job_id: seconds * ceil(min(queued, place * owners) / max(held, 1)) for job_id, place in places.items()}

    def waiting(self, whose: str | None = None) -> int:
        """How many jobs are queued: all, or those of one owner."""
        query = select(func.count()).select_from(jobs).where(jobs.c.status == "queued")
        with self.read() as connection:
            return connection.execute(query if whose is None else query.where(jobs.c.owner == whose)).scalar_one()

    def counts(self) -> dict[str, Any]:
        """For the metrics page: jobs by state (all states), datasets, and when the oldest queued job came (or None)."""
        with self.read() as connection:
            found = {row[0]: row[1] for row in connection.execute(select(jobs.c.status, func.count()).group_by(jobs.c.status))}
            oldest = connection.execute(select(func.min(jobs.c.created_at)).where(jobs.c.status == "queued")).scalar()
            uploads = connection.execute(select(func.count()).select_from(datasets)).scalar_one()
        return {"jobs": {state: found.get(state, 0) for state in states.STATES}, "datasets": uploads, "oldest_queued_at": oldest}

    def touch_job(self, job_id: str) -> None:
        """Note that the job's model was used; its `retain_seconds` count from here."""
        with self.write("touch_job") as connection:
            connection.execute(update(jobs).where(jobs.c.id == job_id).values(used_at=states.now()))

    def outlived_jobs(self) -> list[str]:
        """Terminal jobs whose `retain_seconds` have passed since their end or last use, and that no published model answers with."""
        query = select(jobs.c.id, jobs.c.used_at, jobs.c.retain_seconds).where(jobs.c.retain_seconds.isnot(None), jobs.c.status.in_(states.TERMINAL))
        published = select(models.c.job_id).where(models.c.id.in_(newest()))
        with self.read() as connection:
            rows = connection.execute(query.where(jobs.c.id.not_in(published))).all()
        return [job_id for job_id, used_at, seconds in rows if states.is_outlived(used_at, seconds)]


def _index_metadata(connection: Connection, job_id: str, metadata: Mapping[str, str]) -> None:
    if metadata:
        connection.execute(insert(job_metadata), [{"job_id": job_id, "key": key, "value": value} for key, value in metadata.items()])
