"""Uploads in parts: in any order, several at once, each again where its connection broke; then they become one dataset."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request
from pydantic import BaseModel
from starlette.responses import Response

from engine.errors import Problem
from service import artifacts
from service.datasets import DatasetError, Incoming, Ingested, options
from service.datasets.parts import IncomingPart, join
from service.errors import conflict, invalid_request, overloaded
from service.jobs import iso
from service.routes import shapes
from service.routes.api import Api, Closed, Here, in_thread
from service.routes.bodies import as_object, closed, parse, read, read_json
from service.routes.datasets import READERS, keep_dataset, receive, taking_in
from service.routes.jobs import After
from service.routes.jobs import Limit as PageLimit
from service.routes.once import Key, hash_of, once
from service.routes.problems import documented
from service.routes.render import Answer, Json, listed, present
from service.routes.shares import check_storage, check_uploads
from service.routes.wire import show_dataset
from service.store import Reply
from service.store.changes import Row

router = APIRouter(prefix="/v1/uploads", route_class=Closed, tags=["datasets"])
OPTIONS: dict[str, tuple[Any, str]] = {"format": (str, "a text"), "header": (bool, "true or false"), "delimiter": (str, "a text"),
                                       "types": (str, "a text"), "retain_seconds": (int | float, "a number")}
FIELDS: dict[str, tuple[Any, str]] = {"name": (str, "a text"), "media_type": (str, "a text"), "bytes": (int, "a whole number"), **OPTIONS}
SCHEMAS = {"a text": {"type": "string"}, "true or false": {"type": "boolean"}, "a number": {"type": "number", "exclusiveMinimum": 0, "maximum": 1e10},
           "a whole number": {"type": "integer", "minimum": 1}}


def _schema(fields: Mapping[str, tuple[Any, str]], **more: Any) -> Json:
    found = {name: SCHEMAS[what] | ({"maxLength": 256} if name in ("name", "media_type") else {}) for name, (_, what) in fields.items()}
    return {"type": "object", "additionalProperties": False, "properties": {**found, **more}}


CREATE = shapes.json_body(_schema(FIELDS))
COMPLETE = shapes.json_body(_schema(OPTIONS, parts={"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": 1},
                                    sha256={"type": "string", "pattern": "^[0-9a-fA-F]{64}$"}))
COMPLETE["requestBody"]["required"] = False
Number = Annotated[int, Path(ge=1, le=2**31 - 1, description="its place, from 1")]
Digest = Annotated[str | None, Query(pattern="^[0-9a-fA-F]{64}$", description="SHA-256 of the part in hex; a part that is another is refused")]


class Part(BaseModel):
    object: Literal["upload.part"]
    number: int
    bytes: int
    sha256: str
    created_at: str


class Upload(BaseModel):
    id: str
    object: Literal["upload"]
    name: str
    status: Literal["pending", "completed"]
    media_type: str | None = None
    options: dict[str, Any]
    bytes: int | None = None
    received_bytes: int
    parts: list[Part]
    dataset_id: str | None = None
    created_at: str
    expires_at: str


class UploadList(shapes.Page):
    data: list[Upload]


def show_part(part: Mapping[str, Any]) -> Json:
    return {"object": "upload.part", **{name: part[name] for name in ("number", "bytes", "sha256", "created_at") if name in part}}


def show(row: Row) -> Json:
    """The Upload object."""
    named = {name: row[name] for name in ("id", "name", "status", "created_at")}
    return {"object": "upload", **named, "options": row["options"], **present(media_type=row["media_type"] or None, bytes=row["bytes"]),
            "received_bytes": sum(part["bytes"] for part in row["parts"]), "parts": [show_part(part) for part in row["parts"]],
            **present(dataset_id=row["dataset_id"]), "expires_at": iso(row["expires_at"])}


def checked(raw: Json, fields: Mapping[str, tuple[Any, str]]) -> Json:
    """The values of these fields, of the right types; null is left out."""
    wrong = [Problem(f"/{name}", "invalid_value", f"{name} is {what}") for name, (kind, what) in fields.items()
             if (value := raw.get(name)) is not None and (not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool))]
    wrong += [Problem(f"/{name}", "out_of_range", f"{name} has at most 256 characters") for name in ("name", "media_type")
              if isinstance(raw.get(name), str) and len(raw[name]) > 256]
    wrong += [Problem(f"/{name}", "out_of_range", f"{name} is more than 0, and at most {most:,}")
              for name, most in (("bytes", 2**53), ("retain_seconds", 10**10))
              if isinstance(raw.get(name), int | float) and not 0 < raw[name] <= most]
    if wrong:
        raise invalid_request(wrong[0].detail, wrong)
    return {name: raw[name] for name in fields if raw.get(name) is not None}


def reading(asked: Json) -> Json:
    """The options of a dataset, checked as its upload would."""
    found = {name: asked[name] for name in ("format", "header", "delimiter", "types") if name in asked}
    options(**found)
    return found


@router.post("", status_code=201, openapi_extra=CREATE,
             responses={201: {"model": Upload, "headers": {"Location": {"schema": {"type": "string"}}}},
                        **documented(400, 409, 413, 415, 422, 429, 507)})
async def create_upload(request: Request, api: Here, key: Key = None) -> Response:
    """Begin an upload in parts. `bytes`, if it is said, must be what the parts have together."""
    body, raw = await read_json(request, api.settings.max_spec_bytes, "an upload")
    asked = checked(closed(as_object(raw), tuple(FIELDS)), FIELDS)
    reading(asked)
    if asked.get("bytes", 0) > (most := api.settings.max_upload_bytes):
        raise DatasetError("too_large", f"an upload has at most {most:,} bytes", 413, pointer="/bytes")

    def create(_: None) -> Reply:
        if api.store.pending_uploads() >= api.settings.max_uploads:
            raise overloaded(f"{api.settings.max_uploads:,} uploads in parts are on their way: complete or delete some", 60)
        check_uploads(api)
        wanted = {name: asked[name] for name in OPTIONS if name in asked}
        row = api.store.add_upload({"name": asked.get("name", ""), "media_type": asked.get("media_type", ""), "bytes": asked.get("bytes"),
                                    "options": wanted}, api.settings.upload_seconds)
        return Reply(201, show(row), {"Location": f"/v1/uploads/{row['id']}"})

    return await once(api, request, key, hash_of(body), lambda: None, create)


@router.get("", responses={200: {"model": UploadList}, **documented(422)})
async def list_uploads(api: Here, after: After = None, limit: PageLimit = 20) -> Response:
    """A page of uploads in parts, newest first."""
    rows, more = await in_thread(lambda: api.store.list_uploads(after=after, limit=limit))
    return Answer(listed([show(row) for row in rows], more))


@router.get("/{upload_id}", responses={200: {"model": Upload}, **documented(404)})
async def get_upload(api: Here, upload_id: str) -> Response:
    """One upload, and which of its parts are there."""
    return Answer(show(await in_thread(api.store.get_upload, upload_id)))


@router.put("/{upload_id}/parts/{number}", responses={200: {"model": Part}, **documented(404, 408, 409, 413, 422, 507)}, openapi_extra={
    "requestBody": {"required": True, "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}})
async def put_part(request: Request, api: Here, upload_id: str, number: Number, sha256: Digest = None) -> Response:
    """Send a part. Sent again it takes the place of the first one."""
    settings, store = api.settings, api.store
    row = await in_thread(store.get_upload, upload_id)
    if row["status"] != "pending":
        raise conflict(f"this upload is complete: it became {row['dataset_id']}")
    if number > settings.max_upload_parts:
        raise invalid_request(f"an upload has at most {settings.max_upload_parts:,} parts",
                              [Problem("/path/number", "out_of_range", f"a part's number is at most {settings.max_upload_parts:,}")])
    left = (row["bytes"] or settings.max_upload_bytes) - sum(part["bytes"] for part in row["parts"] if part["number"] != number)
    folder = artifacts.upload_folder(store.home, upload_id)
    with await in_thread(IncomingPart, folder, number, left) as part:
        await receive(request, part, left)

        def keep() -> None:
            found = part.finish(sha256)
            try:
                with store.write("put_part"):
                    old = store.put_part(upload_id, found, settings.max_upload_bytes, settings.upload_seconds)
                    check_storage(api)
            except Exception:
                if found["file"] not in {one["file"] for one in row["parts"]}:
                    (folder / found["file"]).unlink(missing_ok=True)
                raise
            if old is not None:
                (folder / old).unlink(missing_ok=True)

        await in_thread(keep)
        answer = next(one for one in (await in_thread(store.get_upload, upload_id))["parts"] if one["number"] == number)
    return Answer(show_part(answer))


@router.post("/{upload_id}/complete", status_code=201, openapi_extra=COMPLETE, responses={
    200: {"model": shapes.Dataset, "description": "It was complete already"},
    201: {"model": shapes.Dataset, "headers": {"Location": {"schema": {"type": "string"}}}}, **documented(400, 404, 409, 413, 415, 422, 503, 507)})
async def complete_upload(request: Request, api: Here, upload_id: str, key: Key = None) -> Response:
    """Make a dataset of the parts, in the order of their numbers or in that of `parts`.

    Data that cannot be read leaves them where they are: complete the upload again with other options, or delete it.
    """
    body = await read(request, api.settings.max_spec_bytes)
    raw = closed(as_object(parse(body)) if body.strip() else {}, (*OPTIONS, "parts", "sha256"))
    asked = checked(raw, OPTIONS)
    reading(asked)
    said = raw.get("sha256")
    if said is not None and not (isinstance(said, str) and re.fullmatch("[0-9a-fA-F]{64}", said)):
        raise invalid_request("sha256 is 64 hex digits", [Problem("/sha256", "invalid_value", "sha256 is 64 hex digits")])
    row = await in_thread(api.store.get_upload, upload_id)
    if row["status"] == "completed":
        return Answer(show_dataset(await in_thread(api.store.get_dataset, row["dataset_id"])))
    parts, name = ordered(row, raw.get("parts")), f"upload:{upload_id}"
    if name in api.running_keys:
        raise conflict("this upload is being put together: ask again in a moment", "idempotency_running", retry=True)
    api.running_keys.add(name)
    try:
        async with READERS, taking_in(api) as incoming:
            return await once(api, request, key, hash_of(body), lambda: put_together(api, row, parts, incoming, {**row["options"], **asked}, said),
                              lambda taken: ended(api, row, taken, {**row["options"], **asked}.get("retain_seconds")))
    finally:
        api.running_keys.discard(name)
        await in_thread(clear, api, upload_id)


def ordered(row: Row, wanted: Any) -> list[Row]:
    """The parts in the order asked for, else by number. 422 where some are not there, or left out."""
    there = {part["number"]: part for part in row["parts"]}
    if wanted is not None and not (isinstance(wanted, list) and all(isinstance(n, int) and not isinstance(n, bool) for n in wanted)):
        raise invalid_request("parts is a list of numbers", [Problem("/parts", "invalid_value", "parts is a list of numbers of parts, in order")])
    numbers = list(range(1, max(there, default=0) + 1)) if wanted is None else wanted
    missing = [n for n in numbers if n not in there]
    problems = [Problem("/parts", "part_missing", f"part {n} has not come") for n in missing[:20]]
    if not there or wanted == []:
        problems = [Problem("/parts", "part_missing", "no part has come" if not there else "parts is empty: leave it out for all, by number")]
    elif wanted is not None and len(set(wanted)) < len(wanted):
        problems.append(Problem("/parts", "invalid_value", "parts names a part twice"))
    total = sum(there[n]["bytes"] for n in numbers if n in there)
    if not problems and row["bytes"] is not None and total != row["bytes"]:
        problems.append(Problem("/parts", "part_missing", f"the parts have {total:,} bytes together, and were to have {row['bytes']:,}"))
    if problems:
        raise invalid_request(problems[0].detail if len(missing) < 2 else f"{len(missing):,} parts have not come", problems)
    return [there[n] for n in numbers]


def put_together(api: Api, row: Row, parts: list[Row], incoming: Incoming, asked: Json, said: str | None) -> Ingested:
    """The dataset of the parts, on disk."""
    api.store.touch_upload(row["id"], api.settings.upload_seconds)
    join(incoming, artifacts.upload_folder(api.store.home, row["id"]), parts)
    if said is not None and incoming.hash.hexdigest() != said.lower():
        raise DatasetError("checksum_mismatch", f"the parts together have SHA-256 {incoming.hash.hexdigest()}, not {said.lower()}", pointer="/sha256")
    return incoming.finish(name=row["name"], media_type=row["media_type"] or None, **reading(asked))


def ended(api: Api, row: Row, taken: Ingested, retain_seconds: float | None) -> Reply:
    """The answer, in the transaction of the dataset's row and the end of the upload."""
    with api.store.write("end_upload"):
        reply = keep_dataset(api, taken, retain_seconds)
        api.store.end_upload(row["id"], reply.body["id"])
    return reply


def clear(api: Api, upload_id: str) -> None:
    """Remove the files of an upload that is complete."""
    if all(f"{upload_id}/" not in file for file in api.store.part_files()):
        artifacts.remove(api.store.home, [f"uploads/{upload_id}"])


@router.delete("/{upload_id}", status_code=204, responses={204: {"description": "The upload is gone; what it became stays"}, **documented(404, 409)})
async def delete_upload(api: Here, upload_id: str) -> Response:
    """Give an upload up, with its parts."""
    if f"upload:{upload_id}" in api.running_keys:
        raise conflict("this upload is being put together: ask again in a moment", "idempotency_running", retry=True)
    await in_thread(artifacts.delete_upload, api.store, upload_id)
    return Response(status_code=204)
