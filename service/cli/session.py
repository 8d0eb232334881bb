"""What the commands that talk to a service share: its address, and how errors are told."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from service.client import Client, ClientError, Refused
from service.client.client import DEFAULT_URL
from service.client.errors import Answered

NOT_SUCCEEDED, WRONG, NO_SERVICE, DETACHED = 1, 2, 3, 130

Url = Annotated[str, typer.Option(envvar="TRAINYARD_URL", help="address of the service")]
Token = Annotated[str, typer.Option(envvar="TRAINYARD_TOKEN", help="its token, where it needs one", show_default=False, show_envvar=True)]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]
Which = Annotated[str, typer.Option("--checkpoint", help="last, best, or the number of an epoch")]
JobId = Annotated[str, typer.Argument(metavar="ID", help="id of a job")]
__all__ = ["DEFAULT_URL", "DETACHED", "NOT_SUCCEEDED", "NO_SERVICE", "WRONG", "AsJson", "JobId", "Token", "Url", "Which", "connect", "say"]


@contextmanager
def connect(url: str, token: str) -> Iterator[Client]:
    """A client. Its errors, and those of files and specs that cannot be read, end the command with a message and the right exit code."""
    try:
        with Client(url, token) as client:
            yield client
    except ClientError as error:
        say(_told(error))
        raise typer.Exit(WRONG if isinstance(error, Refused) else NO_SERVICE) from None
    except (OSError, ValueError) as error:
        say(str(error) if not isinstance(error, OSError) or error.filename is None else f"{error.filename}: {error.strerror}")
        raise typer.Exit(WRONG) from None


def say(message: str) -> None:
    """One message for a person, apart from the command's output."""
    print(message, file=sys.stderr, flush=True)


def _told(error: ClientError) -> str:
    if not isinstance(error, Answered):
        return str(error)
    if not error.problems:
        return error.detail or error.title
    return "\n".join([f"{error.title}:", *map(str, error.problems)])


def warn(warnings: list[dict[str, Any]]) -> None:
    """Tell warnings, one a line."""
    for warning in warnings:
        place = warning.get("pointer") or warning.get("column") or ""
        say(f"warning: {place}{': ' if place else ''}{warning.get('detail', '')}")
