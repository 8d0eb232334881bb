"""The KServe V2 protocol (Open Inference Protocol, github.com/kserve/open-inference-protocol). A model is a name or the id of a job, a version the
number of an epoch, `last` or `best`. Errors have `error`, one sentence, beside the fields that they have everywhere here."""

from __future__ import annotations

import re
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request
from pydantic import BaseModel
from starlette.responses import Response

from engine.data.table import MOST_AXES
from engine.errors import Problem
from service.ask import ask
from service.errors import ServiceError, invalid_request, not_found
from service.notation import LENGTH
from service.routes import shapes
from service.routes.api import Api, Closed, Here, in_thread
from service.routes.bodies import read
from service.routes.health import VERSIONS, readiness
from service.routes.models import find_model
from service.routes.predict import answered, model_of
from service.routes.problems import documented
from service.routes.render import Answer
from service.routes.results import WHICH, find_checkpoint
from service.store.changes import Row

router = APIRouter(prefix="/v2", route_class=Closed, tags=["KServe V2"])
PLATFORM = "trainyard"
Object = dict[str, Any]


class Live(BaseModel):
    live: bool


class Ready(BaseModel):
    name: str | None = None
    ready: bool


class ServerMetadata(BaseModel):
    name: str
    version: str
    extensions: list[str]


class ModelMetadata(BaseModel):
    name: str
    versions: list[str]
    platform: str
    inputs: list[Object]
    outputs: list[Object]


class Inference(BaseModel):
    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[Object]


PARAMETERS, TEXT = {"type": ["object", "null"]}, {"type": ["string", "null"]}
SHAPE = {"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": 1, "maxItems": MOST_AXES}
TENSOR = {"type": "object", "additionalProperties": False, "required": ["name", "shape", "datatype"], "properties": {
    "name": {"type": "string"}, "shape": SHAPE, "datatype": {"type": "string"}, "parameters": PARAMETERS,
    "data": {"type": ["array", "null"], "items": {}}}}
BINARY = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
INFER = shapes.json_body({"type": "object", "additionalProperties": False, "required": ["inputs"], "properties": {
    "id": TEXT, "model_name": TEXT, "model_version": TEXT, "parameters": PARAMETERS,
    "inputs": {"type": "array", "items": TENSOR, "minItems": 1},
    "outputs": {"type": ["array", "null"], "items": {"type": "object", "additionalProperties": False, "required": ["name"], "properties": {
        "name": {"type": "string"}, "parameters": PARAMETERS}}}}}, BINARY)
INFERRED: dict[int | str, dict[str, Any]] = {200: {"model": Inference, "content": BINARY}}
ASKED: dict[int | str, dict[str, Any]] = documented(400, 404, 409, 413, 422, 503)


@router.get("", responses={200: {"model": ServerMetadata}, **documented()})
async def get_server() -> Response:
    """What serves here, and by which extensions of the protocol."""
    return Answer({"name": PLATFORM, "version": VERSIONS["version"], "extensions": ["binary_tensor_data"]})


@router.get("/health/live", responses={200: {"model": Live}, **documented()})
async def get_live() -> Response:
    """The process is alive."""
    return Answer({"live": True})


@router.get("/health/ready", responses={200: {"model": Ready}, **documented(503)})
async def get_ready(api: Here) -> Response:
    """The service can take work: as /readyz."""
    failed = [said for said in (await in_thread(readiness, api)).values() if said != "ok"]
    if failed:
        raise ServiceError(503, "unavailable", "; ".join(failed), headers={"Retry-After": "2"})
    return Answer({"ready": True})


@router.get("/models/{model}/ready", responses={200: {"model": Ready}, **documented(404, 409)})
@router.get("/models/{model}/versions/{version}/ready", responses={200: {"model": Ready}, **documented(404, 409)})
async def get_model_ready(api: Here, model: str, version: str | None = None) -> Response:
    """Whether the model has weights to answer with; 409 before its first checkpoint."""
    await in_thread(found, api, model, version)
    return Answer({"name": model, "ready": True})


@router.get("/models/{model}", responses={200: {"model": ModelMetadata}, **ASKED})
@router.get("/models/{model}/versions/{version}", responses={200: {"model": ModelMetadata}, **ASKED})
async def get_model_metadata(api: Here, model: str, version: str | None = None) -> Response:
    """The model's inputs and outputs: names, types, and shapes, in which -1 is any number of rows."""
    job, checkpoint, versions = await in_thread(found, api, model, version)
    facts = {"name": model, "versions": versions, "platform": PLATFORM}
    return answered(await ask(api.wake, {"call": "describe", **model_of(job, checkpoint), "facts": facts}))


@router.post("/models/{model}/infer", responses={**INFERRED, **ASKED}, openapi_extra=INFER)
@router.post("/models/{model}/versions/{version}/infer", responses={**INFERRED, **ASKED}, openapi_extra=INFER)
async def infer(request: Request, api: Here, model: str, version: str | None = None,
                length: Annotated[str | None, Header(alias=LENGTH, description="bytes of JSON before binary tensors")] = None) -> Response:
    """Tensors in, tensors out."""
    body = await read(request, api.settings.max_predict_bytes, "an inference")
    if length is not None and not (length.isdecimal() and len(length) < 12 and 0 < int(length) <= len(body)):
        raise invalid_request(f"{LENGTH} says {length[:40]!r}: the body has {len(body)} bytes", [
            Problem(f"/header/{LENGTH}", "invalid_value", "it is the number of bytes of the JSON at the beginning of the body")], 400)
    job, checkpoint, _ = await in_thread(found, api, model, version)
    facts = {"model_name": model, "model_version": str(checkpoint["epoch"])}
    return answered(await ask(api.wake, {"call": "infer", **model_of(job, checkpoint), "facts": facts, "length": int(length or 0)}, body))


def found(api: Api, model: str, version: str | None) -> tuple[Row, Row, list[str]]:
    """(job, checkpoint, the versions that are kept) of a name or the id of a job."""
    if version is not None and not re.fullmatch(WHICH, version):
        raise not_found("version", f"{version[:80]!r} of {model[:80]!r}: a version is the number of an epoch, last or best")
    with api.store.read():
        job, checkpoint = find_checkpoint(api, model, version or "last") if model.startswith("job_") else find_model(api, model, version)
        versions = sorted({row["epoch"] for row in api.store.checkpoints(job["id"])})
    return job, checkpoint, [str(epoch) for epoch in versions]
