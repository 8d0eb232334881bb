"""backup, restore."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from service import backup as archive
from service.backup import BackupError, Contents
from service.cli.serve import Home, read
from service.cli.session import NOT_SUCCEEDED, say

File = Annotated[Path, typer.Argument(metavar="FILE", help="the backup")]
NewHome = Annotated[Path, typer.Option(metavar="DIR", help="a new folder for it")]


def backup(file: File, home: Home = None) -> None:
    settings = read(home=home)
    found = _done(lambda: archive.backup(settings.home, settings.store_url, file.absolute()))
    print(f"{file}: {file.stat().st_size:,} bytes, {told(found)}")


def restore(file: File, home: NewHome) -> None:
    found = _done(lambda: archive.restore(file, home.expanduser().absolute()))
    print(f"{home}: {told(found)}. Start it with: trainyard serve --home {home}")


def told(found: Contents) -> str:
    return ", ".join(f"{count:,} {what}" for what, count in found.counts.items()) + f" as of {found.created_at}"


def _done(deed) -> Contents:
    try:
        return deed()
    except BackupError as error:
        say(str(error))
    except OSError as error:
        say(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    raise typer.Exit(NOT_SUCCEEDED)
