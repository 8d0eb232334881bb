"""The OpenAPI document: what the routes say, with the shapes that they refer to."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from service.routes import catalogue, shapes, webhooks
from service.routes.health import VERSIONS
from service.routes.scopes import is_open, scope_of

ABOUT = """Train models over HTTP: post a model, an optimiser and a dataset, watch the loss fall, take the model away.

Errors have one shape, `application/problem+json`; their codes are at [/docs/errors](/docs/errors).

Every answer has an `X-Request-Id`: yours, if you send one, or one that is made; it is in the bodies of errors and in the service's log.

On loopback no token is needed until there is one; then, and everywhere else, requests send `Authorization: Bearer TOKEN`. A token has scopes: `read`
sees and predicts, `submit` also creates and changes, `admin` does everything and sees what belongs to all; the others see only what belongs to their
owner, and whatever is not theirs is not there (`404`). Each call says in `x-scope` what it needs. Answers to a token that has only a share of the
service have `RateLimit` and `RateLimit-Policy`; the shares are in [/v1/limits](/v1/limits). Beyond them: `429` with `Retry-After`."""


def describe(app: FastAPI) -> None:
    """Give the app its document, made at the first request for it."""
    made: dict[str, Any] = {}

    def document() -> dict[str, Any]:
        if not made:
            made.update(get_openapi(title="Trainyard", version=VERSIONS["version"], description=ABOUT, routes=app.routes))
            components = made.setdefault("components", {})
            schemas = components.setdefault("schemas", {})
            for model in (shapes.Problem, shapes.EventList):
                _add(schemas, model.__name__, model.model_json_schema(ref_template="#/components/schemas/{model}"))
            _add(schemas, "JobSpec", catalogue.job_schema("#/components/schemas/{model}"))
            components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
            made["security"] = [{}, {"token": []}]
            made["webhooks"] = webhooks.DESCRIBED
            for path, item in made.get("paths", {}).items():
                for method, call in item.items():
                    call["x-scope"] = scope_of(method.upper(), path)
                    if is_open(method.upper(), path):
                        call["x-scope"], call["security"] = "none", []
        return made

    app.openapi = document      # type: ignore[method-assign]


def _add(schemas: dict[str, Any], name: str, schema: dict[str, Any]) -> None:
    """Put a schema and those inside it among the others, under names of their own."""
    inner = schema.pop("$defs", {})
    schemas[name] = schema
    for other, found in inner.items():
        schemas.setdefault(other, found)
