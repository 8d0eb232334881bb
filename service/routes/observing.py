"""Every request has an id, is a span where requests are traced, and leaves a line in the log."""

from __future__ import annotations

import logging
import os
import re

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import logs, traces

REQUEST_ID, LOCATION, TRACEPARENT = b"x-request-id", b"location", b"traceparent"
FIT = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
PROBES = ("/healthz", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready")       # asked all the time
log = logs.of("api")


class Observed:
    """ASGI middleware around the guard. The request's route is known only below: `answered` is called from there."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = _header(scope["headers"], REQUEST_ID)
        name = given if FIT.fullmatch(given) else f"req_{os.urandom(12).hex()}".encode()

        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                scope["made"] = _header(message["headers"], LOCATION).decode("latin-1") if message["status"] in (201, 202) else ""
                message = {**message, "headers": [*message["headers"], (REQUEST_ID, name)]}
            await send(message)

        request_id = name.decode()
        before = logs.begin(request_id=request_id)
        try:
            if not traces.wanted():
                await self.app(scope, receive, send_named)
                return
            about = traces.attributes(http__request__method=scope["method"], url__path=scope["path"], trainyard__request_id=request_id)
            parent = _header(scope["headers"], TRACEPARENT).decode("latin-1")
            with traces.span(scope["method"], "SERVER", parent, **about) as scope["span"]:
                await self.app(scope, receive, send_named)
        finally:
            logs.end(before)


def answered(scope: Scope, route: str, status: int, seconds: float) -> None:
    """A request was answered: its line in the log, and what its span did not know."""
    level = logging.DEBUG if route in PROBES else logging.INFO
    if not log.isEnabledFor(level) and not traces.wanted():
        return
    job_id = job_of(scope)
    traces.note(scope.get("span"), f"{scope['method']} {route}", f"status {status}" if status >= 500 else "", http__route=route,
                http__response__status_code=status, trainyard__job_id=job_id)
    log.log(level, "%s %s %d", scope["method"], scope["path"][:200], status, extra=logs.fields(
        route=route, method=scope["method"], status=status, seconds=round(seconds, 6), job_id=job_id or None))


def job_of(scope: Scope) -> str:
    """The job that a request is about, or that it made."""
    named = scope.get("path_params", {}).get("job_id") or ""
    _, made, job_id = scope.get("made", "").rpartition("/v1/jobs/")
    return (named or (job_id if made else ""))[:64]


def _header(headers: list[tuple[bytes, bytes]], name: bytes) -> bytes:
    return next((value for key, value in headers if key == name), b"")
