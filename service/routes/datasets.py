"""Datasets: uploads in any form, a preview, the bytes back."""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Annotated, Any, Protocol

from fastapi import APIRouter, Query, Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.responses import Response

from service import artifacts, datasets
from service.datasets import DatasetError, Incoming, Ingested, Limits, Part
from service.errors import invalid_request, too_large
from service.routes import shapes
from service.routes.api import Api, Closed, Here, in_thread
from service.routes.bodies import JSON_TYPES, as_object, closed, media_type, pieces, read_json
from service.routes.conditional import TAGGED, UNCHANGED, IfNoneMatch, unchanged
from service.routes.jobs import After
from service.routes.jobs import Limit as PageLimit
from service.routes.once import Key, hash_of, once
from service.routes.problems import documented
from service.routes.ranges import PARTIAL, IfRange, Range, Stored, span
from service.routes.render import Answer, Json, listed
from service.routes.shares import check_storage
from service.routes.wire import show_dataset
from service.store import Reply

router = APIRouter(prefix="/v1/datasets", route_class=Closed, tags=["datasets"])
BATCH = 1 << 20             # bytes handed to the disk together
PARTS = 1000
READERS = asyncio.Semaphore(8)      # uploads read at once: each takes one of the threads that all requests share
PREVIEW_NUMBERS = 1_000_000
MEDIA_TYPES = {"csv": "text/csv", "text": "text/plain; charset=utf-8", "ndjson": "application/x-ndjson", "json": "application/json",
               "npy": "application/x-npy", "npz": "application/x-npz", "parquet": "application/vnd.apache.parquet",
               "images": "application/zip", "safetensors": "application/x-safetensors"}
BINARY = {"schema": {"type": "string", "format": "binary"}}
INLINE = {"type": "object", "additionalProperties": False, "properties": {
    "name": {"type": "string"}, "columns": {"type": "object", "additionalProperties": {"type": "array", "items": {}}},
    "rows": {"type": "array", "items": {"type": "object"}}}, "oneOf": [{"required": ["columns"]}, {"required": ["rows"]}]}
FORM = {"schema": {"type": "object", "additionalProperties": {"type": "string", "format": "binary"}}}
FILES = ("text/csv", "text/plain", "application/x-ndjson", "application/x-npy", "application/x-npz", "application/x-idx",
         "application/vnd.apache.parquet", "application/zip", "application/x-safetensors", "application/octet-stream")
BODY = shapes.json_body(INLINE, {"multipart/form-data": FORM, **dict.fromkeys(FILES, BINARY)})


@router.post("", status_code=201, openapi_extra=BODY,
             responses={201: {"model": shapes.Dataset, "headers": {"Location": {"schema": {"type": "string"}}}},
                        **documented(400, 408, 409, 413, 415, 422, 503, 507)})
async def create_dataset(
    request: Request, api: Here, key: Key = None,
    name: Annotated[str, Query(max_length=256)] = "",
    form: Annotated[str | None, Query(alias="format", description="csv, text, ndjson, json, npy, npz, idx, parquet, images or safetensors")] = None,
    header: Annotated[bool | None, Query(description="whether the first row of a CSV file has the names")] = None,
    delimiter: Annotated[str | None, Query(description="between the fields of a CSV file")] = None,
    types: Annotated[str | None, Query(description="`zip:category,when:datetime`: kinds of columns")] = None,
    retain_seconds: Annotated[float | None, Query(gt=0, le=1e10, description="remove it so long after its last use")] = None,
) -> Response:
    """Upload data: a file, a form with files, or JSON columns or rows."""
    wanted = {"format": form, "header": header, "delimiter": delimiter, "types": types}
    limits = limits_of(api)

    def keep(taken: Ingested) -> Reply:
        return keep_dataset(api, taken, retain_seconds)

    found = media_type(request)
    if JSON_TYPES.fullmatch(found):
        body, raw = await read_json(request, api.settings.max_inline_bytes + api.settings.max_spec_bytes, "JSON data")
        return await once(api, request, key, hash_of(body), lambda: of_json(api, as_object(raw), name, wanted, limits), keep)
    if found == "multipart/form-data":
        parts = await read_form(request, limits.bytes)
        digest = await in_thread(hash_of_parts, parts)
        async with READERS:
            return await once(api, request, key, digest,
                              lambda: datasets.ingest_parts(api.store.home, parts, name=name, limits=limits, **wanted), keep)
    async with taking_in(api) as incoming:
        await receive(request, incoming, limits.bytes)
        digest = incoming.hash.hexdigest()
        async with READERS:
            return await once(api, request, key, digest, lambda: incoming.finish(name=name, media_type=found, **wanted), keep)


@asynccontextmanager
async def taking_in(api: Api) -> AsyncIterator[Incoming]:
    """An upload on its way; what is left of a large one is removed beside the event loop."""
    incoming = await in_thread(Incoming, api.store.home, limits_of(api))
    try:
        yield incoming
    finally:
        await in_thread(incoming.__exit__, None, None, None)


def limits_of(api: Api) -> Limits:
    """What one upload may have."""
    settings = api.settings
    return Limits(bytes=settings.max_upload_bytes, expanded_bytes=settings.max_upload_bytes, inline_bytes=settings.max_inline_bytes,
                  images=settings.max_images)


def keep_dataset(api: Api, taken: Ingested, retain_seconds: float | None) -> Reply:
    """Store the row of data that is on disk; the answer."""
    with artifacts.pinned(api.store, taken.sha256):
        row = show_dataset(api.store.add_dataset({**taken.record, "retain_seconds": retain_seconds}))
        check_storage(api)
    return Reply(201, row, {"Location": f"/v1/datasets/{row['id']}"})


