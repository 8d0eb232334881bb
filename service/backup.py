"""The whole home in one file, while the service works on it, and back again.

    manifest.json       what, when, by which program
    trainyard.db        the store at one moment
    jobs/…, datasets/…  every file that it names, as of the same moment

Files below home are never changed, only made and removed. So they are linked into a folder beside them first; then, with every writer held up for as
long as it takes to look once more, what is new; a view of the store is opened in that very moment. It is copied after the writers have gone on.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import sqlite3
import tarfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from uuid import uuid4

from sqlalchemy import make_url

from service import jobs
from service.artifacts import sync_folder
from service.store.database import BUSY_SECONDS, queue_file, waiting_turn
from service.store.tables import SCHEMA

STORE, MANIFEST, FORMAT = "trainyard.db", "manifest.json", 1
APART = frozenset({"run", "backups", "trash"})      # what a home has that is not kept
COUNTED = ("jobs", "datasets", "checkpoints")


class BackupError(Exception):
    """Why a backup cannot be made or restored, as a sentence."""


@dataclass(frozen=True)
class Contents:
    """What a backup file says of itself."""

    created_at: str
    schema: str
    counts: dict[str, int]

    @classmethod
    def of(cls, text: bytes) -> Contents:
        found = json.loads(text)
        if found["trainyard"] != FORMAT:
            raise BackupError(f"this backup has format {found['trainyard']}, this program reads {FORMAT}: restore it with the program that made it")
        if found["schema"] > SCHEMA:
            raise BackupError(f"this backup was made by a newer program (schema {found['schema']}, this knows {SCHEMA}): restore it with that one")
        return cls(found["created_at"], found["schema"], found["counts"])

    def pack(self) -> bytes:
        return json.dumps({"trainyard": FORMAT, "created_at": self.created_at, "schema": self.schema, "counts": self.counts}).encode()


# -------------------------------------------------------------------- making one


def backup(home: Path, url: str, target: Path) -> Contents:
    """Write everything that `home` keeps to one file, which is whole or not there. The service may be running. BackupError, OSError."""
    if make_url(url).get_backend_name() != "sqlite":
        raise BackupError("the store is not in the home folder: back up its database with the tools of that database, then copy the home folder")
    store = Path(str(make_url(url).database))
    if not store.exists():
        raise BackupError(f"there is no store in {home}")
    links, mark = home / "backups" / f".{uuid4().hex}", f".{target.name}.{os.getpid()}"
    copy, temp = target.with_name(f"{mark}.db"), target.with_name(f"{mark}.temp")
    try:
        links.mkdir(parents=True)
        seen: dict[Path, int] = {}
        _link(home, links, seen)
        with closing(sqlite3.connect(store, timeout=BUSY_SECONDS, isolation_level=None)) as view:
            with _writers_held(store, url):
                moment = jobs.now()
                view.execute("BEGIN")
                view.execute("SELECT count(*) FROM alembic_version").fetchone()     # the view begins with its first read
                _link(home, links, seen)
            with closing(sqlite3.connect(copy)) as made:
                view.backup(made)
        contents = Contents(moment, *_looked_into(copy))
        with open(temp, "wb") as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
                _add(archive, MANIFEST, contents.pack())
                archive.add(copy, STORE)
                for path in sorted(links.rglob("*")):
                    if path.is_file():
                        archive.add(path, str(path.relative_to(links)))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temp, target)
        sync_folder(target.parent)
        return contents
    finally:
        shutil.rmtree(links, ignore_errors=True)
        for path in (copy, temp):
            path.unlink(missing_ok=True)


@contextmanager
def _writers_held(store: Path, url: str) -> Iterator[None]:
    """Nobody commits to the store inside, whatever program they are of."""
    with waiting_turn(queue_file(url)), closing(sqlite3.connect(store, timeout=BUSY_SECONDS, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            writer.execute("ROLLBACK")


def _link(home: Path, links: Path, seen: dict[Path, int]) -> None:
    """Give every file of the home a second name below `links`, unless it has one. What vanishes meanwhile is no matter: no row names it then."""
    for path in _files(home):
        link = links / path.relative_to(home)
        with suppress(FileNotFoundError):
            number = path.stat().st_ino
            if seen.get(link) == number:
                continue
            link.parent.mkdir(parents=True, exist_ok=True)
            link.unlink(missing_ok=True)
            _name_again(path, link)
            seen[link] = number


def _name_again(path: Path, link: Path) -> None:
    """A second name for a file that nobody changes."""
    try:
        os.link(path, link)
    except PermissionError:     # a file system without links
        shutil.copyfile(path, link)


def _files(folder: Path, top: bool = True) -> Iterator[Path]:
    """Files in folders; what is still being made begins with a dot, the store and the locks lie in home itself."""
    with suppress(FileNotFoundError), os.scandir(folder) as found:
        for entry in found:
            if entry.name.startswith(".") or (top and entry.name in APART):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _files(Path(entry.path), False)
            elif not top and entry.is_file(follow_symlinks=False):
                yield Path(entry.path)


def _looked_into(store: Path) -> tuple[str, dict[str, int]]:
    """The schema of a store's copy and how much is in it; BackupError when it is damaged."""
    try:
        with closing(sqlite3.connect(store)) as opened:
            said = [row[0] for row in opened.execute("PRAGMA quick_check(3)")]
            if said != ["ok"]:
                raise BackupError(f"the store is damaged: {'; '.join(said)}")
            schema = opened.execute("SELECT version_num FROM alembic_version").fetchone()
            return schema[0], {table: opened.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in COUNTED}
    except sqlite3.DatabaseError as error:
        raise BackupError(f"the store is damaged: {error}") from None


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(data), 0o600
    archive.addfile(member, io.BytesIO(data))


