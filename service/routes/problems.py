"""Every 4xx and 5xx in one shape (RFC 9457), whoever raised it: our code, the engine, the framework, or nobody expected it."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from engine.errors import Problem, SpecError, TrainyardError, nearest
from service import logs
from service.errors import ServiceError, invalid_request, invalid_spec
from service.routes.render import dumps, present

MEDIA_TYPE = "application/problem+json"


def answer(error: ServiceError, path: str) -> Response:
    """The response that tells a client of an error."""
    told = "; ".join(problem.detail for problem in error.errors) or error.detail if path.startswith("/v2") else None     # as KServe V2 has it
    return Response(dumps({**error.as_dict(path), **present(request_id=logs.current("request_id") or None, error=told)}), error.status, error.headers,
                    MEDIA_TYPE)


def unknown_name(what: str, name: str, pointer: str, known: list[str]) -> ServiceError:
    """422 for one name that is not among the known ones."""
    detail = f"there is no {what} {name[:80]!r}"
    return invalid_request(detail, [Problem(pointer, f"unknown_{what.replace(' ', '_')}", detail, nearest(name, known))])


def of_parameters(error: RequestValidationError) -> ServiceError:
    """422 for wrong parameters of the query, path or headers."""
    found = []
    for item in error.errors():
        code = "out_of_range" if item["type"].startswith(("greater_than", "less_than")) else "invalid_value"
        message = item["msg"][:1].lower() + item["msg"][1:]
        pointer = "/" + "/".join(str(step) for step in item["loc"])
        found.append(Problem(pointer, code, f"{item['loc'][-1]}: {message}, found {str(item['input'])[:80]!r}"))
    return invalid_request(found[0].detail if len(found) == 1 else f"{len(found)} errors", found)


def of_framework(error: HTTPException, request: Request) -> ServiceError:
    """404 and 405 of the router, and what else Starlette refuses by itself."""
    path = request.url.path
    if error.status_code == 404:
        return ServiceError(404, "not_found", f"there is nothing at {path[:200]}: see /docs")
    if error.status_code == 405:
        methods = {method for route in request.app.state.routes if route.path_regex.match(path) for method in route.methods}
        allowed = ", ".join(sorted(methods | ({"HEAD"} if "GET" in methods else set())))
        detail = f"{path[:200]} does not take {request.method[:20]}; it takes {allowed}"
        return ServiceError(405, "method_not_allowed", detail, headers={"Allow": allowed})
    return ServiceError(error.status_code, "invalid_request", str(error.detail), headers=error.headers)


def surprise() -> ServiceError:
    """500 for what nobody expected."""
    return ServiceError(500, "internal", "this is a fault of the service, not of the request: its log says more")


def install(app: FastAPI) -> None:
    """Give the app a handler for each kind of exception."""
    makers: dict[Any, Any] = {
        ServiceError: lambda error, request: error,
        SpecError: lambda error, request: invalid_spec(error.problems),
        TrainyardError: lambda error, request: invalid_spec([Problem("", "invalid_value", str(error))]),
        RequestValidationError: lambda error, request: of_parameters(error),
        HTTPException: of_framework,
    }
    for kind, make in makers.items():
        async def handle(request: Request, error: Exception, make: Any = make) -> Response:
            return answer(make(error, request), request.url.path)

        app.add_exception_handler(kind, handle)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The error responses of a route for OpenAPI: those named, and `default` for all that any route may give."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    named: dict[int | str, dict[str, Any]] = {status: {"description": HTTPStatus(status).phrase, "content": content} for status in sorted(statuses)}
    return {**named, "default": {"description": "Any other error", "content": content}}
