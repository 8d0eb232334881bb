"""Names given to models. A name answers with its newest row; the older ones are its history."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Select, delete, func, insert, select

from service import jobs as states
from service.errors import not_found
from service.store.changes import Row, find
from service.store.database import Database
from service.store.tables import models

SHOWN = [models.c[name] for name in ("name", "job_id", "checkpoint", "created_at")]


class Models(Database):
    def publish(self, name: str, job_id: str, checkpoint: str = "last") -> Row:
        """From now on `name` answers with this job's checkpoint."""
        with self.write("publish") as connection:
            find(connection, job_id)
            publish_model(connection, name, job_id, checkpoint)
            return self.get_model(name)

    def get_model(self, name: str) -> dict[str, Any]:
        """{"name", "job_id", "checkpoint", "created_at", "history": [{"job_id", "checkpoint", "created_at"}]}, newest first; 404 when unknown."""
        with self.read() as connection:
            rows = [dict(row) for row in connection.execute(select(*SHOWN).where(models.c.name == name).order_by(models.c.id.desc())).mappings()]
        if not rows:
            raise not_found("model", name)
        return {**rows[0], "history": [{key: row[key] for key in ("job_id", "checkpoint", "created_at")} for row in rows]}

    def list_models(self) -> list[Row]:
        """Every name with what it answers with now, by name."""
        with self.read() as connection:
            rows = connection.execute(select(*SHOWN).where(models.c.id.in_(newest())).order_by(models.c.name))
            return [dict(row) for row in rows.mappings()]

    def unpublish(self, name: str) -> None:
        """Remove the name; the jobs stay. 404 when unknown."""
        with self.write("unpublish") as connection:
            if connection.execute(delete(models).where(models.c.name == name)).rowcount == 0:
                raise not_found("model", name)


def newest() -> Select[tuple[str]]:
    """The ids of the rows that answer now: the newest of each name."""
    each = models.alias()
    return select(func.max(each.c.id)).group_by(each.c.name)


def publish_model(connection: Connection, name: str, job_id: str, checkpoint: str) -> None:
    row = {"id": states.new_id("model"), "name": name, "job_id": job_id, "checkpoint": checkpoint, "created_at": states.now()}
    connection.execute(insert(models), row)