# -------------------------------------------------------------------- and back


def restore(source: Path, home: Path) -> Contents:
    """Make a home folder from a backup; it is there whole or not at all. `home` must be empty or new. BackupError, OSError."""
    if home.exists() and (not home.is_dir() or any(home.iterdir())):
        raise BackupError(f"{home} is not empty: restore into a new folder")
    home.parent.mkdir(parents=True, exist_ok=True)
    temp = home.with_name(f".{home.name}.{uuid4().hex}")
    try:
        with tarfile.open(source, "r:") as archive:
            contents = _unpack(archive, temp)
        _check(temp, contents)
        if home.exists():
            home.rmdir()
        os.replace(temp, home)
        sync_folder(home.parent)
        return contents
    except (tarfile.TarError, EOFError, KeyError, ValueError) as error:
        raise BackupError(f"{source} is no backup, or it is damaged: {error}") from None
    finally:
        shutil.rmtree(temp, ignore_errors=True)


def _unpack(archive: tarfile.TarFile, folder: Path) -> Contents:
    """Write the members of an archive; its first says what it is."""
    first = archive.next()
    if first is None or first.name != MANIFEST or (text := archive.extractfile(first)) is None:
        raise ValueError(f"it does not begin with {MANIFEST}")
    contents = Contents.of(text.read(1 << 20))
    folder.mkdir(mode=0o700)
    while (member := archive.next()) is not None:
        target = _place(folder, member.name)
        target.parent.mkdir(parents=True, exist_ok=True)
        if member.islnk():      # a fork's checkpoint is its parent's until it has one of its own: one file of two names
            first_name = _place(folder, member.linkname)
            if not first_name.is_file():
                raise ValueError(f"{member.name[:80]!r} is said to be {member.linkname[:80]!r}, which does not come before it")
            _name_again(first_name, target)
            continue
        if not member.isreg():
            raise ValueError(f"it holds {member.name[:80]!r}, which no backup has")
        found: Any = archive.extractfile(member)
        with found, open(target, "xb") as file:
            shutil.copyfileobj(found, file, 1 << 20)
    os.sync()
    return contents


def _place(folder: Path, name: str) -> Path:
    """Where a member of an archive belongs, in `folder` whatever it is called. ValueError."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or (name != STORE and len(path.parts) < 2):
        raise ValueError(f"it holds {name[:80]!r}, which no backup has")
    return folder / path


def _check(home: Path, contents: Contents) -> None:
    """The store is whole, and every file that it names is there with its length."""
    schema, counts = _looked_into(home / STORE)
    if (schema, counts) != (contents.schema, contents.counts):
        raise BackupError("the store in the backup is not the one that its manifest tells of")
    with closing(sqlite3.connect(home / STORE)) as store:
        for path, size in store.execute("SELECT path, bytes FROM checkpoints"):
            if not (home / path).is_file() or (home / path).stat().st_size != size:
                raise BackupError(f"the backup is damaged: {path} is not as it was")
        for digest, in store.execute("SELECT DISTINCT sha256 FROM datasets"):
            if not (home / "datasets" / digest).is_dir():
                raise BackupError(f"the backup is damaged: the dataset {digest} is not in it")
