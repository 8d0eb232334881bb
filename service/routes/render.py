"""JSON out: numbers that are not finite become null with a sibling that says which, and a field without a value is left out."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from service.notation import Json, dumps, finite


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


__all__ = ["Answer", "Json", "dumps", "finite", "listed", "present"]
