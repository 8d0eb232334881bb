"""Requests that may be sent twice: the first answer to each `Idempotency-Key`, kept for 24 hours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import bindparam, delete, insert, select

from service import jobs as states
from service.errors import ServiceError
from service.store.asking import current
from service.store.database import Database
from service.store.tables import idempotency

KEPT_SECONDS = 24 * 3600
_RECALL = select(idempotency).where(idempotency.c.key == bindparam("this_key"))
_DROP = delete(idempotency).where(idempotency.c.key == bindparam("this_key"))


@dataclass(frozen=True)
class Reply:
    """An answer to give again."""

    status: int
    body: Any
    headers: Mapping[str, str] = field(default_factory=dict)


class Idempotency(Database):
    def recall(self, key: str, route: str, body_hash: str) -> Reply | None:
        """The first answer to this key; None when the key is new. 422 when it came with another request."""
        with self.read() as connection:
            row = connection.execute(_RECALL, {"this_key": of_token(key)}).mappings().first()
        if row is None or row["expires_at"] < states.seconds_now():
            return None
        if (row["route"], row["body_hash"]) != (route, body_hash):
            raise ServiceError(422, "idempotency_mismatch", "this Idempotency-Key was used with another path or body: take a new key")
        return Reply(row["status"], row["body"], row["headers"])

    def remember(self, key: str, route: str, body_hash: str, reply: Reply) -> None:
        """Keep the answer. Call it in the transaction of what was created: `with store.write("…"): recall … add_job … remember`."""
        key = of_token(key)
        with self.write("remember") as connection:
            connection.execute(_DROP, {"this_key": key})
            connection.execute(insert(idempotency), {"key": key, "route": route, "body_hash": body_hash, "status": reply.status, "body": reply.body,
                                                     "headers": dict(reply.headers), "created_at": states.now(),
                                                     "expires_at": states.seconds_now() + KEPT_SECONDS})

    def expire_idempotency(self) -> int:
        """Drop answers older than 24 hours; returns how many."""
        with self.write("expire_idempotency") as connection:
            return connection.execute(delete(idempotency).where(idempotency.c.expires_at < states.seconds_now())).rowcount


def of_token(key: str) -> str:
    """Each token has keys of its own; no header holds a line end."""
    asker = current()
    return f"{asker.token}\n{key}" if asker is not None and asker.token else key
