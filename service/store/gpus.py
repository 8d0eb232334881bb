"""The GPUs of all supervisors that live, on whichever machines they are: each says again and again what it has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Connection, delete, insert, select

from service import jobs as states
from service.store.database import Database
from service.store.tables import settings

PREFIX = "gpus:"        # of the names of these facts; after it the supervisor's


class Gpus(Database):
    def tell_gpus(self, owner: str, gpus: Iterable[Mapping[str, Any]], seconds: float) -> None:
        """The supervisor `owner` has workers on these GPUs, or has them no more; after so many seconds nobody believes it any longer."""
        found = [dict(gpu) for gpu in gpus]
        with self.write("tell_gpus") as connection:
            gone = [name for name, value in _told(connection) if name == PREFIX + owner or not _lives(value)]
            connection.execute(delete(settings).where(settings.c.name.in_(gone)))
            if found:
                connection.execute(insert(settings), {"name": PREFIX + owner, "value": {"gpus": found, "until": states.seconds_now() + seconds}})

    def gpus(self) -> list[dict[str, Any]]:
        """Index, name, capability and memory of each GPU that trains."""
        with self.read() as connection:
            return [gpu for _, value in _told(connection) if _lives(value) for gpu in value["gpus"]]


def _told(connection: Connection) -> list[tuple[str, Any]]:
    rows = connection.execute(select(settings.c.name, settings.c.value).where(settings.c.name.startswith(PREFIX)).order_by(settings.c.name))
    return [(row.name, row.value) for row in rows]


def _lives(told: Mapping[str, Any]) -> bool:
    return told["until"] >= states.seconds_now()
