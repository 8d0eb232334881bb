"""A job's events: a stream (server-sent events, NDJSON, text) or a list, all of them replays of the same rows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing, suppress
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from engine.errors import Problem
from service.errors import invalid_request, overloaded
from service.jobs import EVENTS, event_id, event_seq
from service.routes.api import Api, Closed, Here, in_thread
from service.routes.patience import within
from service.routes.problems import documented, unknown_name
from service.routes.render import Answer, dumps, listed
from service.routes.shares import check_streams
from service.store.asking import Asker, current
from service.stream import follow, follow_batches

router = APIRouter(prefix="/v1/jobs", route_class=Closed, tags=["jobs"])
Form = Literal["sse", "ndjson", "json", "text"]
MEDIA_TYPES = {"sse": "text/event-stream", "ndjson": "application/x-ndjson", "text": "text/plain; charset=utf-8"}
COMMENT_SECONDS = 15.0
SEND_SECONDS = 30.0         # a client that takes nothing for so long is cut off; it may resume
RETRY = b"retry: 1000\n\n"
LAST = 2**31 - 1            # the largest number of an event that a store can compare with
DESCRIBED = {"description": "As `Accept` or `format` say", "content": {
    "text/event-stream": {"schema": {"type": "string"}}, "application/x-ndjson": {"schema": {"type": "string"}},
    "text/plain": {"schema": {"type": "string"}}, "application/json": {"schema": {"$ref": "#/components/schemas/EventList"}}}}


class Stream(Response):
    """Pieces of an endless body. A slot is taken while it is sent, and given back however it ends."""

    def __init__(self, api: Api, pieces: Callable[[], AsyncGenerator[bytes]], media_type: str):
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"}, media_type=media_type)
        del self.headers["content-length"]
        self.api, self.pieces = api, pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.api.streams += 1
        sending = asyncio.ensure_future(self._send(send))
        token = (current() or Asker()).token
        self.api.sending.setdefault(token, set()).add(sending)
        gone = asyncio.ensure_future(_gone(receive))
        try:
            await asyncio.wait((sending, gone), return_when=asyncio.FIRST_COMPLETED)
            revoked = sending.cancelled()
        finally:
            self.api.streams -= 1
            self.api.sending[token].discard(sending)
            if not self.api.sending[token]:
                del self.api.sending[token]
            for task in (sending, gone):
                task.cancel()
            await asyncio.gather(sending, gone, return_exceptions=True)
        if revoked:
            await send({"type": "http.response.body", "body": b""})

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        with suppress(TimeoutError):
            async with aclosing(self.pieces()) as pieces:
                async for piece in pieces:
                    await within(SEND_SECONDS, send({"type": "http.response.body", "body": piece, "more_body": True}))     # type: ignore[arg-type]
            await send({"type": "http.response.body", "body": b""})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


@router.get("/{job_id}/events", responses={200: DESCRIBED, 204: {"description": "Resumed at the last event: there is nothing more to come"},
                                           **documented(404, 422, 429)})
async def get_events(
    request: Request, api: Here, job_id: str,
    after: Annotated[str | None, Query(description="events after this `seq` or event id")] = None,
    last_event_id: Annotated[str | None, Header(alias="Last-Event-ID", description="as `after`; a browser sends it when it connects again")] = None,
    form: Annotated[Form | None, Query(alias="format", description="instead of `Accept`")] = None,
    types: Annotated[str | None, Query(description="only these types, separated by commas, and the last event")] = None,
    limit: Annotated[int | None, Query(ge=1, le=1000, description="most events of a list (100)")] = None,
    wait: Annotated[float | None, Query(ge=0, le=60, description="seconds to wait for the first event of a list")] = None,
) -> Response:
    """What has happened to a job and, as a stream, what happens until it is over."""
    form = form or accepted(request.headers.get("accept", ""))
    if form != "json" and (limit is not None or wait is not None):
        raise invalid_request(f"limit and wait are for a JSON list; this is {form}")
    number, wanted = seq_of(job_id, last_event_id or after), types_of(types)
    head = await api.bell.head(api.store, job_id)
    if head is None:
        await in_thread(api.store.get_job, job_id)
    last, over = head or (0, False)
    if form == "json":
        return await listing(api, job_id, number, wanted, limit or 100, wait or 0.0)
    if form == "sse" and over and number >= last:
        return Response(status_code=204)
    if api.streams >= api.settings.max_streams:
        raise overloaded(f"{api.settings.max_streams:,} event streams are open: close some, or ask for a list with wait=60", 5)
    check_streams(api)
    return Stream(api, lambda: pieces(api, job_id, number, wanted, form), MEDIA_TYPES[form])


def accepted(accept: str) -> Form:
    """The form that an Accept header asks for; a list unless it names another one."""
    for form, media_type in MEDIA_TYPES.items():
        if media_type.partition(";")[0] in accept:
            return form     # type: ignore[return-value]
    return "json"


def seq_of(job_id: str, text: str | None) -> int:
    """The number that `after` or Last-Event-ID names; 422 when it is neither a number nor an event of this job."""
    if not text:
        return 0
    try:
        number = event_seq(text)
        if number < 2**63 and (text.isdigit() or text == event_id(job_id, number)):
            return min(number, LAST)
    except ValueError:
        pass
    detail = f"{text[:80]!r} is neither the seq nor the id of an event of this job"
    raise invalid_request(detail, [Problem("/query/after", "unknown_event", detail)])


def types_of(text: str | None) -> tuple[str, ...]:
    wanted = tuple(word.strip() for word in text.split(",")) if text is not None else ()
    for word in wanted:
        if word not in EVENTS:
            raise unknown_name("event type", word, "/query/types", list(EVENTS))
    return wanted


async def listing(api: Api, job_id: str, after: int, types: tuple[str, ...], limit: int, wait: float) -> Response:
    """A page of events, oldest first; when there is none yet, the first that comes within `wait` seconds."""
    found = await in_thread(api.store.events, job_id, after=after, limit=limit + 1, types=types)
    if not found and wait:
        with suppress(TimeoutError):
            async with asyncio.timeout(wait), aclosing(follow(api.store, job_id, after, types, bell=api.bell)) as events:
                await anext(events, None)
        found = await in_thread(api.store.events, job_id, after=after, limit=limit + 1, types=types)
    return Answer(listed(found[:limit], len(found) > limit))


async def pieces(api: Api, job_id: str, after: int, types: tuple[str, ...], form: Form) -> AsyncGenerator[bytes]:
    """What a stream sends, as much at once as there is; a comment where nothing comes for long."""
    if form == "sse":
        yield RETRY
    idle = COMMENT_SECONDS if form == "sse" else None
    async with aclosing(follow_batches(api.store, job_id, after, types, bell=api.bell, idle=idle)) as batches:
        async for batch in batches:
            yield batch.written(WRITERS[form]) or b": still here\n\n"
    if form == "sse" and api.stopping:
        yield RETRY


def sse(event: Mapping[str, Any]) -> bytes:
    return b"id: %d\nevent: %b\ndata: %b\n\n" % (event["seq"], event["type"].encode(), dumps(event))


def ndjson(event: Mapping[str, Any]) -> bytes:
    return dumps(event) + b"\n"


def text(event: Mapping[str, Any]) -> bytes:
    """An event's message on one line."""
    return (" ".join(event["message"].split()) or event["type"]).encode() + b"\n"


WRITERS: dict[str, Callable[[Mapping[str, Any]], bytes]] = {"sse": sse, "ndjson": ndjson, "text": text}