def of_json(api: Api, raw: Json, name: str, wanted: Mapping[str, Any], limits: Limits) -> Ingested:
    """Take in `{"name", "columns"}` or `{"name", "rows"}`."""
    closed(raw, ("name", "columns", "rows"))
    if not isinstance(raw.get("name", ""), str) or len(raw.get("name", "")) > 256:
        raise DatasetError("invalid_value", "a name is a text of at most 256 characters", pointer="/name")
    if unused := [option for option in ("format", "header", "delimiter") if wanted[option] is not None]:
        raise DatasetError("unused_option", f"{unused[0]}= is for files; this is JSON")
    return datasets.ingest_inline(api.store.home, columns=raw.get("columns"), rows=raw.get("rows"), name=name or raw.get("name", ""),
                                  types=wanted["types"], limits=limits)


class Taker(Protocol):
    """What takes a body in."""

    def write(self, piece: bytes) -> None: ...


async def receive(request: Request, incoming: Taker, most: int) -> None:
    """Write the body to the disk as it comes."""
    batch = bytearray()
    async for piece in pieces(request, most, "an upload"):
        batch += piece
        if len(batch) >= BATCH:
            await in_thread(incoming.write, bytes(batch))
            batch.clear()
    await in_thread(incoming.write, bytes(batch))


async def read_form(request: Request, most: int) -> list[Part]:
    """The files of a form, spooled to disk; fields without a file are refused."""
    try:
        form = await MultiPartParser(request.headers, pieces(request, most, "an upload"), max_files=PARTS, max_fields=1).parse()
    except (MultiPartException, KeyError) as error:
        raise invalid_request(f"the form cannot be read: {error}", status=400) from None
    parts = []
    for field, value in form.multi_items():
        if not isinstance(value, UploadFile):
            raise DatasetError("not_a_file", f"the part {field[:80]!r} is not a file: options go into the query (?name=, ?types=)")
        parts.append(Part(field, value.file, value.filename or "", value.content_type))
    return parts


def hash_of_parts(parts: list[Part]) -> str:
    """One hash for names and contents of all parts."""
    total = hashlib.sha256()
    for part in parts:
        total.update(f"{part.name}\0{part.filename}\0".encode())
        total.update(hashlib.file_digest(part.file, "sha256").digest())      # type: ignore[arg-type]
        part.file.seek(0)
    return total.hexdigest()


@router.get("", responses={200: {"model": shapes.DatasetList}, **documented(422)})
async def list_datasets(api: Here, after: After = None, limit: PageLimit = 20) -> Response:
    """A page of uploaded datasets, newest first."""
    rows, more = await in_thread(lambda: api.store.list_datasets(after=after, limit=limit))
    return Answer(listed([show_dataset(row) for row in rows], more))


@router.get("/{dataset_id}", responses={200: {"model": shapes.Dataset, "headers": TAGGED}, **UNCHANGED, **documented(404)})
async def get_dataset(api: Here, dataset_id: str, known: IfNoneMatch = None) -> Response:
    """One dataset and what its columns hold. It never changes."""
    row = await in_thread(api.store.get_dataset, dataset_id)
    tag = f'"{row["id"]}"'
    return unchanged(known, tag) or Answer(show_dataset(row), headers={"ETag": tag, "Cache-Control": "no-cache"})


@router.get("/{dataset_id}/rows", responses={200: {"model": shapes.Rows}, **documented(404, 422)})
async def get_rows(api: Here, dataset_id: str, offset: Annotated[int, Query(ge=0, le=2**53)] = 0,
                   limit: Annotated[int, Query(ge=1, le=1000)] = 20) -> Response:
    """Some rows, as they were uploaded. Samples (`sample:digits`) can be looked at too."""
    def look() -> Json:
        table = api.tables.open(dataset_id)[1]
        width = sum(math.prod(column.shape) for column in table.columns.values())
        if width > PREVIEW_NUMBERS:
            raise too_large(f"a row has {width:,} numbers, too many to be shown: take the bytes, at /v1/datasets/{dataset_id}/content")
        most = min(limit, max(1, PREVIEW_NUMBERS // width))
        return {"object": "list", "data": table.preview(offset, most), "has_more": offset + most < table.rows, "offset": offset, "rows": table.rows}

    return Answer(await in_thread(look))


@router.get("/{dataset_id}/content", responses={200: {"description": "The bytes as they were uploaded", "content": dict.fromkeys(FILES, BINARY)},
                                                **PARTIAL, **UNCHANGED, **documented(404, 416)})
async def get_content(api: Here, dataset_id: str, known: IfNoneMatch = None, part: Range = None, same_file: IfRange = None) -> Response:
    """The bytes back."""
    row = await in_thread(api.store.get_dataset, dataset_id)
    tag = f'"{row["sha256"]}"'
    if (same := unchanged(known, tag)) is not None:
        return same
    path = datasets.content(api.store.home, row["sha256"])
    found = span(part, (await in_thread(path.stat)).st_size) if same_file in (None, tag) else None
    return Stored(path, found, media_type=MEDIA_TYPES.get(row["format"], "application/octet-stream"), filename=dataset_id,
                  headers={"ETag": tag})


@router.delete("/{dataset_id}", status_code=204, responses={204: {"description": "The dataset is gone"}, **documented(404, 409)})
async def delete_dataset(api: Here, dataset_id: str) -> Response:
    """Remove a dataset that no live job uses; finished jobs go on predicting."""
    await in_thread(artifacts.delete_dataset, api.store, dataset_id)
    api.tables.forget(dataset_id)
    return Response(status_code=204)
