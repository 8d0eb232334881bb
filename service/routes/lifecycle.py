"""What is asked of a job that exists: to stop, to pause, to go on, to change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from service.routes import shapes
from service.routes.api import Api, Closed, Here
from service.routes.bodies import as_object, read_json, read_nothing
from service.routes.changing import BODY, Changes, read_changes
from service.routes.conditional import TAGGED, IfMatch, check_match
from service.routes.once import Key, hash_of, once
from service.routes.problems import documented
from service.routes.wire import show_job, tag
from service.store import Reply
from service.store.changes import Row

router = APIRouter(prefix="/v1/jobs", route_class=Closed, tags=["jobs"])
ASKED: Any = {202: {"model": shapes.Job, "description": "The job, which does so as soon as it can"}, **documented(404, 409, 422)}


@router.post("/{job_id}/cancel", status_code=202, responses=ASKED)
async def cancel_job(request: Request, api: Here, job_id: str, key: Key = None) -> Response:
    """Stop a job within a batch, or take it out of the queue."""
    return await ask(request, api, key, "cancel", api.store.request_cancel, job_id)


@router.post("/{job_id}/pause", status_code=202, responses=ASKED)
async def pause_job(request: Request, api: Here, job_id: str, key: Key = None) -> Response:
    """Let a running job write a checkpoint within a batch and give its worker up. Resumed, it comes to the result that it would have come to."""
    return await ask(request, api, key, "pause", api.store.request_pause, job_id)


@router.post("/{job_id}/resume", status_code=202, responses=ASKED)
async def resume_job(request: Request, api: Here, job_id: str, key: Key = None) -> Response:
    """Put a paused job back into the queue."""
    return await ask(request, api, key, "resume", api.store.resume, job_id)


async def ask(request: Request, api: Api, key: str | None, name: str, wish: Callable[[str], Row], job_id: str) -> Response:
    body = await read_nothing(request)

    def do(_: Any) -> Reply:
        with api.store.write(name):
            return Reply(202, show_job(api.store, wish(job_id)))

    return await once(api, request, key, hash_of(body), lambda: None, do)


@router.patch("/{job_id}", responses={200: {"model": shapes.Job, "headers": TAGGED}, **documented(400, 404, 409, 412, 413, 415, 422)},
              openapi_extra=shapes.json_body(BODY))
async def change_job(request: Request, api: Here, job_id: str, key: Key = None, if_match: IfMatch = None) -> Response:
    """Change labels of any job, and of one that is not over what it trains with: hyper-parameters by name, `epochs`, and what is frozen.

    A running job takes a change up between two steps; the event `adjusted` tells which.
    """
    body, raw = await read_json(request, api.settings.max_spec_bytes, "a change")
    raw = as_object(raw)
    return await once(api, request, key, hash_of(body), lambda: read_changes(api, api.store.get_job(job_id), raw),
                      lambda found: _change(api, job_id, found, if_match))


def _change(api: Api, job_id: str, found: Changes, if_match: str | None) -> Reply:
    store = api.store
    with store.write("change"):
        row = store.get_job(job_id)
        check_match(if_match, tag(show_job(store, row), row["version"]))
        if found.labels:
            row = store.update_job(job_id, **found.labels)
        if found.changes:
            row = store.adjust(job_id, found.changes, epochs=found.changes.get("epochs"))
        job = show_job(store, row)
    return Reply(200, job, {"ETag": tag(job, row["version"])})
