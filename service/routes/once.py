"""POSTs that may be sent twice: the first answer to an `Idempotency-Key` is given again, and nothing is made a second time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, TypeVar

from fastapi import Header, Request
from starlette.responses import Response

from service.errors import conflict
from service.routes.api import Api, in_thread
from service.routes.render import Answer, Json, dumps
from service.store import Reply
from service.store.idempotency import of_token

T = TypeVar("T")
Key = Annotated[str | None, Header(alias="Idempotency-Key", min_length=1, max_length=255,
                                   description="any text of your own: sent again within 24 hours, it gets the first answer again")]


def hash_of(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


async def once(api: Api, request: Request, key: str | None, digest: str, prepare: Callable[[], T], create: Callable[[T], Reply],
               secret: Callable[[Json], Json] | None = None) -> Response:
    """Answer with `create(prepare())`. The answer is kept in the transaction of what `create` writes; `prepare` may be slow and writes no rows.

    `digest` is the hash of the body; `secret` adds to the answer what is told once and not kept. 409 while the first request with this key runs, 422
    when it came with another body.
    """
    if key is None:
        return shown(await in_thread(lambda: create(prepare())), secret=secret)
    with _running(api, of_token(key)):
        return await in_thread(_perform, api, key, f"{request.method} {request.url.path}?{request.url.query}", digest, prepare, create, secret)


def shown(reply: Reply, replayed: bool = False, secret: Callable[[Json], Json] | None = None) -> Response:
    """The response for a kept or new answer."""
    body, more = secret(reply.body) if secret else reply.body, {"Idempotency-Replayed": "true"} if replayed else {}
    return Answer(dumps(body), reply.status, {**reply.headers, **more})


@contextmanager
def _running(api: Api, key: str) -> Iterator[None]:
    if key in api.running_keys:
        raise conflict("the first request with this key is still running: send it again in a moment", "idempotency_running", retry=True)
    api.running_keys.add(key)
    try:
        yield
    finally:
        api.running_keys.discard(key)


def _perform(api: Api, key: str, route: str, digest: str, prepare: Callable[[], T], create: Callable[[T], Reply],
             secret: Callable[[Json], Json] | None) -> Response:
    store = api.store
    if (kept := store.recall(key, route, digest)) is not None:
        return shown(kept, replayed=True)
    prepared = prepare()
    with store.write("post"):
        if (kept := store.recall(key, route, digest)) is not None:
            return shown(kept, replayed=True)
        reply = create(prepared)
        store.remember(key, route, digest, reply)
    return shown(reply, secret=secret)
