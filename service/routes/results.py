"""What a job has made so far: numbers over time, checkpoints, the trained model."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Query, Request
from safetensors.numpy import save
from starlette.responses import Response

from engine.errors import Problem, nearest
from engine.train.run.checkpoint import unpack
from service import artifacts
from service.errors import ServiceError, invalid_request
from service.routes import shapes
from service.routes.api import Api, Closed, Here, in_thread
from service.routes.problems import documented, unbuilt
from service.routes.render import Answer, Json
from service.routes.wire import show_checkpoint
from service.store import curves
from service.store.changes import Row

router = APIRouter(prefix="/v1/jobs", route_class=Closed, tags=["results"])
WHICH = r"^(last|best|\d{1,9})$"
Which = Annotated[str, Query(alias="checkpoint", pattern=WHICH, description="last, best, or the number of an epoch")]
MODEL_TYPES = {"safetensors": "application/octet-stream", "npz": "application/x-npz"}
FILE = {"schema": {"type": "string", "format": "binary"}}


@router.get("/{job_id}/metrics", responses={200: {"model": shapes.Metrics, "content": {"text/csv": {"schema": {"type": "string"}}}},
                                            **documented(404, 422)})
async def get_metrics(
    request: Request, api: Here, job_id: str,
    series: Annotated[str | None, Query(description="names, separated by commas; all")] = None,
    by: Annotated[Literal["epoch", "step"], Query(description="a row for each epoch, or for each step")] = "epoch",
    points: Annotated[int, Query(ge=2, le=100_000, description="most rows; longer series are thinned, their extremes stay")] = 1000,
    form: Annotated[Literal["json", "csv"] | None, Query(alias="format", description="instead of `Accept`")] = None,
) -> Response:
    """Losses and metrics over time, by column."""
    names = list(dict.fromkeys(name.strip() for name in series.split(","))) if series is not None else []
    found = await in_thread(charted, api, job_id, names, by, points)
    if form == "csv" or (form is None and "text/csv" in request.headers.get("accept", "")):
        return Response(as_csv(found["columns"]), media_type="text/csv")
    return Answer({"object": "metrics", "job_id": job_id, "by": by, **found})


def charted(api: Api, job_id: str, names: list[str], by: str, points: int) -> Json:
    """The columns; 422 for series that the job, once it has any, does not have."""
    with api.store.read():
        api.store.get_job(job_id)
        found = curves.chart(api.store, job_id, names, by=by, points=points)
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
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return text.getvalue()


@router.get("/{job_id}/checkpoints", responses={200: {"model": shapes.CheckpointList}, **documented(404)})
async def list_checkpoints(api: Here, job_id: str) -> Response:
    """The checkpoints that are kept, newest first."""
    await in_thread(api.store.get_job, job_id)
    rows = await in_thread(api.store.checkpoints, job_id)
    return Answer({"object": "list", "data": [show_checkpoint(row) for row in rows], "has_more": False})


@router.get("/{job_id}/model", responses={200: {"description": "The file", "content": dict.fromkeys(MODEL_TYPES.values(), FILE)},
                                          **documented(404, 409, 422, 501)})
async def get_model(api: Here, job_id: str, which: Which = "last",
                    form: Annotated[Literal["safetensors", "npz", "onnx"], Query(alias="format")] = "safetensors") -> Response:
    """The trained model: its arrays by path, with the spec and the preprocessing."""
    if form == "onnx":
        raise unbuilt("format=onnx")
    row, data = await in_thread(model_file, api, job_id, which, form)
    headers = {"Content-Disposition": f'attachment; filename="{job_id}-{which}.{form}"', "ETag": f'"{row["sha256"]}.{which}.{form}"'}
    return Response(data, headers=headers, media_type=MODEL_TYPES[form])


def find_checkpoint(api: Api, job_id: str, which: str) -> tuple[Row, Row]:
    """(job, checkpoint); 404 without such a job, 409 `no_checkpoint` without such a checkpoint.

    Each checkpoint has the best weights so far beside its own, so "best" is the newest one, seen as `best_weights`.
    """
    with api.store.read():
        return api.store.get_job(job_id), {**api.store.checkpoint(job_id, "last" if which == "best" else which), "best_weights": which == "best"}


def model_file(api: Api, job_id: str, which: str, form: str) -> tuple[Row, bytes]:
    """The checkpoint's row, and a file with the parameters and buffers in it and no more of the run's state: the same bytes for the same job."""
    job, row = find_checkpoint(api, job_id, which)
    data = artifacts.read_checkpoint(api.store.home, row)
    if data is None:
        raise ServiceError(500, "checkpoint_corrupt", f"the checkpoint of epoch {row['epoch']} is damaged or gone: take another one")
    checkpoint = unpack(data)
    best = row["best_weights"] and checkpoint.group("best")
    arrays = {**best, **checkpoint.group("best_buffers")} if best else {**checkpoint.group("parameters"), **checkpoint.group("buffers")}
    epoch = checkpoint.meta["best"]["epoch"] if best else row["epoch"]
    facts = {"checkpoint": which, "epoch": epoch, "spec": job["spec"],
             **{name: checkpoint.meta[name] for name in ("fitted", "class_names") if name in checkpoint.meta}}
    return row, pack(arrays, json.dumps(facts, ensure_ascii=False), form)


def pack(arrays: dict[str, np.ndarray], facts: str, form: str) -> bytes:
    """A model file: safetensors with the facts under `trainyard` in its metadata, or npz with an array `trainyard` of their UTF-8 bytes."""
    if form == "safetensors":
        return save(arrays, {"trainyard": facts})
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **{**dict(sorted(arrays.items())), "trainyard": np.frombuffer(facts.encode(), np.uint8)})
    return file.getvalue()
