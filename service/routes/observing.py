"""Every request has an id, is a span where requests are traced, and leaves a line in the log."""

from __future__ import annotations

import logging
import re
import secrets

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import logs, traces

REQUEST_ID = "X-Request-Id"
FIT = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
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
        headers = Headers(scope=scope)
        given = headers.get(REQUEST_ID, "")
        request_id = given if FIT.fullmatch(given) else f"req_{secrets.token_hex(12)}"

        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer = MutableHeaders(scope=message)
                answer[REQUEST_ID] = request_id
                scope["made"] = answer.get("location", "")
            await send(message)

        about = traces.attributes(http__request__method=scope["method"], url__path=scope["path"], trainyard__request_id=request_id)
        with logs.about(request_id=request_id), traces.span(scope["method"], "SERVER", headers.get("traceparent"), **about) as span:
            scope["span"] = span
            await self.app(scope, receive, send_named)


def answered(scope: Scope, route: str, status: int, seconds: float) -> None:
    """A request was answered: its line in the log, and what its span did not know."""
    job_id = job_of(scope)
    traces.note(scope.get("span"), f"{scope['method']} {route}", f"status {status}" if status >= 500 else "", http__route=route,
                http__response__status_code=status, trainyard__job_id=job_id)
    level = logging.DEBUG if route in PROBES else logging.INFO
    log.log(level, "%s %s %d", scope["method"], scope["path"][:200], status, extra=logs.fields(
        route=route, method=scope["method"], status=status, seconds=round(seconds, 6), job_id=job_id or None))


def job_of(scope: Scope) -> str:
    """The job that a request is about, or that it made."""
    named = scope.get("path_params", {}).get("job_id") or ""
    made = str(scope.get("made", "")).rpartition("/v1/jobs/")[2] if "/v1/jobs/" in str(scope.get("made", "")) else ""
    return (named or made)[:64]
