"""Bodies in, with limits on everything: bytes, depth, numbers, names that come twice."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from typing import Any

from fastapi import Request

from service.errors import ServiceError, too_large
from service.notation import DEPTH, as_object, closed, parse

JSON_TYPES = re.compile(r"application/([a-z0-9.+-]+\+)?json")


async def pieces(request: Request, most: int, what: str = "the body") -> AsyncGenerator[bytes]:
    """The body as it comes; 413 as soon as it is known to be longer than `most` bytes."""
    said = request.headers.get("content-length", "")
    left = most
    if said.isdigit() and int(said) > most:
        raise too_large(f"{what} has {int(said):,} bytes; at most {most:,} are read")
    async for piece in request.stream():
        left -= len(piece)
        if left < 0:
            raise too_large(f"{what} has more than {most:,} bytes")
        if piece:
            yield piece


async def read(request: Request, most: int, what: str = "the body") -> bytes:
    return b"".join([piece async for piece in pieces(request, most, what)])


def media_type(request: Request) -> str:
    """The Content-Type without its parameters, in small letters; empty when it is not said."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def check_json_type(request: Request, also: str = "") -> None:
    """415 unless the body says that it is JSON, or says nothing."""
    coding = request.headers.get("content-encoding", "identity")
    if coding != "identity":
        raise ServiceError(415, "unsupported_media_type", f"a body in Content-Encoding {coding[:40]!r} is not read here: send it plain")
    found = media_type(request)
    if found and not JSON_TYPES.fullmatch(found):
        raise ServiceError(415, "unsupported_media_type", f"{found[:80]!r} is not read here: send application/json{also}"
                           " (with curl: -H 'Content-Type: application/json')")


async def read_json(request: Request, most: int, what: str = "the body") -> tuple[bytes, Any]:
    """The body and the JSON value in it."""
    check_json_type(request)
    body = await read(request, most, what)
    return body, parse(body)


async def read_nothing(request: Request) -> bytes:
    """The body of a request that needs none: nothing, or an empty object."""
    body = await read(request, 1_000_000)
    if body.strip() and (value := parse(body)) != {}:
        closed(as_object(value), ())
    return body


__all__ = ["DEPTH", "as_object", "check_json_type", "closed", "media_type", "parse", "pieces", "read", "read_json", "read_nothing"]
