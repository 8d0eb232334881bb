"""Bodies in, with limits on everything: bytes, depth, numbers, names that come twice."""

from __future__ import annotations

import json
import math
import re
from collections.abc import AsyncGenerator
from typing import Any

from fastapi import Request

from engine.errors import Problem, nearest
from service.errors import ServiceError, invalid_request, too_large

DEPTH = 32
JSON_TYPES = re.compile(r"application/([a-z0-9.+-]+\+)?json")
RISKY = re.compile(rb"\d{19}|[eE][+]?0*\d{3}")              # a number that may not fit in 64 bits
SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")               # half a character


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


def parse(body: bytes) -> Any:
    """A JSON value of finite numbers, at most DEPTH deep, without half characters. 400 when it is not JSON, 422 for the rest."""
    unfit: list[str] = []

    def refuse(word: str) -> float:
        unfit.append(word)
        return math.nan

    risky = RISKY.search(body) is not None
    try:
        value = json.loads(body, parse_constant=refuse, object_pairs_hook=_once, parse_int=_int if risky else None)
    except RecursionError:
        raise _too_deep() from None
    except ServiceError:
        raise
    except ValueError as error:
        raise ServiceError(400, "malformed_json", f"this is not JSON: {error}" if body.strip() else "the body is empty: send JSON") from None
    _check_depth(value)
    if unfit or risky:
        _refuse([Problem(place, "not_finite", "NaN and infinities are not numbers that JSON has; write null for a missing one")
                 for place, item in _leaves(value, "") if isinstance(item, float) and not math.isfinite(item)])
    if SURROGATE.search(body):
        _refuse([Problem(place, "invalid_text", "half a character (a lone surrogate) is not text")
                 for place, item in _leaves(value, "") if isinstance(item, str) and not _whole(item)])
    return value


def as_object(value: Any) -> dict[str, Any]:
    """The value, which must be an object; else 422."""
    if not isinstance(value, dict):
        detail = f"the body is an object, {{…}}; this is a {type(value).__name__}"
        raise invalid_request(detail, [Problem("", "not_an_object", detail)])
    return value


def closed(value: dict[str, Any], known: tuple[str, ...]) -> dict[str, Any]:
    """The object, which has no other fields than these; else 422 with the nearest name."""
    found = [Problem(f"/{name}", "unknown_field", f"there is no field {name[:80]!r} here", nearest(name, known))
             for name in value if name not in known]
    if found:
        raise invalid_request(found[0].detail, found)
    return value


def _refuse(problems: list[Problem]) -> None:
    if problems:
        raise invalid_request("1 error" if len(problems) == 1 else f"{len(problems)} errors", problems[:100])


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise invalid_request(f"the name {twice[:80]!r} comes twice in one object", [Problem("", "duplicate_name", f"{twice[:80]!r} comes twice")])
    return found


def _int(text: str) -> int | float:
    """A whole number of 64 bits; a larger one is taken as a float, which may be infinite."""
    value = int(text) if len(text) <= 20 else None
    return value if value is not None and -(2**63) <= value < 2**63 else float(text)


def _too_deep() -> ServiceError:
    return invalid_request(f"the JSON is nested more than {DEPTH} deep", [Problem("", "too_deep", f"at most {DEPTH} levels are read")])


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(DEPTH):
        level = [item for part in level if type(part) in (list, dict)
                 for item in (part.values() if type(part) is dict else part) if type(item) in (list, dict)]
        if not level:
            return
    raise _too_deep()


def _whole(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def _leaves(value: Any, place: str):
    """Every name and plain value with its pointer."""
    if isinstance(value, dict):
        for name, item in value.items():
            step = f"{place}/{name.replace('~', '~0').replace('/', '~1')}" if _whole(name) else place
            if step == place:
                yield place, name
            yield from _leaves(item, step)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _leaves(item, f"{place}/{index}")
    else:
        yield place, value
