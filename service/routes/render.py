"""JSON out: numbers that are not finite become null with a sibling that says which, and a field without a value is left out."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

Json = dict[str, Any]
_compact = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def dumps(value: Any) -> bytes:
    """UTF-8 JSON on one line."""
    try:
        return _compact(value).encode()
    except ValueError:
        return _compact(finite(value)).encode()


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


def present(**fields: Any) -> Json:
    """The fields that have a value."""
    return {name: value for name, value in fields.items() if value is not None}


class Answer(Response):
    """A JSON answer, with a line end for those who read it in a terminal."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return (content if isinstance(content, bytes) else dumps(content)).removesuffix(b"\n") + b"\n"


def listed(data: list[Json], has_more: bool) -> Json:
    """A page of things, each with an `id`."""
    ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {}
    return {"object": "list", "data": data, "has_more": has_more, **ends}
