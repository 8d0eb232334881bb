"""Asking the predictor, another process, over a local socket. Connections stay open; each carries one request after the other.

    message   4 bytes of length (big-endian), a head of so many bytes of JSON; then as many bytes as the head's "bytes" says
    request   {"call": "predict" | "evaluate" | "generate" | …}         and bytes where it has a body as it came
    answer    {"media_type", "headers"} and the bytes of the answer, {"more": true} while others follow
              | {"problem": {"status", "code", "detail", "errors", …}}

The supervisor starts the predictor when somebody sends a word to the topic "predictor". Its calls change nothing, so what it did not answer, because
it ended, is asked once more.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from engine.errors import Problem
from service.errors import ServiceError, overloaded, unavailable
from service.stream import Wake

START_SECONDS = 20.0
ANSWER_SECONDS = 60.0
LONGEST = 1 << 30
BUFFER = 1 << 20
AT_ONCE, KEPT = 32, 8       # requests that the predictor has at a time; connections that stay open
MOST_STREAMS = 16           # answers in pieces at a time, which take as long as their readers do


def socket_path(folder: Path) -> Path:
    """Where the predictor of a run folder listens."""
    return folder / "predictor.sock"


def pack(head: Any, body: bytes = b"") -> bytes:
    """A message."""
    text = json.dumps({**head, "bytes": len(body)} if body else head, separators=(",", ":")).encode()
    return b"".join((len(text).to_bytes(4, "big"), text, body))


@dataclass(eq=False)
class _Line:
    """One connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def ask(self, message: bytes) -> tuple[dict[str, Any], bytes]:
        self.writer.write(message)
        await self.writer.drain()
        return await self.hear()

    async def hear(self) -> tuple[dict[str, Any], bytes]:
        head = json.loads(await self.reader.readexactly(int.from_bytes(await self.reader.readexactly(4), "big")))
        size = head.get("bytes", 0)
        return head, await self.reader.readexactly(min(size, LONGEST)) if size else b""


@dataclass(eq=False)
class _Lines:
    """The open connections of one process."""

    idle: list[_Line] = field(default_factory=list)
    turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))
    streams: int = 0

    async def take(self, wake: Wake, fresh: bool) -> _Line:
        while fresh and self.idle:
            self.idle.pop().writer.close()      # the predictor has ended: so have these
        return self.idle.pop() if self.idle else await _reach(wake)

    def put(self, line: _Line) -> None:
        if len(self.idle) < KEPT:
            self.idle.append(line)
        else:
            line.writer.close()


class Rest:
    """The pieces of an answer after the first one. Raises ServiceError or OSError where they break off. To be closed, read to the end or not."""

    def __init__(self, lines: _Lines, line: _Line):
        self._lines, self._line, self._over = lines, line, False
        lines.streams += 1

    def __aiter__(self) -> Rest:
        return self

    async def __anext__(self) -> bytes:
        if self._over:
            raise StopAsyncIteration
        async with asyncio.timeout(ANSWER_SECONDS):
            head, data = await self._line.hear()
        if "problem" in head:
            raise refused(**head["problem"])
        if not head.get("more"):
            self._end()
            self._lines.put(self._line)
        return data

    def _end(self) -> None:
        self._over = True
        self._lines.streams -= 1

    def close(self) -> None:
        if not self._over:
            self._end()
            self._line.writer.close()


@dataclass
class Answered:
    """What the predictor said: its head and the bytes of the answer, the first ones where there is a `rest`."""

    head: dict[str, Any]
    body: bytes
    rest: Rest | None = None


_LINES: WeakKeyDictionary[Wake, _Lines] = WeakKeyDictionary()


async def ask(wake: Wake, request: dict[str, Any], body: bytes = b"") -> Answered:
    """The predictor's answer. ServiceError for the problem that it names; 503 when it cannot be reached, or ends twice in a row."""
    lines, message = _LINES.setdefault(wake, _Lines()), pack(request, body)
    async with lines.turns:
        head, data, line = await _asked(lines, wake, message)
    if head.get("more"):
        if lines.streams >= MOST_STREAMS:
            line.writer.close()
            raise overloaded(f"{MOST_STREAMS} long predictions are being read already", 5)
        return Answered(head, data, Rest(lines, line))
    lines.put(line)
    if "problem" in head:
        raise refused(**head["problem"])
    return Answered(head, data)


async def _asked(lines: _Lines, wake: Wake, message: bytes) -> tuple[dict[str, Any], bytes, _Line]:
    end = asyncio.get_running_loop().time() + ANSWER_SECONDS
    for again in (False, True):
        line = await lines.take(wake, fresh=again)
        try:
            async with asyncio.timeout_at(end):
                return *await line.ask(message), line
        except TimeoutError:        # an OSError too
            line.writer.close()
            raise unavailable(f"the predictor took longer than {ANSWER_SECONDS:g} seconds: ask for fewer rows", 5) from None
        except (OSError, asyncio.IncompleteReadError):
            line.writer.close()
        except BaseException:       # whoever asked has gone away
            line.writer.close()
            raise
    raise unavailable("the predictor ended twice before it answered this: ask again, or for fewer rows", 1)


def refused(status: int, code: str, detail: str, errors: list[dict[str, Any]] | None = None, **more: Any) -> ServiceError:
    """The problem of an answer as an exception."""
    return ServiceError(status, code, detail, [Problem(**problem) for problem in errors or ()], **more)


async def _reach(wake: Wake) -> _Line:
    """A new connection to the predictor, which is started when it does not run."""
    path, loop = socket_path(wake.folder), asyncio.get_running_loop()
    deadline, asked_at = loop.time() + START_SECONDS, 0.0
    while True:
        try:
            return _Line(*await asyncio.open_unix_connection(str(path), limit=BUFFER))
        except OSError:
            if loop.time() > deadline:
                raise unavailable("the predictor does not start: ask again in a moment", 5) from None
        if loop.time() - asked_at > 1.0:
            wake.notify("predictor")
            asked_at = loop.time()
        await asyncio.sleep(0.02)
