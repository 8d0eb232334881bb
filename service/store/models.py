"""Names given to models. A name answers with its newest row; the older ones are its history."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Select, delete, func, insert, select

from service import jobs as states
from service.errors import not_found
from service.store.asking import Asker, current, made, mine, owner
from service.store.changes import Row, find
from service.store.database import Database, write_deed
from service.store.tables import jobs, models

SHOWN = [models.c[name] for name in ("id", "name", "job_id", "checkpoint", "created_at")]


class Models(Database):
    def publish(self, name: str, job_id: str, checkpoint: str = "last") -> Row:
        """From now on `name` answers with this job's checkpoint; where it does so already, nothing changes."""
        with self.write("publish") as connection:
            find(connection, job_id)
            publish_model(connection, name, job_id, checkpoint)
            made(name)
            return self.get_model(name)

    def get_model(self, name: str) -> dict[str, Any]:
        """{"id", "name", "job_id", "checkpoint", "created_at", "history": [{"job_id", "checkpoint", "created_at"}]}, newest first; 404 when unknown.

        `id` is that of the row that answers: it changes whenever the name is given to another model.
        """
        with self.read() as connection:
            query = select(*SHOWN).where(models.c.name == name, models.c.owner == _whose(connection, name)).order_by(models.c.id.desc())
            rows = [dict(row) for row in connection.execute(query).mappings()]
        if not rows:
            raise not_found("model", name)
        return {**rows[0], "history": [{key: row[key] for key in ("job_id", "checkpoint", "created_at")} for row in rows]}

    def list_models(self, *, after: str | None = None, limit: int = 20) -> tuple[list[Row], bool]:
        """Names with what they answer with now, those given last first, older than the row `after`; and whether there are more."""
        query = select(*SHOWN).where(models.c.id.in_(newest()), mine(models)).order_by(models.c.id.desc()).limit(limit + 1)
        with self.read() as connection:
            rows = [dict(row) for row in connection.execute(query if after is None else query.where(models.c.id < after)).mappings()]
        return rows[:limit], len(rows) > limit

    def unpublish(self, name: str) -> None:
        """Remove the name; the jobs stay. 404 when unknown."""
        with self.write("unpublish") as connection:
            if connection.execute(delete(models).where(models.c.name == name, models.c.owner == _whose(connection, name))).rowcount == 0:
                raise not_found("model", name)


def newest() -> Select[tuple[str]]:
    """The ids of the rows that answer now: the newest of each owner's each name."""
    each = models.alias()
    return select(func.max(each.c.id)).group_by(each.c.owner, each.c.name)


def _whose(connection: Connection, name: str) -> str | None:
    """Each owner has names of its own; who sees those of others too means its own, if there is one, else the one given last."""
    query = select(models.c.owner).where(models.c.name == name, mine(models)).order_by((models.c.owner == owner()).desc(), models.c.id.desc())
    return connection.execute(query.limit(1)).scalar()


def publish_model(connection: Connection, name: str, job_id: str, checkpoint: str) -> None:
    whose = connection.execute(select(jobs.c.owner).where(jobs.c.id == job_id)).scalar_one()
    given = (models.c.name == name, models.c.owner == whose)
    now = connection.execute(select(models.c.job_id, models.c.checkpoint).where(*given).order_by(models.c.id.desc()).limit(1)).first()
    if now is not None and tuple(now) == (job_id, checkpoint):
        return
    row = {"id": states.new_id("model"), "name": name, "job_id": job_id, "checkpoint": checkpoint, "created_at": states.now(),
           "owner": whose}
    connection.execute(insert(models), row)
    if current() is None:       # a job that ended well, not a request: the audit has it under whoever asked for it
        write_deed(connection, Asker(token=whose, address="worker", action="publish", object=name), "done")
