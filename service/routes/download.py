"""Models to take away, as safetensors, npz or ONNX."""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Annotated, Literal

from fastapi import APIRouter, Header, Query, Request
from starlette.responses import Response

from engine.train.run.checkpoint import unpack
from service import artifacts, weights
from service.ask import ask
from service.errors import ServiceError
from service.routes.api import Api, Closed, Here, in_thread
from service.routes.conditional import TAGGED, UNCHANGED, IfNoneMatch, unchanged
from service.routes.predict import model_of
from service.routes.problems import documented
from service.routes.results import Which, find_checkpoint
from service.store.changes import Row

router = APIRouter(prefix="/v1/jobs", route_class=Closed, tags=["results"])
FILE = {"schema": {"type": "string", "format": "binary"}}
RANGE = re.compile(r"bytes=(\d*)-(\d*)")
Range = Annotated[str | None, Header(alias="Range", description="bytes=FIRST-LAST: a part of the file")]
IfRange = Annotated[str | None, Header(alias="If-Range", description="an `ETag`: the part if the file is still that one, else all of it")]


@router.get("/{job_id}/model", responses={
    200: {"description": "The file; `Repr-Digest` has its SHA-256", "content": dict.fromkeys(weights.MEDIA_TYPES.values(), FILE), "headers": TAGGED},
    206: {"description": "The part of the file that `Range` names"}, **UNCHANGED, **documented(404, 409, 416, 422, 503)})
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
    return piece(data, part if same_file in (None, tag) else None, headers, weights.MEDIA_TYPES[form])


def packed(api: Api, job: Row, row: Row, which: str, form: str) -> bytes:
    """The file: parameters and buffers and no more of the run's state."""
    data = artifacts.read_checkpoint(api.store.home, row)
    if data is None:
        raise ServiceError(500, "checkpoint_corrupt", f"the checkpoint of epoch {row['epoch']} is damaged or gone: take another one")
    checkpoint = unpack(data)
    arrays = weights.arrays_of(checkpoint, row["best_weights"])
    return weights.pack(arrays, weights.facts_of(job["spec"], which, row["epoch"], checkpoint.meta, arrays), form)


def piece(data: bytes, part: str | None, headers: dict[str, str], media_type: str) -> Response:
    """All of it, or one part; a range that is none is not looked at, as RFC 9110 has it."""
    found = RANGE.fullmatch(part.strip()) if part else None
    if found is None or not any(found.groups()):
        return Response(data, 200, headers, media_type)
    first, last = found.groups()
    begin = int(first) if first else max(0, len(data) - int(last))
    end = min(int(last), len(data) - 1) if first and last else len(data) - 1
    if first and last and int(last) < int(first):
        return Response(data, 200, headers, media_type)
    if begin >= len(data) or (not first and int(last) == 0):
        raise ServiceError(416, "range_not_satisfiable", f"the file has {len(data):,} bytes", headers={"Content-Range": f"bytes */{len(data)}"})
    return Response(data[begin:end + 1], 206, {**headers, "Content-Range": f"bytes {begin}-{end}/{len(data)}"}, media_type)
