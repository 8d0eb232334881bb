"""Webhooks: what was delivered of a job, the secret that they are signed with, receivers that are not told any more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel
from starlette.responses import Response

from engine.errors import Problem
from service.errors import invalid_request
from service.jobs import EVENTS, STATES, iso
from service.routes import shapes
from service.routes.api import Api, Closed, Here, in_thread
from service.routes.bodies import as_object, closed, parse, read, read_json
from service.routes.once import Key, hash_of, once
from service.routes.problems import documented
from service.routes.render import Answer, Json, listed, present
from service.store import Reply

router = APIRouter(route_class=Closed, tags=["webhooks"])
MOST_BODY = 10_000
KEPT = {"Cache-Control": "no-store"}
OVERLAP = 86400.0           # seconds for which the secret before a new one goes on signing


class Delivery(BaseModel):
    """One event on its way to one URL; `id` is the webhook-id of every try."""

    object: Literal["webhook.delivery"]
    id: str
    job_id: str
    type: str
    seq: int
    url: str
    status: Literal["pending", "delivered", "given_up", "disabled"]
    tries: list[Json]
    next_at: str | None = None
    created_at: str
    finished_at: str | None = None


class DeliveryList(shapes.Page):
    data: list[Delivery]


class WebhookTarget(BaseModel):
    object: Literal["webhook.target"]
    url: str
    status: Literal["failing", "disabled", "enabled"]
    failing_since: str | None = None
    disabled_at: str | None = None
    reason: str | None = None


class WebhookTargets(BaseModel):
    object: Literal["list"]
    data: list[WebhookTarget]
    has_more: bool


class WebhookSecret(BaseModel):
    object: Literal["webhook.secret"]
    secret: str
    secrets: list[str]


DESCRIBED: Json = {"job event": {"post": {
    "summary": "What the receiver of a webhook is sent (Standard Webhooks)", "tags": ["webhooks"],
    "description": "Answer 2xx within 15 seconds. Anything else is tried again for three days, 410 ends it. Check `webhook-signature`: "
                   "HMAC-SHA256 of `webhook-id.webhook-timestamp.body` with the secret of /v1/webhooks/secret. The same `webhook-id` may come more "
                   "than once.",
    "parameters": [{"name": f"webhook-{name}", "in": "header", "required": True, "schema": {"type": "string"}, "description": about}
                   for name, about in (("id", "of this event to this URL; the same in every try"),
                                       ("timestamp", "seconds since the epoch at this try"),
                                       ("signature", "`v1,` and base64; several, with spaces between, while a secret is replaced"))],
    "requestBody": {"required": True, "content": {"application/json": {"schema": {
        "type": "object", "required": ["type", "timestamp", "data"], "properties": {
            "type": {"type": "string", "enum": list(EVENTS)}, "timestamp": {"type": "string", "format": "date-time"},
            "data": {"type": "object", "required": ["id", "status", "event"], "properties": {
                "id": {"type": "string", "description": "the job"}, "status": {"type": "string", "enum": list(STATES)},
                "event": {"type": "string", "description": "id of the event"}, "epoch": {"type": "integer"}, "step": {"type": "integer"},
                "code": {"type": "string"}}}}}}}},
    "responses": {"2XX": {"description": "Taken"}, "410": {"description": "Wanted no more, for any job"}}}}}


def show_delivery(row: Mapping[str, Any]) -> Json:
    return {"object": "webhook.delivery", **present(
        id=row["id"], job_id=row["job_id"], type=row["type"], seq=row["seq"], url=row["url"], status=row["status"], tries=row["tries"],
        next_at=iso(row["next_at"]) if row["next_at"] else None, created_at=row["created_at"], finished_at=row["finished_at"])}


@router.get("/v1/jobs/{job_id}/webhooks", responses={200: {"model": DeliveryList}, **documented(404, 422)})
async def list_deliveries(api: Here, job_id: str,
                          after: Annotated[str | None, Query(description="what `last_id` of the page before gave")] = None,
                          limit: Annotated[int, Query(ge=1, le=100, description="most entries of a page")] = 20) -> Response:
    """What a job's webhooks told, to whom, and what came of each try; newest first."""
    def look() -> Json:
        with api.store.read():
            api.store.get_job(job_id)
            rows, more = api.store.deliveries(job_id, after=after, limit=limit)
        return listed([show_delivery(row) for row in rows], more)

    return Answer(await in_thread(look))


@router.get("/v1/webhooks", responses={200: {"model": WebhookTargets}, **documented()})
async def list_targets(api: Here) -> Response:
    """Receivers that fail, and those that are told nothing more: they answered 410, or took nothing for five days."""
    rows = await in_thread(api.store.webhook_targets)
    data = [{"object": "webhook.target", "status": "disabled" if row["disabled_at"] else "failing",
             **present(**{name: row[name] for name in ("url", "failing_since", "disabled_at", "reason")})} for row in rows]
    return Answer({"object": "list", "data": data, "has_more": False})


@router.post("/v1/webhooks/enable", responses={200: {"model": WebhookTarget}, **documented(400, 404, 409, 415, 422)},
             openapi_extra=shapes.json_body({"type": "object", "properties": {"url": {"type": "string"}}, "required": ["url"]}))
async def enable_target(request: Request, api: Here, key: Key = None) -> Response:
    """Tell a receiver again that was told nothing more."""
    body, raw = await read_json(request, MOST_BODY)
    url = closed(as_object(raw), ("url",)).get("url")
    if not isinstance(url, str):
        detail = "the body is {\"url\": …}, with a URL as it is in the list of /v1/webhooks"
        raise invalid_request(detail, [Problem("/url", "missing_field" if url is None else "invalid_value", detail)])

    def enable(_: Any) -> Reply:
        with api.store.write("enable"):
            api.store.enable_target(url)
        return Reply(200, {"object": "webhook.target", "url": url, "status": "enabled"})

    return await once(api, request, key, hash_of(body), lambda: None, enable)


@router.get("/v1/webhooks/secret", responses={200: {"model": WebhookSecret}, **documented(403)})
async def get_secret(api: Here) -> Response:
    """The secret that your webhooks are signed with; `secrets` has all that sign just now."""
    return Answer(_shown(await in_thread(api.store.webhook_secrets)), headers=KEPT)


@router.post("/v1/webhooks/secret", status_code=201, responses={201: {"model": WebhookSecret}, **documented(400, 403, 409, 415, 422)},
             openapi_extra=shapes.json_body({"type": "object", "properties": {"overlap_seconds": {"type": "number", "minimum": 0}}}, required=False))
async def rotate_secret(request: Request, api: Here, key: Key = None) -> Response:
    """Make a new secret. For a day, or `overlap_seconds`, webhooks have two signatures, by the new one and by the one before."""
    body = await read(request, MOST_BODY)
    overlap = closed(as_object(parse(body)), ("overlap_seconds",)).get("overlap_seconds", OVERLAP) if body.strip() else OVERLAP
    if isinstance(overlap, bool) or not isinstance(overlap, int | float) or not 0 <= overlap <= 366 * 86400:
        detail = "overlap_seconds is a number from 0 to a year"
        raise invalid_request(detail, [Problem("/overlap_seconds", "out_of_range", detail)])
    return await once(api, request, key, hash_of(body), lambda: None, lambda _: Reply(201, _shown(_rotated(api, overlap)), KEPT))


def _rotated(api: Api, overlap: float) -> list[str]:
    return api.store.rotate_webhook_secret(overlap)


def _shown(secrets: list[str]) -> Json:
    return {"object": "webhook.secret", "secret": secrets[0], "secrets": secrets}
