"""What each supervisor that lives has, on whichever machine it is: GPUs, and workers that are awake. Each says so again and again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Connection, delete, insert, select

from service import jobs as states
from service.store.database import Database
from service.store.tables import settings

PREFIX = "supervisor:"      # of the names of these facts; after it the supervisor's


class Supervisors(Database):
    def tell_supervisor(self, owner: str, gpus: Iterable[Mapping[str, Any]], workers: int, seconds: float) -> None:
        """The supervisor `owner` has workers on these GPUs, and so many awake in all, or none of either any more; after so many seconds nobody
        believes it any longer."""
        has = {"gpus": [dict(gpu) for gpu in gpus], "workers": workers, "until": states.seconds_now() + seconds}
        with self.write("tell_supervisor") as connection:
            gone = [name for name, said in _told(connection) if name == PREFIX + owner or not _lives(said)]
            connection.execute(delete(settings).where(settings.c.name.in_(gone)))
            if has["gpus"] or workers:
                connection.execute(insert(settings), {"name": PREFIX + owner, "value": has})

    def gpus(self) -> list[dict[str, Any]]:
        """Index, name, capability and memory of each GPU that trains."""
        with self.read() as connection:
            return [gpu for _, has in _told(connection) if _lives(has) for gpu in has["gpus"]]

    def workers(self) -> int:
        """How many workers are awake."""
        with self.read() as connection:
            return sum(has["workers"] for _, has in _told(connection) if _lives(has))


def _told(connection: Connection) -> list[tuple[str, Any]]:
    rows = connection.execute(select(settings.c.name, settings.c.value).where(settings.c.name.startswith(PREFIX)).order_by(settings.c.name))
    return [(row.name, row.value) for row in rows]


def _lives(has: Mapping[str, Any]) -> bool:
    return has["until"] >= states.seconds_now()
