"""Values as JSON, in and out: what comes in is finite and not too deep, what goes out says which numbers are not finite."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from engine.errors import Problem, nearest
from service.errors import ServiceError, invalid_request

Json = dict[str, Any]
DEPTH = 32
LENGTH = "Inference-Header-Content-Length"      # the header that says where JSON ends and bytes begin (KServe V2)
PIECE, LONG = 128, 1 << 17      # items of a long list that are written at once, bytes that are read at once: others have their turn in between
RISKY = re.compile(r"[0-9]{19}|[eE][+]?0*[0-9]{3}")         # a number that may not fit in 64 bits
LIST = re.compile(r'\s*\{\s*"(\w+)"\s*:\s*\[\s*')          # the beginning of an object of one long list
NEXT = re.compile(r"\s*([,\]])\s*")
UNFIT = re.compile(r"\\u(?:[dD][89a-fA-F]|0000)")       # half a character, or none: PostgreSQL keeps no NUL, and no text has one
NO_TEXT = "half a character (a lone surrogate) or a NUL is not text"


# ---------------------------------------------------------------- out

_compact = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def dumps(value: Any) -> bytes:
    """UTF-8 JSON on one line."""
    try:
        return _long(value).encode()
    except ValueError:
        return _long(finite(value)).encode()


def _long(value: Any) -> str:
    """JSON of an object whose long lists are written piece by piece."""
    if type(value) is dict and any(type(item) is list and len(item) > PIECE for item in value.values()):
        return "{" + ",".join(f"{_compact(name)}:{_long(item)}" for name, item in value.items()) + "}"
    if type(value) is list and len(value) > PIECE:
        return "[" + ",".join(_compact(value[at:at + PIECE])[1:-1] for at in range(0, len(value), PIECE)) + "]"
    return _compact(value)


def finite(value: Any) -> Any:
    """The value with null for each number that is not finite.

    An object says beside it what the number was: `{"loss": null, "loss_text": "NaN"}`; for a list by place:
    `{"losses": [1.0, null], "losses_text": {"1": "NaN"}}`, in nested lists `{"0/3": "NaN"}`.
    """
    if isinstance(value, Mapping):
        found: Json = {}
        for name, item in value.items():
            found[name] = finite(item)
            if said := _said(item):
                found[f"{name}_text"] = said
        return found
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if _word(value) else value


def _said(item: Any) -> str | dict[str, str] | None:
    return dict(_places(item, "")) if isinstance(item, list | tuple) else _word(item)


def _places(items: Any, prefix: str):
    for place, item in enumerate(items):
        if isinstance(item, list | tuple):
            yield from _places(item, f"{prefix}{place}/")
        elif word := _word(item):
            yield f"{prefix}{place}", word


def _word(value: Any) -> str | None:
    if not isinstance(value, float) or math.isfinite(value):
        return None
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


# ---------------------------------------------------------------- in

def parse(body: bytes) -> Any:
    """A JSON value of finite numbers, at most DEPTH deep, whose texts are text. 400 when it is not JSON, 422 for the rest."""
    unfit: list[str] = []

    def refuse(word: str) -> float:
        unfit.append(word)
        return math.nan

    try:
        text = body.decode(json.detect_encoding(body))
        risky = RISKY.search(text) is not None
        decoder = json.JSONDecoder(parse_constant=refuse, object_pairs_hook=_once, parse_int=_int if risky else None)
        value = _in_turns(text, decoder) if len(body) > LONG else decoder.decode(text)
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
    if UNFIT.search(text):
        _refuse([Problem(place, "invalid_text", NO_TEXT)
                 for place, item in _leaves(value, "") if isinstance(item, str) and not is_text(item)])
    return value


def _in_turns(text: str, decoder: json.JSONDecoder) -> Any:
    """The value, of an object of one long list item by item; whatever else it is, or what is wrong in it, is told by reading it at once."""
    begun = LIST.match(text)
    items, at, more = list[Any](), begun.end() if begun else 0, begun is not None
    try:
        while more:
            item, at = decoder.raw_decode(text, at)
            items.append(item)
            step = NEXT.match(text, at)
            if step is None:
                return decoder.decode(text)
            at, more = step.end(), step[1] == ","
    except json.JSONDecodeError:
        return decoder.decode(text)
    return {begun[1]: items} if begun and text[at:].strip(" \t\n\r") == "}" else decoder.decode(text)


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


def is_text(text: str) -> bool:
    """Whether no character is half of one, or a NUL."""
    return "\0" not in text and (text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text))


def _leaves(value: Any, place: str):
    """Every name and plain value with its pointer."""
    if isinstance(value, dict):
        for name, item in value.items():
            step = f"{place}/{name.replace('~', '~0').replace('/', '~1')}" if is_text(name) else place
            if step == place:
                yield place, name
            yield from _leaves(item, step)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _leaves(item, f"{place}/{index}")
    else:
        yield place, value
