"""Home folders with an empty store: its schema is made once for each process, since to make it takes a service a process of its own."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

from service.store.migrate import migrate


@cache
def template() -> Path:
    """A home with a store that nobody has used."""
    folder = Path(tempfile.mkdtemp(prefix="trainyard-template-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    migrate(folder)
    return folder


def fresh(home: Path) -> Path:
    """The folder `home`, made where there is none, with an empty store where there is none."""
    home.mkdir(exist_ok=True)
    if not (home / "trainyard.db").exists():
        shutil.copy(template() / "trainyard.db", home)
    return home
