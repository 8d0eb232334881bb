"""Who asks: tokens as they are checked, the share of each, and addresses that try too many wrong ones."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool

from service import jobs as states
from service.errors import ServiceError
from service.routes.windows import Share, Windows
from service.settings import Settings
from service.store import Store
from service.store.asking import OWN, Asker
from service.store.changes import Row
from service.store.tokens import USED_SECONDS, hash_of

REFRESH_SECONDS = 2.0       # a token that another process made or revoked is known after so long
LOOK_AGAIN_SECONDS = 0.2    # for an unknown token the store is asked, at most so often
SEEN = 10_000               # places from which right tokens came, that are remembered
REFUSED_ROWS = 600          # rows of the audit in a minute for what was refused
NEEDED = {"WWW-Authenticate": "Bearer"}


class Keys:
    """The tokens of one service: its own (of `TRAINYARD_TOKEN`, or made at the first start) and those in the store."""

    def __init__(self, settings: Settings, store: Store, own: str | None):
        self.settings, self.store, self.own = settings, store, own
        self.trusted = False                            # answer without a token, whatever there is: who asks has the home folder itself
        self.rows: dict[str, Row] = {}                  # by hash
        self.requests, self.refusals, self.noted = Windows(), Windows(), Windows()
        self.gone: Callable[[set[str]], None] = lambda ids: None        # told of the tokens that are left
        self._seen: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._read_at, self._reading = 0.0, asyncio.Lock()
        self._touching: set[asyncio.Task[None]] = set()

    @property
    def needed(self) -> bool:
        """Whether requests need a token."""
        return not self.trusted and (self.own is not None or bool(self.rows))

    # ---------------------------------------------------------------- what the store says

    async def refresh(self) -> None:
        """Take the tokens from the store as they are from now on."""
        async with self._reading:
            self._read_at = asyncio.get_running_loop().time()
            rows = {row["sha256"]: row for row in await run_in_threadpool(self.store.live_tokens)}
            for digest, row in rows.items():        # what is being written just now
                row["last_used_at"] = max(row["last_used_at"] or "", self.rows.get(digest, row)["last_used_at"] or "") or None
            self.rows = rows
        self.gone({row["id"] for row in rows.values() if not expired(row)})

    async def keep_fresh(self) -> None:
        """Look now and then, for ever."""
        while True:
            await asyncio.sleep(REFRESH_SECONDS)
            with suppress(ServiceError, SQLAlchemyError):
                await self.refresh()

    # ---------------------------------------------------------------- requests

    async def asker(self, authorization: str, address: str) -> Asker:
        """Who sends this Authorization header. 401 for a wrong or missing token where one is needed; 429 for too many of those."""
        if not self.needed:
            return Asker(address=address)
        place = network(address)
        scheme, _, token = authorization.partition(" ")
        digest = hash_of(token.strip()) if scheme.lower() == "bearer" and token.strip() else ""
        share = self.refusals.look(place, self.settings.max_refusals_per_minute)
        if share.left <= 0 and (place, digest) not in self._seen:
            raise self._too_often(share)
        found = await self._find(digest)
        if found is None:
            self.refusals.look(place, self.settings.max_refusals_per_minute, 1)
            raise ServiceError(401, "unauthorised", "send a token of this service: Authorization: Bearer TOKEN", headers=NEEDED)
        self._remember(place, digest)
        if found.get("id") and (not found["last_used_at"] or states.seconds_now() - states.seconds_of(found["last_used_at"]) > USED_SECONDS):
            self._touch(found)
        return Asker(found.get("id", ""), found.get("prefix", ""), found["owner"], found["scope"], address)

    async def _find(self, digest: str) -> dict[str, Any] | None:
        """The token of this hash, compared in a time that does not tell how much of it was right."""
        if self.own is not None and hmac.compare_digest(digest, self.own):
            return {"owner": OWN, "scope": "admin"}
        if digest and digest not in self.rows and asyncio.get_running_loop().time() - self._read_at > LOOK_AGAIN_SECONDS:
            await self.refresh()
        row = self.rows.get(digest)
        if row is None or not hmac.compare_digest(digest, row["sha256"]) or expired(row):
            return None
        return row

    def _too_often(self, share: Share) -> ServiceError:
        return ServiceError(429, "quota_exceeded", "too many requests from here had no right token: try again later",
                            headers={"Retry-After": str(share.seconds)})

    def _remember(self, place: str, digest: str) -> None:
        self._seen[place, digest] = None
        self._seen.move_to_end((place, digest))
        if len(self._seen) > SEEN:
            self._seen.popitem(last=False)

    def _touch(self, row: Row) -> None:
        """Note the use of a token, beside the answer."""
        row["last_used_at"] = states.now()

        async def touch() -> None:
            with suppress(ServiceError, SQLAlchemyError):
                await run_in_threadpool(self.store.touch_token, row["id"])

        task = asyncio.get_running_loop().create_task(touch())
        self._touching.add(task)
        task.add_done_callback(self._touching.discard)

    def share(self, asker: Asker) -> Share | None:
        """Count a request; None for who has no share, but the whole service."""
        return self.requests.look(asker.token, self.settings.max_requests_per_minute, 1) if asker.owner != OWN else None

    async def note(self, asker: Asker, outcome: str) -> None:
        """Let the audit know of what was refused. So many rows a minute are written, whoever asks how often."""
        if not self.noted.look("", REFUSED_ROWS, 1).spent:
            with suppress(ServiceError, SQLAlchemyError):
                await run_in_threadpool(self.store.refused, asker, outcome)


def expired(row: Row) -> bool:
    return row["expires_at"] is not None and states.seconds_of(row["expires_at"]) < states.seconds_now()


def network(address: str) -> str:
    """The address whose refusals are counted together: of IPv6 the network that one customer has."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    return str(ipaddress.ip_network((found, 64), strict=False)) if found.version == 6 else address
