"""Models by name: what a name answers with is changed at once, and everybody who asks by name follows."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from engine.errors import Problem
from engine.train.lineage import NAME, NAMES
from service.errors import ServiceError, invalid_request
from service.routes import shapes
from service.routes.api import Api, Closed, Here, in_thread
from service.routes.bodies import as_object, closed, read_json
from service.routes.conditional import TAGGED, UNCHANGED, IfMatch, IfNoneMatch, check_match, unchanged
from service.routes.jobs import After, Limit
from service.routes.predict import (
    ANSWERED,
    EVALUATE,
    GENERATE,
    PREDICT,
    Find,
    Form,
    Losses,
    evaluated,
    generated,
    invalid_value,
    predicted,
    which_of,
)
from service.routes.problems import documented
from service.routes.render import Answer, Json, listed
from service.routes.results import WHICH, find_checkpoint
from service.routes.wire import show_model
from service.store.changes import Row

router = APIRouter(prefix="/v1/models", route_class=Closed, tags=["models"])
Own = Annotated[str | None, Query(alias="checkpoint", pattern=WHICH, description="another one than the name says: last, best, or an epoch")]
PUT = shapes.json_body({"type": "object", "additionalProperties": False, "required": ["job"], "properties": {
    "job": {"type": "string"}, "checkpoint": {"type": ["string", "integer"], "default": "last"}}})


@router.put("/{name}", responses={200: {"model": shapes.Model, "headers": TAGGED}, **documented(400, 409, 412, 413, 415, 422)}, openapi_extra=PUT)
async def put_model(request: Request, api: Here, name: str, if_match: IfMatch = None) -> Response:
    """From now on the name answers with this model; with `If-Match` only if it still answers as it did then."""
    _, raw = await read_json(request, api.settings.max_spec_bytes, "a name of a model")
    return shown(await in_thread(give, api, name, as_object(raw), if_match))


def give(api: Api, name: str, raw: Json, if_match: str | None) -> Row:
    """Check and do it, in one transaction."""
    closed(raw, ("job", "checkpoint"))
    if not NAME.fullmatch(name):
        raise invalid_value("/path/name", NAMES)
    job_id, which = raw.get("job"), which_of(raw) or "last"
    if not isinstance(job_id, str):
        raise invalid_value("/job", "job is the id of a job, a text")
    with api.store.write("put_model"):
        if if_match:
            check_match(if_match, _tag(api.store.get_model(name)))
        try:
            find_checkpoint(api, job_id, which)
        except ServiceError as error:
            if error.status != 404:
                raise
            raise invalid_request(error.detail, [Problem("/job", "unknown_job", error.detail)]) from None
        return api.store.publish(name, job_id, which)


def shown(row: Row) -> Response:
    return Answer(show_model(row), headers={"ETag": _tag(row), "Cache-Control": "no-cache"})


def _tag(row: Row) -> str:
    return f'"{row["id"]}"'


@router.get("", responses={200: {"model": shapes.ModelList}, **documented(422)})
async def list_models(api: Here, after: After = None, limit: Limit = 20) -> Response:
    """A page of names, those that were given last first."""
    rows, more = await in_thread(lambda: api.store.list_models(after=after, limit=limit))
    return Answer(listed([show_model(row) for row in rows], more))


@router.get("/{name}", responses={200: {"model": shapes.Model, "headers": TAGGED}, **UNCHANGED, **documented(404)})
async def get_model(api: Here, name: str, known: IfNoneMatch = None) -> Response:
    """What the name answers with, and what it answered with before. The `ETag` changes whenever that does."""
    row = await in_thread(api.store.get_model, name)
    return unchanged(known, _tag(row)) or shown(row)


@router.delete("/{name}", status_code=204, responses={204: {"description": "The name is gone, the job stays"}, **documented(404)})
async def delete_model(api: Here, name: str) -> Response:
    """Remove the name, and its history; the jobs stay."""
    await in_thread(api.store.unpublish, name)
    return Response(status_code=204)


def find_model(api: Api, name: str, which: str | None = None) -> tuple[Row, Row]:
    """(job, checkpoint) that a name answers with; `which` is another checkpoint of that job. 404 when there is no such name."""
    with api.store.read():
        found = api.store.get_model(name)
        return find_checkpoint(api, found["job_id"], which or found["checkpoint"])


def of(api: Api, name: str) -> Find:
    return lambda which: find_model(api, name, which)


ASKED: dict[int | str, dict[str, Any]] = documented(400, 404, 409, 413, 415, 422, 503)


@router.post("/{name}/predict", responses=ANSWERED, openapi_extra=PREDICT)
async def predict(request: Request, api: Here, name: str, which: Own = None, losses: Losses = False, form: Form = None) -> Response:
    """As for its job."""
    return await predicted(request, api, *await in_thread(find_model, api, name, which), losses=losses, form=form, model=name)


@router.post("/{name}/evaluate", responses={200: {"model": shapes.Evaluation}, **ASKED}, openapi_extra=EVALUATE)
async def evaluate(request: Request, api: Here, name: str) -> Response:
    """As for its job."""
    return await evaluated(request, api, of(api, name), model=name)


@router.post("/{name}/generate", responses={200: {"model": shapes.Generation}, **ASKED}, openapi_extra=GENERATE)
async def generate(request: Request, api: Here, name: str) -> Response:
    """As for its job."""
    return await generated(request, api, of(api, name), model=name)
