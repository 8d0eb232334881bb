"""Small facts of this installation, by name, such as the hash of its token."""

from __future__ import annotations

from typing import Any

from sqlalchemy import delete, insert, select

from service.store.database import Database
from service.store.tables import settings


class Facts(Database):
    def get_setting(self, name: str, default: Any = None) -> Any:
        """The value kept under `name`."""
        with self.read() as connection:
            row = connection.execute(select(settings.c.value).where(settings.c.name == name)).first()
        return default if row is None else row.value

    def set_setting(self, name: str, value: Any) -> None:
        """Keep a JSON value under `name`; None removes it."""
        with self.write("set_setting") as connection:
            connection.execute(delete(settings).where(settings.c.name == name))
            if value is not None:
                connection.execute(insert(settings), {"name": name, "value": value})

    def check_writable(self) -> None:
        """Make one durable write; StorageFull or an OperationalError says that the store is not ready."""
        self.set_setting("written_at", 1)
