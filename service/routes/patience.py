"""No client is waited for without end: slow heads and bodies are cut off, bodies are counted as they come, answers that nobody takes are given up."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Coroutine, Generator
from http import HTTPStatus
from types import coroutine
from typing import TYPE_CHECKING, Any

from starlette.types import Message, Receive, Scope, Send

from service.errors import ServiceError, too_large
from service.routes.render import dumps
from service.routes.scopes import UPLOADS
from service.settings import Settings

if TYPE_CHECKING:
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol as Protocol
if not TYPE_CHECKING:       # in C, or in Python where that is not there
    from uvicorn.protocols.http.auto import AutoHTTPProtocol as Protocol

HEAD_BYTES = 32_768         # of the head of a request
BODY_RATE = 10_000          # bytes a second, where a body takes longer than the settings give it
TAKE_SECONDS = 60.0         # in which a client takes some of an answer


class Stalled(Exception):
    """The client takes nothing of its answer any more."""


class Patient(Protocol):
    """A connection that does not wait for ever: for the head of a request, or for an answer to be taken."""

    timer: asyncio.TimerHandle | None = None
    head = 0                    # bytes of a head that is on its way
    line = b""                  # how it begins

    def connection_made(self, transport: asyncio.Transport) -> None:    # type: ignore[override]
        super().connection_made(transport)
        found = transport.get_extra_info("socket")
        with contextlib.suppress(OSError, AttributeError):
            found.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(TAKE_SECONDS * 1000))     # the kernel drops what nobody takes
        self._await_head()

    def data_received(self, data: bytes) -> None:
        cycle = self.cycle
        heading = cycle is None or not cycle.more_body
        if heading and not self.head:
            self.line = data[:1000]
        super().data_received(data)
        if self.cycle is not cycle:
            self._unset_head()
        elif heading:
            self.head += len(data)
            self._await_head()
            if self.head > HEAD_BYTES and not self.transport.is_closing():
                self._refuse(too_long_head())

    def connection_lost(self, exc: Exception | None) -> None:
        self._unset_head()
        super().connection_lost(exc)

    def _await_head(self) -> None:
        if self.timer is None:
            self.timer = self.loop.call_later(self.config.app.state.api.settings.head_seconds, self._give_up)     # type: ignore[union-attr]

    def _unset_head(self) -> None:
        self.head = 0
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def _give_up(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP, in the error shape; of methods only those that somebody has defined are read."""
        self._refuse(ServiceError(400, "invalid_request", "this is not a request of HTTP/1.1, or of no known method"))

    def _refuse(self, error: ServiceError) -> None:
        target = self.line.partition(b"\r\n")[0].split(b" ")
        path = target[1].partition(b"?")[0].decode("ascii", "replace") if len(target) == 3 else "/"
        body = dumps(error.as_dict(path)) + b"\n"
        head = f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}\r\ncontent-type: application/problem+json\r\n"
        self.transport.write(f"{head}content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body)
        self.transport.close()


def too_long_head() -> ServiceError:
    return ServiceError(431, "too_large", f"the head of a request has at most {HEAD_BYTES:,} bytes")


def most_of(settings: Settings, path: str) -> int:
    """The longest body that any call of this path reads."""
    if UPLOADS.fullmatch(path):
        return settings.max_upload_bytes + settings.max_spec_bytes
    return max(settings.max_spec_bytes + settings.max_inline_bytes, settings.max_predict_bytes)


def counted(receive: Receive, scope: Scope, settings: Settings) -> Receive:
    """`receive`, as long as the body comes: 413 beyond what any call reads, 408 when it comes too slowly. Only time spent waiting counts."""
    most, loop = most_of(settings, scope["path"]), asyncio.get_running_loop()
    size, waited, whole = 0, 0.0, False

    async def receive_counted() -> Message:
        nonlocal size, waited, whole
        if whole:
            return await receive()
        began = loop.time()
        try:
            async with asyncio.timeout(settings.body_seconds + size / BODY_RATE - waited):
                message = await receive()
        except TimeoutError:
            raise ServiceError(408, "request_timeout", f"the body came too slowly: fewer than {BODY_RATE:,} bytes a second") from None
        waited += loop.time() - began
        size += len(message.get("body", b""))
        whole = not message.get("more_body", False)
        if size > most:
            raise too_large(f"the body has more than {most:,} bytes")
        return message

    return receive_counted


async def within(seconds: float, work: Coroutine[Any, Any, None]) -> None:
    """`asyncio.timeout` around work that seldom waits: only when it does is there a timer."""
    steps = work.__await__()
    try:
        first = next(steps)
    except StopIteration:
        return
    async with asyncio.timeout(seconds):
        await _rest(first, steps)


@coroutine
def _rest(waited: Any, steps: Any) -> Generator[Any, Any, None]:
    """What is left of some work that waits for something."""
    while True:
        try:
            found = yield waited
        except BaseException as error:
            go, given = steps.throw, error
        else:
            go, given = steps.send, found
        try:
            waited = go(given)
        except StopIteration:
            return


def taken(send: Send) -> Send:
    """`send`, given up when the client takes nothing for long."""

    async def send_soon(message: Any) -> None:
        if message["type"] != "http.response.body":
            await send(message)
            return
        try:
            await within(TAKE_SECONDS, send(message))       # type: ignore[arg-type]
        except TimeoutError:
            raise Stalled() from None

    return send_soon
