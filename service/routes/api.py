"""What all requests of one process share: settings, the store, wake-ups, open tables and running keys."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, ParamSpec, TypeVar

from fastapi import Depends, Request
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool

from engine.errors import Problem, nearest
from service.errors import invalid_request
from service.routes.checked import Checked
from service.routes.keys import Keys
from service.routes.tables import Tables
from service.routes.uses import Uses
from service.settings import Settings
from service.store import Store
from service.store.asking import current
from service.stream import Bell, Wake

P = ParamSpec("P")
T = TypeVar("T")


@dataclass
class Api:
    """One process that answers requests about one home folder."""

    settings: Settings
    store: Store
    wake: Wake
    bell: Bell
    tables: Tables
    checked: Checked                                            # what was validated last
    keys: Keys                                                  # who may ask
    started_at: float = field(default_factory=time.time)
    streams: int = 0                                            # open event streams
    sending: dict[str, set[asyncio.Future[None]]] = field(default_factory=dict)     # of each token
    running_keys: set[str] = field(default_factory=set)         # idempotency keys whose first request is being answered
    stopping: bool = False

    @cached_property
    def uses(self) -> Uses:
        """Notes of what is used."""
        return Uses(self.store)

    def end_streams(self, tokens: set[str]) -> None:
        """End the streams of all other tokens: they are not taken any more."""
        for token in set(self.sending) - tokens - {""}:
            for sending in self.sending[token]:
                sending.cancel()

    def stop(self) -> None:
        """Answer nothing more, and end all streams."""
        self.stopping = True
        self.bell.stop()


async def api_of(request: Request) -> Api:      # async, or each request would wait for a thread first
    return request.app.state.api


Here = Annotated[Api, Depends(api_of)]


async def in_thread(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run what blocks (the store, files, the engine's checks) beside the event loop."""
    return await run_in_threadpool(call, *args, **kwargs)


class Closed(APIRoute):
    """A route that refuses query parameters which it does not know. `metadata[…]` is known where `metadata` is documented."""

    def get_route_handler(self) -> Callable[[Request], Any]:
        handle = super().get_route_handler()
        name = self.name
        known = {str(field.alias) for field in self.dependant.query_params}
        objects = tuple(f"{parameter['name']}[" for parameter in (self.openapi_extra or {}).get("parameters", ()))

        async def check(request: Request) -> Any:
            about(name, request)
            names = request.query_params.keys()
            unknown = [name for name in names if name not in known and not (objects and name.startswith(objects))]
            if unknown:
                raise invalid_request(f"there is no query parameter {unknown[0][:80]!r} here", [
                    Problem(f"/query/{name[:80]}", "unknown_parameter", f"there is no query parameter {name[:80]!r} here", nearest(name, known))
                    for name in unknown[:20]])
            return await handle(request)

        return check


def about(action: str, request: Request) -> None:
    """Tell the audit which call this is, and of what."""
    if (asker := current()) is not None and not asker.is_made:
        asker.action, asker.object = action, str(next(iter(request.path_params.values()), ""))


async def wait_for(condition: Callable[[], bool], seconds: float, pause: float = 0.05) -> bool:
    """Whether the condition came true within so many seconds."""
    end = asyncio.get_running_loop().time() + seconds
    while not condition():
        if asyncio.get_running_loop().time() >= end:
            return False
        await asyncio.sleep(pause)
    return True
