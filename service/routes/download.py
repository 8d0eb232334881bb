"""Models to take away, as safetensors, npz or ONNX."""

from __future__ import annotations

import base64
import hashlib
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from engine.train.run.checkpoint import unpack
from service import artifacts, weights
from service.ask import ask
from service.errors import ServiceError
from service.routes.api import Api, Closed, Here, in_thread
from service.routes.conditional import TAGGED, UNCHANGED, IfNoneMatch, unchanged
from service.routes.predict import model_of
from service.routes.problems import documented
from service.routes.ranges import PARTIAL, IfRange, Range, span
from service.routes.results import Which, find_checkpoint
from service.store.changes import Row

router = APIRouter(prefix="/v1/jobs", route_class=Closed, tags=["results"])
FILE = {"schema": {"type": "string", "format": "binary"}}


@router.get("/{job_id}/model", responses={
    200: {"description": "The file; `Repr-Digest` has its SHA-256", "content": dict.fromkeys(weights.MEDIA_TYPES.values(), FILE), "headers": TAGGED},
    **PARTIAL, **UNCHANGED, **documented(404, 409, 416, 422, 503)})
async def get_model(request: Request, api: Here, job_id: str, which: Which = "last", known: IfNoneMatch = None, part: Range = None,
                    same_file: IfRange = None,
                    form: Annotated[Literal["safetensors", "npz", "onnx"], Query(alias="format")] = "safetensors") -> Response:
    """The trained model with its spec, preprocessing and class names. ONNX is a graph from the inputs after preprocessing to the outputs."""
    job, row = await in_thread(find_checkpoint, api, job_id, which)
    tag = weights.tag_of(row["sha256"], which, form, job["spec"])
    if (same := unchanged(known, tag)) is not None:
        return same
    if form == "onnx":
        asked = {"call": "export", **model_of(job, row), "which": which, "epoch": row["epoch"]}
        data = (await ask(api.wake, asked)).body
    else:
        data = await in_thread(packed, api, job, row, which, form)
    sha256 = base64.b64encode((await in_thread(hashlib.sha256, data)).digest()).decode()
    headers = {"Content-Disposition": f'attachment; filename="{job_id}-{which}.{form}"', "ETag": tag, "Accept-Ranges": "bytes",
               "Repr-Digest": f"sha-256=:{sha256}:"}
    found = span(part, len(data)) if same_file in (None, tag) else None
    if found is None:
        return Response(data, 200, headers, weights.MEDIA_TYPES[form])
    begin, end = found
    return Response(data[begin:end], 206, {**headers, "Content-Range": f"bytes {begin}-{end - 1}/{len(data)}"}, weights.MEDIA_TYPES[form])


def packed(api: Api, job: Row, row: Row, which: str, form: str) -> bytes:
    """The file: parameters and buffers and no more of the run's state."""
    data = artifacts.read_checkpoint(api.store.home, row)
    if data is None:
        raise ServiceError(500, "checkpoint_corrupt", f"the checkpoint of epoch {row['epoch']} is damaged or gone: take another one")
    checkpoint = unpack(data)
    arrays = weights.arrays_of(checkpoint, row["best_weights"])
    return weights.pack(arrays, weights.facts_of(job["spec"], which, row["epoch"], checkpoint.meta, arrays), form)
