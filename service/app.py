"""The API process: the app, and the server that runs it.

    python -m service.app       on the socket numbered in TRAINYARD_LISTENING, which the supervisor makes; else on the settings' host and port
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI

from service import child, logs, traces
from service.routes import ROUTERS, document, problems
from service.routes.api import Api
from service.routes.checked import Checked
from service.routes.guard import Guard, is_loopback
from service.routes.health import VERSIONS
from service.routes.keys import Keys
from service.routes.observing import Observed
from service.routes.patience import Patient
from service.routes.tables import Tables
from service.settings import Settings
from service.store import Store
from service.store.tokens import SERVICE_TOKEN, hash_of
from service.stream import Bell, Wake

logging.getLogger("python_multipart").setLevel(logging.ERROR)      # whoever sends a bad form is told; the log need not know
REFUSING_SECONDS = 0.25         # for clients to hear that the service stops, and when to come back
ENDING_SECONDS = 1.0            # of the time to stop, left for refusing and for closing the store


def create_app(settings: Settings) -> FastAPI:
    """The whole API as an ASGI app on a home folder whose store is there (`migrate`)."""
    @asynccontextmanager
    async def live(app: FastAPI) -> AsyncIterator[None]:
        wake = Wake(settings.home)
        store = Store.at(settings.home, settings.store, wake.notify)
        api = Api(settings, store, wake, Bell(wake), Tables(store), Checked(), Keys(settings, store, token_hash(settings, store)))
        api.keys.gone = api.end_streams
        await api.keys.refresh()
        refreshing = asyncio.get_running_loop().create_task(api.keys.keep_fresh())
        app.state.api = api
        try:
            yield
        finally:
            refreshing.cancel()
            api.bell.close()
            wake.close()
            store.close()

    app = FastAPI(title="Trainyard", lifespan=live, docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    for router in ROUTERS:
        app.include_router(router)
    app.state.routes = [route for router in ROUTERS for route in router.routes]
    problems.install(app)
    document.describe(app)
    app.add_middleware(Guard)
    app.add_middleware(Observed)
    return app


def token_hash(settings: Settings, store: Store) -> str | None:
    """The hash of the token that requests need; None when none is needed. Beyond loopback one is made and printed at the first start."""
    if settings.token:
        return hash_of(settings.token)
    if is_loopback(settings.host):
        return None
    kept = store.get_setting(SERVICE_TOKEN)
    if kept is None:
        token = secrets.token_urlsafe(32)
        kept = hash_of(token)
        store.set_setting(SERVICE_TOKEN, kept)
        print(f"The token of this service, shown only now: {token}", flush=True)
    return kept


class Server(uvicorn.Server):
    """A server that, before it stops, ends streams and answers everybody 503 for a moment."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.config.app.state.api.stop()        # type: ignore[union-attr]
        await asyncio.sleep(REFUSING_SECONDS)
        await super().shutdown(sockets)


def serve(settings: Settings, sockets: Sequence[socket.socket] | None = None) -> None:
    """Answer requests until SIGTERM or SIGINT; what is still being answered then has `stop_seconds`."""
    config = uvicorn.Config(create_app(settings), host=settings.host, port=settings.port, log_config=None, log_level="warning",
                            access_log=False, backlog=2048,
                            timeout_keep_alive=75, server_header=False, proxy_headers=False, http=Patient,
                            timeout_graceful_shutdown=max(1, int(settings.stop_seconds - ENDING_SECONDS)))
    Server(config).run(list(sockets) if sockets else None)


def main() -> None:
    number = os.environ.get(child.LISTENING, "")
    sockets = [socket.socket(fileno=int(number))] if number.isdigit() else None
    signal.signal(signal.SIGINT, signal.SIG_IGN if sockets else signal.default_int_handler)    # a Ctrl-C is the supervisor's to handle
    settings = Settings()
    logs.install(settings, "api")
    traces.begin("api", VERSIONS["version"])
    serve(settings, sockets)


if __name__ == "__main__":
    sys.exit(main())
