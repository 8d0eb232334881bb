"""Calls of the contract that wait to be built: 501 in the error shape, and marked so in OpenAPI."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from service.routes.problems import documented, unbuilt

CALLS: tuple[tuple[str, str, str], ...] = ()
router = APIRouter(tags=["not built yet"])


def _refusing(what: str) -> Callable[[Request], Any]:
    async def refuse(request: Request) -> Response:
        raise unbuilt(what)

    return refuse


for _method, _path, _about in CALLS:
    _parameters = [{"name": step[1:-1], "in": "path", "required": True, "schema": {"type": "string"}} for step in _path.split("/") if step[:1] == "{"]
    router.add_api_route(_path, _refusing(f"{_method} {_path}"), methods=[_method], summary=f"{_about} (not built yet)", status_code=501,
                         responses=documented(501), openapi_extra={"x-not-built": True, "parameters": _parameters},
                         operation_id=f"unbuilt_{_method}_{_path}".replace("/", "_").replace("{", "").replace("}", "").lower())
