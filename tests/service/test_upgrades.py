"""A newer program takes over what an older one left, row for row and to the same bytes; an older one refuses what a newer one left.

`homes/0001.tar.xz` is the home of a service of the first schema that was killed while a job trained: made once, by that program.
"""

from __future__ import annotations

import json
import re
import sqlite3
import tarfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config

from engine.errors import CheckpointError
from engine.train.run.checkpoint import VERSION, unpack
from service import store as store_package
from service.store import Store
from service.store.curves import chart
from service.store.database import connect
from service.store.migrate import migrate, version
from service.store.tables import SCHEMA
from tests.service.running import Running, classifier
from tests.serving import serving, trainyard
from tests.user import User, epochs

HOMES = Path(__file__).parent / "homes"
Rows = dict[str, list[dict[str, Any]]]


def unpacked(schema: str, folder: Path) -> Path:
    with tarfile.open(HOMES / f"{schema}.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder


def rows_of(home: Path) -> Rows:
    """Everything in a store, by table."""
    with closing(sqlite3.connect(home / "trainyard.db")) as raw:
        raw.row_factory = sqlite3.Row
        names = [row[0] for row in raw.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: [dict(row) for row in raw.execute(f"SELECT * FROM {name} ORDER BY rowid")] for name in names}


@pytest.mark.parametrize("schema", sorted(path.name.partition(".")[0] for path in HOMES.iterdir()))
def test_a_store_of_every_released_schema_keeps_every_row(tmp_path: Path, schema: str) -> None:
    home = unpacked(schema, tmp_path / "home")
    before = rows_of(home)
    assert version(home) == schema and len(before["events"]) > 100 and migrate(home) == SCHEMA == version(home)
    after = rows_of(home)
    for name, rows in before.items():
        if name != "alembic_version":
            assert [{column: row[column] for column in rows[0]} for row in after[name]] == rows if rows else after[name] == []
    if schema != SCHEMA:
        kept, = (home / "backups").iterdir()
        with closing(sqlite3.connect(kept)) as raw:
            assert raw.execute("SELECT version_num FROM alembic_version").fetchone() == (schema,)
    store = Store.at(home)
    for job in store.list_jobs()[0]:
        assert [event["seq"] for event in store.events(job["id"], limit=1000)] == list(range(1, job["seq"] + 1))
        steps = chart(store, job["id"], by="step", points=10_000)["columns"]["step"]
        assert steps == list(range(1, len(steps) + 1))
    store.close()


def test_a_service_goes_on_with_what_an_older_one_left(tmp_path: Path) -> None:
    home = unpacked("0001", tmp_path / "home")
    with serving(home, workers=1, threads=1) as server:
        user = User(server.url)
        by_name = {job["name"]: job["id"] for job in user.get("/v1/jobs")["data"]}
        for name in ("cut", "waiting"):
            told = user.watch(by_name[name])
            assert told[-1]["type"] == "job.succeeded" and [data["epoch"] for data in epochs(told)] == list(range(1, len(epochs(told)) + 1))
        assert len(epochs(user.watch(by_name["cut"]))) == 300
        states = {job["name"]: job["status"] for job in user.get("/v1/jobs")["data"]}
        assert states == {**dict.fromkeys(("done", "inline", "once", "cut", "waiting"), "succeeded"), "nan": "failed", "cancelled": "cancelled"}
        assert user.post(f"/v1/jobs/{by_name['done']}/predict", {"rows": [{"x": [1.0, 2.0]}]})["classes"][0] in (0, 1)


def as_first_schema(home: Path) -> None:
    """Put what the store holds into one of the first schema, as the program of that time would have left it."""
    rows = rows_of(home)
    for path in home.glob("trainyard.db*"):
        path.unlink()
    config = Config()
    config.set_main_option("script_location", str(Path(store_package.__file__).parent / "migrations"))
    engine = connect(f"sqlite:///{home / 'trainyard.db'}", "BEGIN IMMEDIATE")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        first = {name: [row[1] for row in connection.exec_driver_sql(f"PRAGMA table_info({name})")] for name in rows}
        connection.exec_driver_sql("PRAGMA defer_foreign_keys = ON")
        for name, columns in first.items():
            if columns and name != "alembic_version":
                marks = ", ".join("?" * len(columns))
                for row in rows[name]:
                    connection.exec_driver_sql(f"INSERT INTO {name} ({', '.join(columns)}) VALUES ({marks})", tuple(row[name] for name in columns))
    engine.dispose()


def test_a_job_that_ran_before_an_upgrade_ends_with_the_same_bytes(run: Callable[..., Running]) -> None:
    running = run()
    spec = classifier(running.dataset(), 80, units=64, every=5)
    whole = running.add(spec)
    running.wait(whole, "succeeded")
    wanted = running.weights(whole)
    job_id = running.add(spec)
    running.reached(job_id, 12)
    running.process.kill()
    running.process.wait()
    time.sleep(0.5)         # its children die with it
    running.store.close()
    as_first_schema(running.home)
    assert version(running.home) == "0001"
    running.start()
    while version(running.home) != SCHEMA:
        time.sleep(0.05)
    running.store = Store.at(running.home)
    assert running.wait(job_id)["status"] == "succeeded"
    assert running.weights(job_id) == wanted == running.weights(whole)
    assert running.types(job_id).count("epoch") == 80 and "job.requeued" in running.types(job_id)


def test_an_older_program_refuses_a_newer_store_and_leaves_it_as_it_is(home: Path) -> None:
    with closing(sqlite3.connect(home / "trainyard.db")) as raw, raw:
        raw.execute("UPDATE alembic_version SET version_num = '9999'")
    before = rows_of(home)
    done = trainyard("serve", "--home", home, "--port", "0")
    assert done.returncode == 1 and re.search(f"written by a newer program \\(9999, this knows {SCHEMA}\\)", done.stderr), done.stderr
    assert rows_of(home) == before and not (home / "backups").exists()


def checkpoint_of(data: bytes, number: int) -> bytes:
    """The checkpoint as a program with another version of checkpoints would have written it."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8: 8 + size])
    header["__metadata__"]["trainyard"] = json.dumps({**json.loads(header["__metadata__"]["trainyard"]), "version": number})
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[8 + size:]


@pytest.mark.parametrize(("number", "said"), [(VERSION - 1, "an older program"), (VERSION + 1, "a newer program")])
def test_a_checkpoint_of_another_version_is_refused_in_words(number: int, said: str) -> None:
    with tarfile.open(HOMES / "0001.tar.xz") as archive:
        found: Any = archive.extractfile(next(member for member in archive if member.name.endswith(".safetensors")))
        data = found.read()
    assert unpack(data).meta["version"] == VERSION
    with pytest.raises(CheckpointError, match=f"{said}.*version {number}, this one reads {VERSION}"):
        unpack(checkpoint_of(data, number))
