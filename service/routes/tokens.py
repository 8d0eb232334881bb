"""Tokens: made, listed, revoked; and the audit of who changed what. For administrators."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from engine.errors import Problem, nearest
from service.errors import invalid_request
from service.routes import shapes
from service.routes.api import Api, Closed, Here, in_thread
from service.routes.bodies import as_object, closed, read_json
from service.routes.jobs import After
from service.routes.jobs import Limit as PageLimit
from service.routes.once import Key, hash_of, once
from service.routes.problems import documented
from service.routes.render import Answer, Json, listed, present
from service.store import Reply
from service.store.asking import SCOPES

router = APIRouter(route_class=Closed, tags=["tokens"])
FIELDS = ("name", "scopes", "owner", "expires_in_seconds")
LONGEST_NAME, LONGEST_SECONDS = 64, 1e10
BODY = shapes.json_body({"type": "object", "additionalProperties": False, "properties": {
    "name": {"type": "string", "maxLength": LONGEST_NAME, "default": ""},
    "scopes": {"anyOf": [{"enum": list(SCOPES)}, {"type": "array", "items": {"enum": list(SCOPES)}, "minItems": 1}], "default": ["submit"]},
    "owner": {"type": "string", "maxLength": LONGEST_NAME, "description": "tokens of one owner see the same jobs, datasets and models"},
    "expires_in_seconds": {"type": ["number", "null"], "exclusiveMinimum": 0, "maximum": LONGEST_SECONDS}}})


@router.post("/v1/tokens", status_code=201, responses={201: {"model": shapes.Token}, **documented(400, 409, 413, 415, 422)}, openapi_extra=BODY)
async def create_token(request: Request, api: Here, key: Key = None) -> Response:
    """Make a token. It is told now and never again, also where the request is sent again with its key."""
    body, raw = await read_json(request, api.settings.max_spec_bytes, "a token")
    asked = wanted(closed(as_object(raw), FIELDS))
    told: list[str] = []

    def create(_: Any) -> Reply:
        row, token = api.store.add_token(**asked, first_is_admin=api.keys.own is None)
        told.append(token)
        return Reply(201, show_token(row), {"Location": f"/v1/tokens/{row['id']}"})

    answer = await once(api, request, key, hash_of(body), lambda: None, create, lambda shown: {**shown, "token": told[0]})
    await api.keys.refresh()
    return answer


def wanted(raw: Json) -> Json:
    """The arguments of a new token; 422 with every mistake."""
    wrong: list[Problem] = []
    for name in ("name", "owner"):
        value = raw.get(name, "")
        if not isinstance(value, str) or len(value) > LONGEST_NAME or not value.isprintable():
            wrong.append(Problem(f"/{name}", "invalid_value", f"{name} is a text of at most {LONGEST_NAME} printable characters"))
    scopes = [raw["scopes"]] if isinstance(raw.get("scopes"), str) else raw.get("scopes", ["submit"])
    if not isinstance(scopes, list) or not scopes:
        wrong.append(Problem("/scopes", "invalid_value", f"scopes is a list of {', '.join(SCOPES)}"))
    else:
        wrong += [Problem(f"/scopes/{place}", "unknown_name", f"there is no scope {str(scope)[:80]!r}; there are {', '.join(SCOPES)}",
                          nearest(str(scope), SCOPES)) for place, scope in enumerate(scopes) if scope not in SCOPES]
    seconds = raw.get("expires_in_seconds")
    if seconds is not None and (isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= LONGEST_SECONDS):
        wrong.append(Problem("/expires_in_seconds", "out_of_range", "expires_in_seconds is a number above 0"))
    if wrong:
        raise invalid_request(wrong[0].detail if len(wrong) == 1 else f"{len(wrong)} errors", wrong)
    return {"name": raw.get("name", ""), "scope": max(scopes, key=SCOPES.index), "owner": raw.get("owner", ""), "seconds": seconds}


def show_token(row: Json) -> Json:
    """The Token object, without the token."""
    shown = {name: row[name] for name in ("name", "prefix", "owner", "created_at", "expires_at", "last_used_at", "revoked_at")}
    return {"id": row["id"], "object": "token", "scopes": list(SCOPES[:SCOPES.index(row["scope"]) + 1]), **present(**shown)}


@router.get("/v1/tokens", responses={200: {"model": shapes.TokenList}, **documented(422)})
async def list_tokens(api: Here, after: After = None, limit: PageLimit = 20) -> Response:
    """A page of tokens, newest first, also revoked ones. `last_used_at` is right to ten minutes."""
    rows, more = await in_thread(lambda: api.store.list_tokens(after=after, limit=limit))
    return Answer(listed([show_token(row) for row in rows], more))


@router.delete("/v1/tokens/{token_id}", status_code=204, responses={204: {"description": "The token is refused from now on"}, **documented(404, 409)})
async def revoke_token(api: Here, token_id: str) -> Response:
    """Revoke a token. What belongs to it stays, for administrators and for tokens of the same owner."""
    await in_thread(lambda: api.store.revoke_token(token_id, last_stays=api.keys.own is None))
    await api.keys.refresh()
    return Response(status_code=204)


@router.get("/v1/audit", responses={200: {"model": shapes.AuditList}, **documented(422)})
async def list_audit(api: Here, after: After = None, limit: PageLimit = 20,
                     token: Annotated[str | None, Query(description="only of this token's id")] = None,
                     action: Annotated[str | None, Query(description="only this call, such as create_job")] = None,
                     about: Annotated[str | None, Query(alias="object_id", description="only of this job, dataset, …")] = None,
                     outcome: Annotated[str | None, Query(description="done, or the code of the refusal")] = None) -> Response:
    """Who changed what, newest first, and what was refused. `/v1/limits` says how long it is kept."""
    return Answer(await in_thread(_page, api, after, limit, {"token": token, "action": action, "object": about, "outcome": outcome}))


def _page(api: Api, after: str | None, limit: int, equal: dict[str, str | None]) -> Json:
    rows, more = api.store.list_audit(after=after, limit=limit, **equal)
    return listed([show_deed(row) for row in rows], more)


def show_deed(row: Json) -> Json:
    """The entry of the audit; without a token it was the service's own one, or none was needed."""
    return {"id": row["id"], "object": "audit", **{name: row[name] for name in ("action", "outcome", "created_at")},
            **{name: value for name, value in (("token", row["token"]), ("prefix", row["prefix"]), ("address", row["address"]),
                                               ("object_id", row["object"])) if value}}
