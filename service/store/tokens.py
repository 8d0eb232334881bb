"""Tokens: who may ask for what, and as whom. A token is shown once; its hash is kept."""

from __future__ import annotations

import hashlib
import secrets
from typing import Any

from sqlalchemy import ColumnElement, func, insert, select, update

from service import jobs as states
from service.errors import conflict, not_found
from service.store.asking import made
from service.store.changes import Row
from service.store.database import Database
from service.store.tables import checkpoints, datasets, jobs, tokens, upload_parts, uploads

SERVICE_TOKEN = "token_sha256"      # the setting under which the hash of the token is kept that the service made for itself
BEGIN, SHOWN = "ty_", 8             # how tokens begin, and how much of one is shown
USED_SECONDS = 600.0                # `last_used_at` is not older than so much
_LIVE = tokens.c.revoked_at.is_(None)


def hash_of(token: str) -> str:
    """What is kept of a token."""
    return hashlib.sha256(token.encode(errors="surrogateescape")).hexdigest()


class Tokens(Database):
    def add_token(self, name: str, scope: str, *, owner: str = "", seconds: float | None = None, first_is_admin: bool = False) -> tuple[Row, str]:
        """A new token: its row, and the token itself, which nobody can be told again.

        It sees what belongs to `owner`, by default to itself alone. 409 with `first_is_admin` for one that would be the only one and no admin.
        """
        token = BEGIN + secrets.token_urlsafe(32)
        token_id = states.new_id("token")
        row = {"id": token_id, "name": name, "scope": scope, "prefix": token[:SHOWN], "sha256": hash_of(token), "created_at": states.now(),
               "expires_at": None if seconds is None else states.iso(states.seconds_now() + seconds), "last_used_at": None, "revoked_at": None,
               "owner": owner or token_id}
        with self.write("add_token") as connection:
            if first_is_admin and scope != "admin" and not self._count(tokens.c.scope == "admin"):
                raise conflict("the first token has the scope admin: from then on a token is needed, and no other one could make more", "last_admin")
            connection.execute(insert(tokens), row)
            made(token_id)
        return row, token

    def list_tokens(self, *, after: str | None = None, limit: int = 20) -> tuple[list[Row], bool]:
        """Tokens, newest first, older than `after`, also revoked ones; and whether there are more."""
        query = select(tokens).order_by(tokens.c.id.desc()).limit(limit + 1)
        with self.read() as connection:
            rows = [dict(row) for row in connection.execute(query if after is None else query.where(tokens.c.id < after)).mappings()]
        return rows[:limit], len(rows) > limit

    def live_tokens(self) -> list[Row]:
        """All that are not revoked; they may have expired."""
        with self.read() as connection:
            return [dict(row) for row in connection.execute(select(tokens).where(_LIVE)).mappings()]

    def revoke_token(self, token_id: str, *, last_stays: bool = False) -> None:
        """It is refused from now on; what belongs to it stays. 404 when there is none (left); 409 with `last_stays` for the last admin of others."""
        with self.write("revoke_token") as connection:
            row = connection.execute(select(tokens).where(tokens.c.id == token_id, _LIVE)).mappings().first()
            if row is None:
                raise not_found("token", token_id)
            if last_stays and row["scope"] == "admin" and self._count() > 1 and self._count(tokens.c.scope == "admin") == 1:
                raise conflict("this is the last token with the scope admin: revoke the others first, or make another one", "last_admin")
            connection.execute(update(tokens).where(tokens.c.id == token_id).values(revoked_at=states.now()))
            made(token_id)

    def touch_token(self, token_id: str) -> None:
        """Note that it was used."""
        with self.write("touch_token") as connection:
            connection.execute(update(tokens).where(tokens.c.id == token_id).values(last_used_at=states.now()))

    def stored_bytes(self, whose: str) -> int:
        """What the datasets and checkpoints of an owner take; equal contents of one owner count once."""
        each = select(datasets.c.sha256, func.max(datasets.c.bytes).label("bytes")).where(datasets.c.owner == whose)
        mine = each.group_by(datasets.c.sha256).subquery()
        points = select(func.sum(checkpoints.c.bytes)).join(jobs, jobs.c.id == checkpoints.c.job_id).where(jobs.c.owner == whose)
        coming = select(func.sum(upload_parts.c.bytes)).join(uploads, uploads.c.id == upload_parts.c.upload_id).where(uploads.c.owner == whose)
        with self.read() as connection:
            return sum(connection.execute(query).scalar() or 0 for query in (select(func.sum(mine.c.bytes)), points, coming))

    def _count(self, *conditions: ColumnElement[bool] | Any) -> int:
        with self.read() as connection:
            return connection.execute(select(func.count()).select_from(tokens).where(_LIVE, *conditions)).scalar_one()
