"""Who may ask at all: looked at before any route, on every request.

On loopback a web page must not be able to ask in its visitor's name: the Host must be this machine (else a name was rebound to it), an Origin must be
this service. With a token, which is required beyond loopback and wherever there is one, nobody is answered without it, but for what tells no secrets.
From here on the store is asked for whoever the token belongs to (`service.store.asking`).
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import time
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import ServiceError, invalid_request, unavailable
from service.routes import metering
from service.routes.api import Api
from service.routes.patience import HEAD_BYTES, Stalled, counted, taken, too_long_head
from service.routes.problems import answer, surprise
from service.routes.scopes import SAFE, UPLOADS, is_open, scope_of
from service.routes.shares import quota
from service.store.asking import Asker, ask_as

log = logging.getLogger("uvicorn.error")
SAFE_HEADERS = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "X-Frame-Options": "DENY",
                "Cross-Origin-Resource-Policy": "same-origin", "Cross-Origin-Opener-Policy": "same-origin",
                "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; sandbox"}


def is_loopback(host: str) -> bool:
    """Whether this name or address is this machine only."""
    name = host.strip("[]").lower().removesuffix(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


class Guard:
    """ASGI middleware around the whole app."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        ask_as(None)        # a task may begin with what another one left
        api: Api = scope["app"].state.api
        began, status, further = time.perf_counter(), None, dict(SAFE_HEADERS)
        receive, send = counted(receive, scope, api.settings), taken(send)
        if scope["method"] == "HEAD":
            scope, receive, send = as_get(scope, send)

        async def send_safely(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                if scope["path"].startswith(("/v1/", "/v2/", "/metrics")):
                    headers.setdefault("Cache-Control", "private, no-cache" if "etag" in headers else "no-store")
                for name, value in further.items():
                    headers.setdefault(name, value)
            await send(message)

        asker = None
        try:
            try:
                asker = await admitted(api, scope, further)
                ask_as(asker)
            except ServiceError as refused:
                await answer(refused, scope["path"])(scope, receive, send_safely)
                return
            await self.app(scope, receive, send_safely)
        except Stalled:
            pass
        except Exception:
            log.exception("%s %r", scope["method"], scope["path"])
            if status is not None:      # the answer has begun: only cutting it off tells the client
                raise
            await answer(surprise(), scope["path"])(scope, receive, send_safely)
        finally:
            if asker is not None and asker.strayed and not asker.noted:
                asker.object = asker.strayed
                await api.keys.note(asker, "not_found")
            metering.request(scope, status or 499, time.perf_counter() - began)


def as_get(scope: Scope, send: Send) -> tuple[Scope, Receive, Send]:
    """A HEAD request as a GET whose answer ends with its headers; of a stream that is all, for its client is gone then."""
    told = asyncio.Event()

    async def receive() -> Message:
        await told.wait()
        return {"type": "http.disconnect"}

    async def send_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            await send(message)
            await send({"type": "http.response.body"})
            told.set()

    return {**scope, "method": "GET"}, receive, send_headers


async def admitted(api: Api, scope: Scope, further: dict[str, str]) -> Asker:
    """Who asks. ServiceError when the request is not to be answered; `further` gets headers for whatever the answer is."""
    headers, method, path = Headers(scope=scope), scope["method"], scope["path"]
    if sum(len(name) + len(value) for name, value in headers.raw) > HEAD_BYTES:
        raise too_long_head()
    if "\0" in path or b"%00" in scope["query_string"]:
        raise invalid_request("the path or the query has a NUL, which no name has", status=400)
    if api.stopping:
        raise unavailable("the service is stopping: ask again in a moment", 2, "shutting_down")
    address = scope["client"][0] if scope.get("client") else ""
    if is_loopback(api.settings.host) and (reason := foreign(headers)):
        raise ServiceError(403, "forbidden", reason)
    if is_open(method, path):
        return Asker(scope="read", address=address)
    asker = Asker(address=address)
    try:
        asker = await api.keys.asker(headers.get("authorization", ""), address)
        if (share := api.keys.share(asker)) is not None:
            further.update(share.headers("requests"))
            if share.spent:
                raise quota("requests", f"a token has at most {share.most:,} requests a minute", share.seconds)
        if not asker.may(needed := scope_of(method, path)):
            raise ServiceError(403, "insufficient_scope", f"this needs a token with the scope {needed}; this one has {asker.scope}",
                               headers={"WWW-Authenticate": f'Bearer error="insufficient_scope", scope="{needed}"'})
    except ServiceError as refused:
        if refused.status != 429:
            asker.action = action_of(scope)
            await api.keys.note(asker, refused.code)
        raise
    asker.changes = method not in SAFE and needed != "read"
    coding = headers.get("content-encoding", "identity").lower()
    if coding != "identity" and not (coding == "gzip" and UPLOADS.fullmatch(path)):
        raise ServiceError(415, "unsupported_media_type", f"a body in Content-Encoding {coding[:40]!r} is not read here: send it plain",
                           headers={"Accept-Encoding": "identity"})
    return asker


def action_of(scope: Scope) -> str:
    """The name of the call that a request is meant for."""
    for route in scope["app"].state.routes:
        if route.matches(scope)[0] is Match.FULL:
            return route.name
    return ""


def foreign(headers: Headers) -> str | None:
    """What is wrong with the Host or the Origin of a request to loopback."""
    if len(headers.getlist("host")) > 1 or len(headers.getlist("origin")) > 1:
        return "a request has one Host and at most one Origin"
    host = headers.get("host", "")
    if not is_loopback(name_of(f"//{host}")):
        return f"this service answers to localhost and 127.0.0.1, not to {host[:80]!r}"
    origin = headers.get("origin")
    if origin is not None and urlsplit_safely(origin) != urlsplit_safely(f"http://{host}"):
        return f"pages of {origin[:80]!r} may not use this service"
    if headers.get("sec-fetch-site") in ("cross-site", "same-site") and headers.get("sec-fetch-mode") != "navigate":
        return "pages of others may not use this service"
    return None


def name_of(url: str) -> str:
    return urlsplit_safely(url)[0]


def urlsplit_safely(url: str) -> tuple[str, int | None]:
    """Host and port of a URL; ("", None) when it is none."""
    try:
        parts = urlsplit(url)
        if parts.username is None:
            return (parts.hostname or "").removesuffix("."), parts.port or {"http": 80, "https": 443}.get(parts.scheme)
        return "", None
    except ValueError:
        return "", None
