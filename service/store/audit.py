"""Who changed what: a row for each change that a request made, written in the transaction of the change, and for what was refused.

Nothing of a body is kept here, only who, which call, the id of the object and how it went. The oldest rows are removed (`expire_audit`).
"""

from __future__ import annotations

from sqlalchemy import delete, select

from service import jobs as states
from service.store.asking import Asker
from service.store.changes import Row
from service.store.database import Database, write_deed
from service.store.tables import audit


class Audit(Database):
    def refused(self, asker: Asker, outcome: str) -> None:
        """Note a request that was not allowed: `outcome` is the code of its answer."""
        with self.write("refused") as connection:
            write_deed(connection, asker, outcome)

    def list_audit(self, *, after: str | None = None, limit: int = 20, **equal: str | None) -> tuple[list[Row], bool]:
        """Rows, newest first, older than `after`, whose columns are `equal`; and whether there are more."""
        query = select(audit).order_by(audit.c.id.desc()).limit(limit + 1)
        for name, value in {**equal}.items():
            if value is not None:
                query = query.where(audit.c[name] == value)
        with self.read() as connection:
            rows = [dict(row) for row in connection.execute(query if after is None else query.where(audit.c.id < after)).mappings()]
        return rows[:limit], len(rows) > limit

    def expire_audit(self, seconds: float, most: int) -> int:
        """Drop rows older than so many seconds, and the oldest beyond `most`; returns how many."""
        with self.write("expire_audit") as connection:
            last = connection.execute(select(audit.c.id).order_by(audit.c.id.desc()).offset(most).limit(1)).scalar() or ""
            old = states.iso(states.seconds_now() - seconds)
            return connection.execute(delete(audit).where((audit.c.id <= last) | (audit.c.created_at < old))).rowcount
