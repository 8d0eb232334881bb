"""token, audit."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Annotated

import typer

from service.cli.serve import Home, read
from service.cli.session import DEFAULT_URL, AsJson, Token, Url, connect, say
from service.cli.text import columns
from service.client import Client
from service.errors import ServiceError
from service.store import Store
from service.store.asking import SCOPES, Asker, asking
from service.store.migrate import migrate
from service.store.tokens import SERVICE_TOKEN, hash_of

DEEDS = ("create", "list", "revoke", "check", "new")
Deed = Annotated[str, typer.Argument(metavar="create|list|revoke|check|new", help=(
    "create: make a token, printed once; list; revoke ID; check: whether the service takes TOKEN; new: replace the home's own token, printed once"))]
Which = Annotated[str, typer.Argument(metavar="[NAME|ID]", help="for create the name of the token, for revoke its id")]
Scope = Annotated[str, typer.Option(help="of a created token: read, submit or admin; each may do what those before it may")]
Owner = Annotated[str, typer.Option(help="of a created token: tokens of one owner see the same jobs, datasets and models")]


def token(deed: Deed, name: Which = "", scope: Scope = "submit", owner: Owner = "",
          days: Annotated[float | None, typer.Option(min=0, help="a created token is taken for so long")] = None,
          home: Home = None, as_json: AsJson = False, url: Url = DEFAULT_URL, token: Token = "") -> None:
    if deed not in DEEDS:
        raise typer.BadParameter(f"there is no `token {deed}`; there are {', '.join(DEEDS)}")
    if deed == "new":
        print(new(home))
    elif deed == "check":
        with connect(url, token) as client:
            client.connection.json("GET", "/v1/limits")
        print("the service takes this token" if token else "the service needs no token")
    elif scope not in SCOPES:
        raise typer.BadParameter(f"there is no scope {scope!r}; there are {', '.join(SCOPES)}")
    elif home is not None:
        offline(deed, name, scope, owner, None if days is None else days * 86_400, home)
    else:
        with connect(url, token) as client:
            online(client, deed, name, scope, owner, None if days is None else days * 86_400, as_json)


def online(client: Client, deed: str, name: str, scope: str, owner: str, seconds: float | None, as_json: bool) -> None:
    """Ask a service."""
    if deed == "create":
        made = client.create_token(name, scopes=[scope], owner=owner or None, expires_in_seconds=seconds)
        _tell(made.id, made.prefix, made.token or "")
    elif deed == "revoke":
        client.revoke_token(_id(name))
    else:
        rows = list(client.tokens())
        if as_json:
            print("[" + ",\n".join(row.model_dump_json(exclude_unset=True) for row in rows) + "]")
        else:
            _table((row.id, row.prefix, row.scopes[-1], row.owner, row.last_used_at, row.revoked_at, row.name) for row in rows)


def offline(deed: str, name: str, scope: str, owner: str, seconds: float | None, home: Home) -> None:
    """Work on the home folder; a service that runs on it knows within seconds."""
    with store_of(home) as store, asking(Asker(address="command line", action=f"{deed}_token", object=_id(name) if deed == "revoke" else "",
                                               changes=deed != "list")):
        try:
            if deed == "create":
                row, made = store.add_token(name, scope, owner=owner, seconds=seconds)
                _tell(row["id"], row["prefix"], made)
            elif deed == "revoke":
                store.revoke_token(_id(name))
            else:
                rows, _ = store.list_tokens(limit=1000)
                _table((row["id"], row["prefix"], row["scope"], row["owner"], row["last_used_at"], row["revoked_at"], row["name"]) for row in rows)
        except ServiceError as error:
            raise typer.BadParameter(error.detail) from None


def _id(name: str) -> str:
    if not name:
        raise typer.BadParameter("say which: trainyard token revoke ID")
    return name


def _tell(token_id: str, prefix: str, made: str) -> None:
    say(f"{token_id}, {prefix}…: shown only now")
    print(made)


def _table(rows: Iterable[tuple[str | None, ...]]) -> None:
    shown = [tuple((cell or "")[:19].replace("T", " ") if place in (4, 5) else cell or "" for place, cell in enumerate(row)) for row in rows]
    print(columns([("ID", "PREFIX", "SCOPE", "OWNER", "LAST USED", "REVOKED", "NAME"), *shown]))


def audit(limit: Annotated[int, typer.Option(min=1, help="at most so many")] = 50, as_json: AsJson = False,
          url: Url = DEFAULT_URL, token: Token = "") -> None:
    with connect(url, token) as client:
        rows = list(islice(client.audit(), limit))
    if as_json:
        print("[" + ",\n".join(row.model_dump_json(exclude_unset=True) for row in rows) + "]")
        return
    shown = [(row.created_at[:19].replace("T", " "), row.prefix or "-", row.address or "-", row.action or "-", row.object_id or "-", row.outcome)
             for row in rows]
    print(columns([("WHEN", "TOKEN", "FROM", "WHAT", "OBJECT", "OUTCOME"), *shown]))


@contextmanager
def store_of(home: Home) -> Iterator[Store]:
    """The store of a home folder, brought up to date."""
    settings = read(home=home)
    migrate(settings.home, settings.store_url)
    store = Store.at(settings.home, settings.store)
    try:
        yield store
    finally:
        store.close()


def new(home: Home) -> str:
    """A token for a service that listens beyond loopback; it counts from the service's next start on. Only its hash is kept."""
    made = secrets.token_urlsafe(32)
    with store_of(home) as store:
        store.set_setting(SERVICE_TOKEN, hash_of(made))
    return made
