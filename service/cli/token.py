"""token."""

from __future__ import annotations

import secrets
from typing import Annotated

import typer

from service.app import TOKEN
from service.cli.serve import Home, read
from service.cli.session import DEFAULT_URL, Token, Url, connect
from service.routes.guard import hash_of
from service.store import Store
from service.store.migrate import migrate

Deed = Annotated[str, typer.Argument(metavar="new|check", help="new: replace the home's token, printed once; check: whether the service takes TOKEN")]


def token(deed: Deed, home: Home = None, url: Url = DEFAULT_URL, token: Token = "") -> None:
    if deed == "check":
        with connect(url, token) as client:
            client.connection.json("GET", "/v1/limits")
        print("the service takes this token" if token else "the service needs no token")
    elif deed == "new":
        print(new(home))
    else:
        raise typer.BadParameter(f"there is no `token {deed}`; there are new and check")


def new(home: Home) -> str:
    """A token for a service that listens beyond loopback; it counts from the service's next start on. Only its hash is kept."""
    settings = read(home=home)
    migrate(settings.home, settings.store_url)
    store = Store.at(settings.home, settings.store)
    made = secrets.token_urlsafe(32)
    try:
        store.set_setting(TOKEN, hash_of(made))
    finally:
        store.close()
    return made
