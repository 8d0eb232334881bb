"""Datasets: rows that name a folder of content. Several rows may share one folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Connection, case, delete, func, insert, select, update

from service import jobs as states
from service.errors import conflict, not_found
from service.store.asking import made, mine, owner, sees
from service.store.changes import Row
from service.store.database import Database
from service.store.tables import datasets, job_datasets, jobs

_LIVE_READERS = func.sum(case((jobs.c.status.in_(states.LIVE), 1), else_=0)).label("live")


class Datasets(Database):
    def add_dataset(self, dataset: Mapping[str, Any]) -> Row:
        """Store a dataset's row: name, format, bytes, sha256, rows, columns, warnings, [id, retain_seconds]. Returns it with its id and times."""
        with self.write("add_dataset") as connection:
            return insert_dataset(connection, dataset)

    def get_dataset(self, dataset_id: str) -> Row:
        """One dataset; 404 when there is none."""
        with self.read() as connection:
            row = connection.execute(select(datasets).where(datasets.c.id == dataset_id)).mappings().first()
        if row is None or not sees(row):
            raise not_found("dataset", dataset_id)
        return dict(row)

    def list_datasets(self, *, after: str | None = None, limit: int = 20) -> tuple[list[Row], bool]:
        """Uploaded datasets (not those inline in a job), newest first, older than `after`; and whether there are more."""
        query = select(datasets).where(datasets.c.job_id.is_(None), mine(datasets)).order_by(datasets.c.id.desc()).limit(limit + 1)
        with self.read() as connection:
            rows = [dict(row) for row in connection.execute(query if after is None else query.where(datasets.c.id < after)).mappings()]
        return rows[:limit], len(rows) > limit

    def delete_dataset(self, dataset_id: str) -> str:
        """Remove the row; returns the sha256 of its content (`artifacts.delete_dataset` does it all). 409 while a live job uses it."""
        users = select(jobs.c.id).join(job_datasets, job_datasets.c.job_id == jobs.c.id).where(
            job_datasets.c.dataset_id == dataset_id, jobs.c.status.in_(states.LIVE)).limit(1)
        with self.write("delete_dataset") as connection:
            self.get_dataset(dataset_id)
            if user := connection.execute(users).scalar():
                raise conflict(f"{user} still uses this dataset: wait for it or cancel it first", "in_use")
            return connection.execute(delete(datasets).where(datasets.c.id == dataset_id).returning(datasets.c.sha256)).scalar_one()

    def touch_datasets(self, dataset_ids: Iterable[str]) -> None:
        """Note that these were used; their `retain_seconds` count from here."""
        with self.write("touch_datasets") as connection:
            touch(connection, dataset_ids)

    def outlived_datasets(self) -> list[str]:
        """Datasets whose `retain_seconds` have passed since their last use, or the end of the last job that read them, and that no live job reads."""
        readers = select(job_datasets.c.dataset_id, func.max(jobs.c.finished_at).label("ended_at"), _LIVE_READERS).join(
            jobs, jobs.c.id == job_datasets.c.job_id).group_by(job_datasets.c.dataset_id).subquery()
        query = select(datasets.c.id, datasets.c.used_at, datasets.c.retain_seconds, readers.c.ended_at).outerjoin(
            readers, readers.c.dataset_id == datasets.c.id).where(datasets.c.retain_seconds.isnot(None), func.coalesce(readers.c.live, 0) == 0)
        with self.read() as connection:
            rows = connection.execute(query).all()
        return [row.id for row in rows if states.is_outlived(max(row.used_at, row.ended_at or ""), row.retain_seconds)]

    def contents(self) -> set[str]:
        """The sha256 of every content that some dataset names."""
        with self.read() as connection:
            return set(connection.execute(select(datasets.c.sha256).distinct()).scalars())


def touch(connection: Connection, dataset_ids: Iterable[str]) -> None:
    """These are used now."""
    if kept := list(dataset_ids):
        connection.execute(update(datasets).where(datasets.c.id.in_(kept), datasets.c.retain_seconds.isnot(None)).values(used_at=states.now()))


def pass_on(connection: Connection, job_id: str) -> None:
    """Inline data of a job that goes belongs from now on to another job that reads it too, where there is one."""
    readers = select(func.min(job_datasets.c.job_id)).where(job_datasets.c.dataset_id == datasets.c.id, job_datasets.c.job_id != job_id)
    connection.execute(update(datasets).where(datasets.c.job_id == job_id).values(job_id=func.coalesce(readers.scalar_subquery(), job_id)))


def insert_dataset(connection: Connection, dataset: Mapping[str, Any]) -> Row:
    moment = states.now()
    row = {"id": states.new_id("ds"), "warnings": [], "job_id": None, "retain_seconds": None, **dataset, "used_at": moment, "created_at": moment,
           "owner": owner()}
    made(row["id"])
    connection.execute(insert(datasets), row)
    return row


def check_present(connection: Connection, dataset_ids: list[str]) -> None:
    """409 when one of them is gone: it was there when the spec was checked."""
    if not dataset_ids:
        return
    found = set(connection.execute(select(datasets.c.id).where(datasets.c.id.in_(dataset_ids), mine(datasets))).scalars())
    if gone := sorted(set(dataset_ids) - found):
        raise conflict(f"the dataset {gone[0]} was removed", "dataset_missing")
