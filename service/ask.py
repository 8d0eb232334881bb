"""Asking the predictor, another process, over a local socket: one request and one answer for each connection.

    request   {"call": "predict" | "evaluate" | "generate" | …}         4 bytes of length (big-endian), then UTF-8 JSON, which may hold NaN
    answer    {"ok": …} | {"problem": {"status", "code", "detail", "errors", …}}       in the same form

The supervisor starts the predictor when somebody sends a word to the topic "predictor".
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from engine.errors import Problem
from service.errors import ServiceError, unavailable
from service.stream import Wake

START_SECONDS = 20.0
ANSWER_SECONDS = 60.0
LONGEST = 1 << 30


def socket_path(folder: Path) -> Path:
    """Where the predictor of a run folder listens."""
    return folder / "predictor.sock"


def pack(message: Any) -> bytes:
    """A message with its length before it."""
    body = json.dumps(message, separators=(",", ":")).encode()
    return len(body).to_bytes(4, "big") + body


async def ask(wake: Wake, request: dict[str, Any]) -> Any:
    """The predictor's answer. ServiceError for the problem that it names; 503 when it cannot be reached, or dies."""
    reader, writer = await _reach(wake)
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            writer.write(pack(request))
            await writer.drain()
            length = int.from_bytes(await reader.readexactly(4), "big")
            answer = json.loads(await reader.readexactly(min(length, LONGEST)))
    except TimeoutError:        # an OSError too
        raise unavailable(f"the predictor took longer than {ANSWER_SECONDS:g} seconds: ask for fewer rows", 5) from None
    except (OSError, asyncio.IncompleteReadError):
        raise unavailable("the predictor ended before it answered: ask again", 1) from None
    finally:
        writer.close()
    if "problem" in answer:
        raise refused(**answer["problem"])
    return answer["ok"]


def refused(status: int, code: str, detail: str, errors: list[dict[str, Any]] | None = None, **more: Any) -> ServiceError:
    """The problem of an answer as an exception."""
    return ServiceError(status, code, detail, [Problem(**problem) for problem in errors or ()], **more)


async def _reach(wake: Wake) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to the predictor, which is started when it does not run."""
    path, loop = socket_path(wake.folder), asyncio.get_running_loop()
    deadline, asked_at = loop.time() + START_SECONDS, 0.0
    while True:
        try:
            return await asyncio.open_unix_connection(str(path))
        except OSError:
            if loop.time() > deadline:
                raise unavailable("the predictor does not start: ask again in a moment", 5) from None
        if loop.time() - asked_at > 1.0:
            wake.notify("predictor")
            asked_at = loop.time()
        await asyncio.sleep(0.02)
