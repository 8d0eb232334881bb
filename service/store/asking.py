"""For whom the store is asked. What belongs to one owner is not there for another, and what is made belongs to who made it.

A request sets its `Asker` before anything else; the store's methods look here, so no call can forget to. Workers, the supervisor and the predictor
ask for nobody: they see everything, and what they make names its owner itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Table, true

OWN = ""                                        # the owner of what the service's own token made, or anybody where no token was needed
SCOPES = ("read", "submit", "admin")            # each may do what those before it may


@dataclass
class Asker:
    """Who asks, and for the audit what about: `action` is the name of the call, `object` the id of what it makes or changes."""

    token: str = ""             # id of the token; "" is the service's own, or none where none is needed
    prefix: str = ""            # how that token begins
    owner: str = OWN
    scope: str = "admin"
    address: str = ""
    action: str = ""
    object: str = ""
    is_made: bool = False       # whether `object` is what the request makes, or only what its path names
    changes: bool = False       # whether what it writes is a change that the audit tells of
    noted: bool = False         # whether the audit has it
    strayed: str = ""           # what it asked for that belongs to somebody else

    def may(self, scope: str) -> bool:
        return SCOPES.index(self.scope) >= SCOPES.index(scope)


_asker: ContextVar[Asker | None] = ContextVar("asker", default=None)


def current() -> Asker | None:
    """Who asks; None for the service's own processes."""
    return _asker.get()


def ask_as(asker: Asker | None) -> None:
    """From here on, in this task and the threads that it starts, the store is asked for `asker`."""
    _asker.set(asker)


@contextmanager
def asking(asker: Asker | None) -> Iterator[None]:
    """The store is asked for `asker` inside the block."""
    before = _asker.set(asker)
    try:
        yield
    finally:
        _asker.reset(before)


def owner() -> str:
    """Whose that is what is made now."""
    asker = _asker.get()
    return OWN if asker is None else asker.owner


def view() -> str:
    """A name for what who asks sees: equal for all who see the same."""
    asker = _asker.get()
    return "*" if asker is None or asker.may("admin") else f"of {asker.owner}"


def sees(thing: Any, name: str = "") -> bool:
    """Whether a row with an `owner` is there for who asks; `name` is what it was asked for by."""
    asker = _asker.get()
    if asker is None or asker.may("admin") or thing["owner"] == asker.owner:
        return True
    asker.strayed = name or thing["id"]
    return False


def mine(table: Table | Any) -> ColumnElement[bool]:
    """The condition that a row of `table` is there for who asks."""
    asker = _asker.get()
    return true() if asker is None or asker.may("admin") else table.c.owner == asker.owner


def made(name: str) -> None:
    """Tell the audit the id of what the request makes; the first one counts."""
    asker = _asker.get()
    if asker is not None and not asker.is_made:
        asker.object, asker.is_made = name, True
