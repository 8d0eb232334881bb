"""What a job has made so far: numbers over time, checkpoints."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from engine.errors import Problem, nearest
from service.errors import invalid_request
from service.routes import eventfile, shapes
from service.routes.api import Api, Closed, Here, in_thread
from service.routes.problems import documented
from service.routes.render import Answer, Json
from service.routes.wire import show_checkpoint
from service.store import curves
from service.store.changes import Row

router = APIRouter(prefix="/v1/jobs", route_class=Closed, tags=["results"])
EVENT_FILE = "application/octet-stream"
WHICH = r"^(last|best|\d{1,9})$"
Which = Annotated[str, Query(alias="checkpoint", pattern=WHICH, description="last, best, or the number of an epoch")]


@router.get("/{job_id}/metrics", responses={200: {"model": shapes.Metrics, "content": {
    "text/csv": {"schema": {"type": "string"}}, EVENT_FILE: {"schema": {"type": "string", "format": "binary"}}}}, **documented(404, 422)})
async def get_metrics(
    request: Request, api: Here, job_id: str,
    series: Annotated[str | None, Query(description="names, separated by commas; all")] = None,
    by: Annotated[Literal["epoch", "step"], Query(description="a row for each epoch, or for each step")] = "epoch",
    points: Annotated[int, Query(ge=2, le=100_000, description="most rows; longer series are thinned, their extremes stay")] = 1000,
    form: Annotated[Literal["json", "csv", "tensorboard"] | None, Query(
        alias="format", description="instead of `Accept`; tensorboard is an event file of all series, by epoch and by step")] = None,
) -> Response:
    """Losses and metrics over time, by column."""
    names = list(dict.fromkeys(name.strip() for name in series.split(","))) if series is not None else []
    if form == "tensorboard":
        job, file = await in_thread(eventfile.event_file, api.store, job_id, names, points)
        headers = {"Content-Disposition": f'attachment; filename="{eventfile.file_name(job)}"'}
        return Response(file, headers=headers, media_type=EVENT_FILE)
    found = await in_thread(charted, api, job_id, names, by, points)
    if form == "csv" or (form is None and "text/csv" in request.headers.get("accept", "")):
        return Response(as_csv(found["columns"]), media_type="text/csv")
    return Answer({"object": "metrics", "job_id": job_id, "by": by, **found})


def charted(api: Api, job_id: str, names: list[str], by: str, points: int) -> Json:
    """The columns; 422 for series that the job, once it has any, does not have. What an epoch calls `train_loss` is the `loss` of a step."""
    loss = {"train_loss": "loss"} if by == "step" else {}
    with api.store.read():
        api.store.get_job(job_id)
        found = curves.chart(api.store, job_id, dict.fromkeys(loss.get(name, name) for name in names), by=by, points=points)
        columns = found["columns"]
        if names:
            found["columns"] = {name: columns[loss.get(name, name)] for name in dict.fromkeys(("epoch", "step", *names))}
        empty = [name for name in names if all(value is None for value in found["columns"][name])]
        known = list(curves.chart(api.store, job_id, by=by, points=2)["columns"]) if empty else []
    others = [name for name in known if name not in ("epoch", "step")]
    if unknown := [name for name in empty if others and name not in others]:
        detail = f"the job has no series {unknown[0][:80]!r} by {by}; it has {', '.join(others)}"
        raise invalid_request(detail, [Problem("/query/series", "unknown_series", detail, nearest(name, others)) for name in unknown])
    return found


def as_csv(columns: Mapping[str, list[Any]]) -> str:
    """A header and a row for each step; a missing value is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow("'" + name if name[:1] in ("=", "+", "-", "@", "\t", "\r") else name for name in columns)      # no formula in a spreadsheet
    writer.writerows(zip(*columns.values(), strict=True))
    return text.getvalue()


@router.get("/{job_id}/checkpoints", responses={200: {"model": shapes.CheckpointList}, **documented(404)})
async def list_checkpoints(api: Here, job_id: str) -> Response:
    """The checkpoints that are kept, newest first."""
    await in_thread(api.store.get_job, job_id)
    rows = await in_thread(api.store.checkpoints, job_id)
    return Answer({"object": "list", "data": [show_checkpoint(row) for row in rows], "has_more": False})


def find_checkpoint(api: Api, job_id: str, which: str) -> tuple[Row, Row]:
    """(job, checkpoint); 404 without such a job, 409 `no_checkpoint` without such a checkpoint.

    Each checkpoint has the best weights so far beside its own, so "best" is the newest one, seen as `best_weights`.
    """
    with api.store.read():
        job, row = api.store.get_job(job_id), api.store.checkpoint(job_id, "last" if which == "best" else which)
    api.uses.job(job)
    return job, {**row, "best_weights": which == "best"}
