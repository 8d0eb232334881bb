"""A PostgreSQL server for tests, where its programs are installed: started once, and emptied for each store."""

from __future__ import annotations

import ctypes
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from sqlalchemy import create_engine

from service.child import PR_SET_PDEATHSIG
from service.store.migrate import migrate
from service.store.tables import metadata

FOUND = [*Path("/usr/lib/postgresql").glob("*/bin/initdb"), *(Path(found) for found in [shutil.which("initdb")] if found)]
MISSING = "" if FOUND and find_spec("psycopg") else "needs PostgreSQL's initdb and postgres, and psycopg"


class Postgres:
    """Listens on a socket in a folder of its own; as root it runs as `nobody`, for it refuses root."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
        user = {} if os.getuid() else {"user": "nobody", "group": pwd.getpwnam("nobody").pw_gid, "extra_groups": []}
        if user:
            shutil.chown(self.folder, "nobody", pwd.getpwnam("nobody").pw_gid)
        ours = {"env": {**os.environ, "HOME": str(self.folder)}, "cwd": self.folder, "stdout": subprocess.DEVNULL, **user}
        subprocess.run([FOUND[0], "-D", "data", "--no-sync", "--auth=trust", "--locale=C.UTF-8", "-U", "trainyard"], check=True, **ours)
        command = [FOUND[0].parent / "postgres", "-D", "data", "-k", self.folder, "-c", "listen_addresses=", "-c", "fsync=off"]
        log = (self.folder / "log").open("wb")
        self.process = subprocess.Popen([*command, "-c", "max_connections=200"], stderr=log, preexec_fn=_with_parent, **ours)
        while not any(self.folder.glob(".s.PGSQL.*")) or self._refuses():
            assert self.process.poll() is None, (self.folder / "log").read_text()
            time.sleep(0.05)
        self.url = f"postgresql+psycopg://trainyard@/postgres?host={self.folder}"
        migrate(self.folder, self.url)
        self.engine = create_engine(self.url)

    def _refuses(self) -> bool:
        asked = [FOUND[0].parent / "pg_isready", "-h", self.folder, "-q"]
        return subprocess.run(asked).returncode != 0

    def fresh(self) -> str:
        """The URL of a store of the newest schema, empty now."""
        with self.engine.begin() as connection:
            connection.exec_driver_sql(f"TRUNCATE {', '.join(metadata.tables)}")
        return self.url

    def stop(self) -> None:
        self.engine.dispose()
        self.process.send_signal(signal.SIGQUIT)        # at once: nothing is kept
        self.process.wait(30)
        shutil.rmtree(self.folder, ignore_errors=True)


def _with_parent() -> None:
    """The server ends with the tests, however these end."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGQUIT)
