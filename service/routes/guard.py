"""Who may ask at all: looked at before any route, on every request.

On loopback a web page must not be able to ask in its visitor's name: the Host must be this machine (else a name was rebound to it), an Origin must be
this service. With a token, which is required beyond loopback, nobody is answered without it, but for what tells no secrets.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import logging
import time
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import ServiceError, unavailable
from service.routes import metering
from service.routes.api import Api
from service.routes.problems import answer, surprise

log = logging.getLogger("uvicorn.error")
OPEN = ("/", "/healthz", "/readyz", "/openapi.json", "/favicon.ico")       # and all below /docs
SAFE_HEADERS = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "X-Frame-Options": "DENY"}


def is_loopback(host: str) -> bool:
    """Whether this name or address is this machine only."""
    name = host.strip("[]").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def hash_of(token: str) -> str:
    """What is kept of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


class Guard:
    """ASGI middleware around the whole app."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if scope["method"] == "HEAD":
            scope, receive, send = as_get(scope, send)
        api: Api = scope["app"].state.api
        began, status = time.perf_counter(), None

        async def send_safely(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in SAFE_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            refused = refusal(api, scope)
            await (self.app if refused is None else answer(refused, scope["path"]))(scope, receive, send_safely)
        except Exception:
            log.exception("%s %s", scope["method"], scope["path"])
            if status is not None:      # the answer has begun: only cutting it off tells the client
                raise
            await answer(surprise(), scope["path"])(scope, receive, send_safely)
        finally:
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


def refusal(api: Api, scope: Scope) -> ServiceError | None:
    """Why this request is not answered; None when it may go on."""
    headers = Headers(scope=scope)
    if api.stopping:
        return unavailable("the service is stopping: ask again in a moment", 2, "shutting_down")
    if is_loopback(api.settings.host) and (reason := foreign(headers)):
        return ServiceError(403, "forbidden", reason)
    if api.token_hash is not None and not is_open(scope) and not knows(headers.get("authorization", ""), api.token_hash):
        return ServiceError(401, "unauthorised", "send the token of this service: Authorization: Bearer TOKEN",
                            headers={"WWW-Authenticate": "Bearer"})
    return None


def is_open(scope: Scope) -> bool:
    return scope["method"] == "GET" and (scope["path"] in OPEN or scope["path"].startswith("/docs"))


def knows(authorization: str, token_hash: str) -> bool:
    """Whether the header has the token, in a time that does not tell how much of it was right."""
    scheme, _, token = authorization.partition(" ")
    return scheme.lower() == "bearer" and hmac.compare_digest(hash_of(token.strip()), token_hash)


def foreign(headers: Headers) -> str | None:
    """What is wrong with the Host or the Origin of a request to loopback."""
    host = headers.get("host", "")
    if not is_loopback(name_of(f"//{host}")):
        return f"this service answers to localhost and 127.0.0.1, not to {host[:80]!r}"
    origin = headers.get("origin")
    if origin is not None and urlsplit_safely(origin) != urlsplit_safely(f"http://{host}"):
        return f"pages of {origin[:80]!r} may not use this service"
    return None


def name_of(url: str) -> str:
    return urlsplit_safely(url)[0]


def urlsplit_safely(url: str) -> tuple[str, int | None]:
    """Host and port of a URL; ("", None) when it is none."""
    try:
        parts = urlsplit(url)
        return (parts.hostname or "", parts.port or {"http": 80, "https": 443}.get(parts.scheme)) if parts.username is None else ("", None)
    except ValueError:
        return "", None
