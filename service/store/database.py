"""One writer at a time, many readers: connections and transactions.

A process has one writer connection. On SQLite the writers of one host queue on a lock file around each write, so that SQLite's own busy timeout
is only the second net. Readers have connections of their own and never wait for a writer (WAL).
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, insert, make_url
from sqlalchemy.exc import OperationalError

from service.errors import ServiceError, StorageFull, crash_point
from service.jobs import new_id, now
from service.store.asking import Asker, current
from service.store.tables import SCHEMA, audit

BUSY_SECONDS = 30
READERS = 8     # connections that read, each with a cache of its own
TOPICS = "topics"           # where a connection keeps what its transaction tells after the commit
Notify = Callable[[str, str], None]


class Database:
    """The connections behind a Store. Methods may be called from any thread; calls on one thread nest into one transaction."""

    def __init__(self, url: str, home: Path, notify: Notify | None = None):
        self.url, self.home, self.notify = url, home, notify
        self._reader = connect(url, "BEGIN", pool_size=READERS, max_overflow=0)     # more threads than these take turns
        self._writer = connect(url, "BEGIN IMMEDIATE", pool_size=1, max_overflow=0)
        self._turn = threading.Lock()
        self._here = threading.local()
        self._queue = queue_file(url)
        self._check_schema()

    def close(self) -> None:
        """Give all connections back; the store is not used afterwards."""
        self._reader.dispose()
        self._writer.dispose()

    @contextmanager
    def write(self, name: str) -> Iterator[Connection]:
        """One write transaction, durable when it returns; inside another one on this thread it is part of that one.

        Raises StorageFull when the disk takes no more; nothing is written then, as with every other exception.
        """
        if (open_one := getattr(self._here, "connection", None)) is not None:
            yield open_one
            return
        self._here.topics = topics = {}
        with self._turn, _storage_full():
            with waiting_turn(self._queue), self._writer.begin() as connection:
                self._here.connection = connection
                connection.info[TOPICS] = topics
                try:
                    yield connection
                    if (asker := current()) is not None and asker.changes and not asker.noted:
                        write_deed(connection, asker, "done")
                finally:
                    self._here.connection = None
                crash_point(f"{name}.before_commit")
            crash_point(f"{name}.after_commit")
        for topic, word in topics:
            if self.notify is not None:
                self.notify(topic, word)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One consistent view, shared by the reads inside; in a write transaction of this thread, what that one sees."""
        here = self._here
        if (open_one := getattr(here, "connection", None) or getattr(here, "view", None)) is not None:
            yield open_one
            return
        with self._reader.begin() as connection:
            here.view = connection
            try:
                yield connection
            finally:
                here.view = None

    def tell(self, topic: str, word: str) -> None:
        """After the commit, wake whoever waits for `topic`: "queue", "events" (word: job id) or "stop" (word: job id)."""
        self._here.topics[topic, word] = None

    def _check_schema(self) -> None:
        found = schema_of(self._reader)
        if found != SCHEMA:
            raise ServiceError(503, "unavailable", f"the store in {self.home} is at version {found or 'none'}, this program needs {SCHEMA}: "
                               "start it with a matching `trainyard serve`")


def tell(connection: Connection, topic: str, word: str = "") -> None:
    """`Database.tell` for those who have only the connection of a write transaction."""
    connection.info[TOPICS][topic, word] = None


def write_deed(connection: Connection, asker: Asker, outcome: str) -> None:
    """A row of the audit: what a request changed, in the transaction that changes it, once for each request; or what it was refused."""
    asker.noted = True
    connection.execute(insert(audit), {"id": new_id("audit"), "token": asker.token, "prefix": asker.prefix, "address": asker.address,
                                       "action": asker.action, "object": asker.object[:128], "outcome": outcome, "created_at": now()})


def connect(url: str, begin: str, **pool: Any) -> Engine:
    """An engine whose transactions start with `begin`; on SQLite with the settings that make a commit durable.

    Elsewhere a reader has one view for the whole transaction, as on SQLite, and a writer locks the rows that it changes.
    """
    lite = make_url(url).get_backend_name() == "sqlite"
    kind: dict[str, Any] = {"isolation_level": "REPEATABLE READ" if begin == "BEGIN" else "READ COMMITTED"}
    if lite:
        kind = {"connect_args": {"timeout": BUSY_SECONDS, "check_same_thread": False}}
    engine = create_engine(url, pool_timeout=BUSY_SECONDS, **kind, **pool)
    if lite:
        event.listen(engine, "connect", _prepare)
        event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(begin))
    return engine


def _prepare(raw: Any, _: Any) -> None:
    raw.isolation_level = None      # the driver starts no transactions of its own: `begin` does
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "temp_store = MEMORY", "cache_size = -4000"):
        raw.execute(f"PRAGMA {pragma}")


def schema_of(engine: Engine) -> str | None:
    """The migration a store is at; None for an empty one."""
    with engine.begin() as connection:
        if not engine.dialect.has_table(connection, "alembic_version"):
            return None
        return connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()


def queue_file(url: str) -> str | None:
    """The file on which this host's writers queue; None where the database does it."""
    parts = make_url(url)
    return f"{parts.database}.lock" if parts.get_backend_name() == "sqlite" else None


def waiting_turn(path: str | None) -> AbstractContextManager[Any]:
    """Hold the lock file for the length of the block. The kernel lets go of it when the process dies."""
    return nullcontext() if path is None else _locked(path)


@contextmanager
def _locked(path: str) -> Iterator[None]:
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)


@contextmanager
def _storage_full() -> Iterator[None]:
    try:
        yield
    except OperationalError as error:
        if any(sign in str(error.orig) for sign in ("disk is full", "disk I/O error", "No space left")):
            raise StorageFull() from error
        raise
