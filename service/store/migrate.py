"""Bring a store to the newest schema. Only the supervisor does this, before it starts anything that reads the store.

    python -m service.store.migrate         the store of the settings, in a process of its own
"""

from __future__ import annotations

import sqlite3
import sys
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import make_url

from service import jobs
from service.errors import ServiceError, crash_point
from service.settings import Settings
from service.store.database import connect, queue_file, schema_of, waiting_turn

KEPT_BACKUPS = 3


def migrate(home: Path, url: str | None = None) -> str:
    """Create or upgrade the store of `home` and return its version.

    A store that is behind is copied to `home/backups` first. All steps run in one explicit transaction, so a crash leaves the old schema whole.
    Raises ServiceError for a store written by a newer program.
    """
    home.mkdir(parents=True, exist_ok=True)
    url = url or f"sqlite:///{home / 'trainyard.db'}"
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    scripts = ScriptDirectory.from_config(config)
    head = str(scripts.get_current_head())
    engine = connect(url, "BEGIN IMMEDIATE")
    try:
        with waiting_turn(queue_file(url)):
            found = schema_of(engine)
            if found == head:
                return head
            if found is not None:
                if found not in {script.revision for script in scripts.walk_revisions()}:
                    raise ServiceError(503, "unavailable", f"the store in {home} was written by a newer program ({found}, this knows {head}): "
                                       "install that program, or start from a copy in the backups folder")
                _backup(url, home, found)
            with engine.begin() as connection:
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
                crash_point("migrate.before_commit")
            crash_point("migrate.after_commit")
            return head
    finally:
        engine.dispose()


def version(home: Path, url: str | None = None) -> str | None:
    """The version a store is at; None for an empty one."""
    engine = connect(url or f"sqlite:///{home / 'trainyard.db'}", "BEGIN")
    try:
        with engine.begin() as connection:
            return MigrationContext.configure(connection).get_current_revision()
    finally:
        engine.dispose()


def _backup(url: str, home: Path, found: str) -> None:
    """A copy of an SQLite store as it is now; the newest few are kept. Other databases have backups of their own."""
    parts = make_url(url)
    if parts.get_backend_name() != "sqlite" or parts.database is None:
        return
    folder = home / "backups"
    folder.mkdir(exist_ok=True)
    target = folder / f"trainyard-{found}-{jobs.now().replace(':', '')}.db"
    with sqlite3.connect(parts.database) as source, sqlite3.connect(target) as copy:
        source.backup(copy)
    crash_point("migrate.after_backup")
    for old in sorted(folder.glob("trainyard-*.db"), key=lambda path: path.stat().st_mtime)[:-KEPT_BACKUPS]:
        old.unlink()


def main() -> None:
    settings = Settings()
    try:
        migrate(settings.home, settings.store_url)
    except ServiceError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
