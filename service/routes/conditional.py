"""Conditional requests: what a client has already is not sent again, and what has changed since it looked is not changed."""

from __future__ import annotations

from typing import Annotated

from fastapi import Header
from starlette.responses import Response

from service.errors import ServiceError

IfMatch = Annotated[str | None, Header(alias="If-Match", description="an `ETag`: do it only if it is still as it was then; else 412")]
IfNoneMatch = Annotated[str | None, Header(alias="If-None-Match", description="an `ETag`: 304 without a body if nothing has changed since then")]
UNCHANGED = {304: {"description": "It is as `If-None-Match` says"}}
TAGGED = {"ETag": {"schema": {"type": "string"}}}


def unchanged(known: str | None, tag: str) -> Response | None:
    """304, if the client has what this tag is of; else None."""
    if not known or not _named(known.replace("W/", ""), tag):
        return None
    return Response(status_code=304, headers={"ETag": tag, "Cache-Control": "no-cache"})


def check_match(wanted: str | None, tag: str) -> None:
    """412 if the client wants to change another state than the one of this tag."""
    if wanted and not _named(wanted, tag):
        raise ServiceError(412, "precondition_failed", f"it has changed: its ETag is {tag} now; look at it, then send this again with that one",
                           headers={"ETag": tag})


def _named(tags: str, tag: str) -> bool:
    return tags.strip() == "*" or tag in (one.strip() for one in tags.split(","))
