"""What there is: layers, losses and the rest, generated from the registries, and the schema of a job."""

from __future__ import annotations

from functools import cache
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from engine import catalogue
from engine.data.augment import augmentations
from engine.data.preprocess import preprocessing
from engine.errors import nearest
from engine.train.callbacks import callbacks
from engine.train.job import Job, objectives
from service.errors import not_found
from service.routes.api import Closed, in_thread
from service.routes.problems import documented
from service.routes.render import Answer, Json, dumps
from service.samples import samples

router = APIRouter(route_class=Closed, tags=["catalogue"])
SPELLINGS = {"optimizers": "optimisers", "initializers": "initialisers"}


class SchemaResponse(Response):
    media_type = "application/schema+json"


@cache
def groups() -> dict[str, list[Json]]:
    """Every group of the catalogue."""
    found = catalogue.catalogue()
    for name, classes in (("losses", objectives), ("callbacks", callbacks), ("preprocessing", preprocessing),
                          ("augmentations", augmentations)):
        known = {one["kind"] for one in found.setdefault(name, [])}
        found[name] += [catalogue.entry(cls) for cls in classes if cls.kind_name() not in known]
    return {**found, "samples": samples()}


@cache
def whole() -> bytes:
    return dumps({"object": "catalogue", **groups()})


def job_schema(references: str = "#/$defs/{model}") -> Json:
    """JSON Schema of what `POST /v1/jobs` takes."""
    return Job.model_json_schema(ref_template=references)


@cache
def job_document() -> bytes:
    return dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **job_schema()})


@router.get("/v1/catalogue", responses=documented())
async def get_catalogue() -> Response:
    """Everything that a job may name."""
    return Answer(await in_thread(whole))


@router.get("/v1/catalogue/{group}", responses=documented(404))
async def get_group(group: str) -> Response:
    """One group of the catalogue: kinds with their aliases, formulas and the schema of their fields."""
    found = await in_thread(groups)
    name = SPELLINGS.get(group, group)
    if name not in found:
        near = nearest(name, found)
        raise not_found("group of the catalogue called", f"{name[:80]}; there are {', '.join(found)}" + (f". Did you mean {near}?" if near else ""))
    data: list[Any] = found[name]
    return Answer({"object": "list", "group": name, "data": data, "has_more": False})


@router.get("/v1/schemas/job.json", response_class=SchemaResponse,
            responses={200: {"content": {SchemaResponse.media_type: {"schema": {"type": "object"}}}}, **documented()})
async def get_job_schema() -> Response:
    """JSON Schema of a job spec, for editors."""
    return SchemaResponse(await in_thread(job_document))
