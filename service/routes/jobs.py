"""Jobs: create, validate, list, read, remove."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from service import artifacts
from service import jobs as states
from service.errors import invalid_request, overloaded
from service.routes import shapes
from service.routes.api import Api, Closed, Here, in_thread
from service.routes.bodies import as_object, read_json
from service.routes.conditional import TAGGED, UNCHANGED, IfMatch, IfNoneMatch, check_match, unchanged
from service.routes.creation import Candidate, Ready, candidate, check_size, ready
from service.routes.once import Key, hash_of, once
from service.routes.problems import documented, unknown_name
from service.routes.render import Answer, Json, listed
from service.routes.shares import check_jobs
from service.routes.wire import show_job, show_jobs, tag
from service.store import Reply
from service.store.changes import Row

router = APIRouter(prefix="/v1/jobs", route_class=Closed, tags=["jobs"])
After = Annotated[str | None, Query(pattern=r"^[a-z]{2,10}_[0-9A-Z]{26}$", description="what `last_id` of the page before gave")]
Limit = Annotated[int, Query(ge=1, le=100, description="most entries of a page")]
METADATA = {"name": "metadata", "in": "query", "style": "deepObject", "explode": True, "description": "`metadata[key]=value`: jobs with these labels",
            "schema": {"type": "object", "additionalProperties": {"type": "string"}}}
PAIR = re.compile(r"metadata\[(.{1,64})\]")
CREATED = {202: {"model": shapes.Job, "description": "The job is queued", "headers": {"Location": {"schema": {"type": "string"}}}},
           200: {"model": shapes.Validation, "description": "With `validate_only`: what the job would be"}}


@router.post("", status_code=202, responses={**documented(400, 409, 413, 415, 422, 429, 503, 507), **CREATED},
             openapi_extra=shapes.json_body({"$ref": "#/components/schemas/JobSpec"}))
async def create_job(request: Request, api: Here, key: Key = None,
                     validate_only: Annotated[bool, Query(description="check the whole job, queue nothing")] = False) -> Response:
    """Queue a job; with `validate_only` say what it would be."""
    most = api.settings.max_spec_bytes + api.settings.max_inline_bytes
    body, raw = await read_json(request, most, "a job")
    raw = as_object(raw)
    check_size(api.settings, body, raw)
    if validate_only:
        return Answer(await in_thread(lambda: show_validation(candidate(api, raw))))
    return await once(api, request, key, hash_of(body), lambda: ready(api.store, candidate(api, raw)), lambda found: queue(api, found))


def queue(api: Api, found: Ready) -> Reply:
    """Store a job that was checked; 429 while too many wait."""
    with found.or_nothing(), api.store.write("create"):
        job = show_job(api.store, found.queue(api.store))
        if api.store.waiting() > api.settings.max_queued:
            raise overloaded(f"{api.settings.max_queued:,} jobs wait already: send this one again later", 10)
        check_jobs(api)
    return Reply(202, job, {"Location": f"/v1/jobs/{job['id']}"})


def show_validation(found: Candidate) -> Json:
    summary = found.summary
    spec = found.spec if found.inline is None else {**found.spec, "data": {**found.spec["data"], "dataset": found.inline}}
    estimate = {"seconds": summary.seconds_per_epoch * summary.spec["epochs"], "seconds_per_epoch": summary.seconds_per_epoch,
                "memory_bytes": summary.memory_bytes, "checkpoint_bytes": summary.checkpoint_bytes}
    return {"object": "job.validation", "spec": spec, "layers": summary.layers, "parameters": summary.parameters,
            "steps_per_epoch": summary.steps_per_epoch, "rows": summary.rows, "estimate": estimate, "warnings": summary.warnings}


@router.get("", responses={200: {"model": shapes.JobList}, **documented(422)}, openapi_extra={"parameters": [METADATA]})
async def list_jobs(request: Request, api: Here, after: After = None, limit: Limit = 20,
                    status: Annotated[str | None, Query(description="states, separated by commas")] = None) -> Response:
    """A page of jobs, newest first."""
    wanted = [word.strip() for word in status.split(",")] if status is not None else []
    for word in wanted:
        if word not in states.STATES:
            raise unknown_name("status", word, "/query/status", list(states.STATES))
    pairs = {}
    for name, value in request.query_params.items():
        if name.startswith("metadata["):
            if (found := PAIR.fullmatch(name)) is None:
                raise invalid_request(f"{name[:80]!r} is not metadata[key]")
            pairs[found[1]] = value
    return Answer(await in_thread(_page, api, wanted, pairs, after, limit))


def _page(api: Api, status: list[str], metadata: dict[str, str], after: str | None, limit: int) -> Json:
    with api.store.read():
        rows, more = api.store.list_jobs(status=status, metadata=metadata, after=after, limit=limit)
        return listed(show_jobs(api.store, rows), more)


@router.get("/{job_id}", responses={200: {"model": shapes.Job, "headers": TAGGED}, **UNCHANGED, **documented(404)})
async def get_job(api: Here, job_id: str, known: IfNoneMatch = None) -> Response:
    """One job. Its `ETag` changes whenever the job does."""
    def look() -> tuple[Json, int]:
        with api.store.read():
            row = api.store.get_job(job_id)
            return show_job(api.store, row), row["version"]

    job, version = await in_thread(look)
    found = tag(job, version)
    return unchanged(known, found) or Answer(job, headers={"ETag": found, "Cache-Control": "no-cache"})


@router.delete("/{job_id}", status_code=204, responses={204: {"description": "The job and its files are gone"}, **documented(404, 409, 412)})
async def delete_job(api: Here, job_id: str, if_match: IfMatch = None) -> Response:
    """Remove a job that is over, with its events, checkpoints and inline data."""
    def check(row: Row) -> None:
        check_match(if_match, tag(show_job(api.store, row), row["version"]))

    await in_thread(artifacts.delete_job, api.store, job_id, check)
    return Response(status_code=204)
