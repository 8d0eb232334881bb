"""get."""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated

import httpx
import typer

from service.app import create_app
from service.cli.serve import Home, read
from service.cli.session import NO_SERVICE, WRONG
from service.settings import Settings
from service.store.migrate import migrate


def get(path: Annotated[str, typer.Argument(metavar="PATH", help="such as /v1/jobs?status=running")], home: Home = None) -> None:
    settings = read(home=home, host="127.0.0.1")
    migrate(settings.home, settings.store_url)
    answer = asyncio.run(ask(settings, path))
    sys.stdout.buffer.write(answer.content + (b"\n" if "json" in answer.headers.get("content-type", "") else b""))
    if answer.status_code >= 400:
        raise typer.Exit(WRONG if answer.status_code < 500 else NO_SERVICE)


async def ask(settings: Settings, path: str) -> httpx.Response:
    """The app's answer, in this process."""
    app = create_app(settings)
    headers = {"Authorization": f"Bearer {settings.token}"} if settings.token else {}
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
        app.state.api.keys.trusted = True       # who has the home folder needs no token
        return await client.get("/" + path.lstrip("/"), headers=headers)
