"""R4. `os._exit` at each named crash point (claim, mid-write, before and after fsync, rename and commit, migration), at the first and at the second
hit: every invariant holds, at once and when another process has gone on."""

from __future__ import annotations

import ast
import os
import re
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config

from service import artifacts, store
from service.errors import CRASHED
from service.jobs import now
from service.store import Event, Store
from service.store.curves import Curve, chart
from service.store.database import connect
from service.store.migrate import migrate
from service.store.tables import SCHEMA
from tests.homes import fresh
from tests.reliability.crash_points import (
    COMMITS,
    FILE_MOMENTS,
    FILES,
    OTHERS,
    POINTS,
    RENAME_MOMENTS,
    RENAMES,
    TRANSACTIONS,
    add_dataset,
    check,
    post,
)
from tests.reliability.whole import tidy
from tests.service.deeds import newest
from tests.service.running import ROOT, Running, classifier

HITS = [1, 2]
EPOCHS = 4
LIVED = ("pinned", "post", "claim", "record", "release", "finish", "request_pause", "resume", "delete_dataset", "discard_content")


@pytest.fixture
def fast() -> Iterator[Path]:
    """A home in memory: what is proved is what is written when, not that a disk keeps it."""
    home = Path("/dev/shm" if Path("/dev/shm").is_dir() else "/tmp", f"trainyard-crash-{os.getpid()}")
    yield fresh(home)
    shutil.rmtree(home)


def crash(place: str, live: Callable[[], Any]) -> int:
    """Live in another process that dies at `place`; its exit status."""
    child = os.fork()
    if child == 0:
        os.environ["TRAINYARD_CRASH_POINT"] = place
        try:
            live()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def counted(home: Path, query: str) -> int:
    with sqlite3.connect(home / "trainyard.db") as raw:
        return raw.execute(query or "SELECT 0").fetchone()[0] or 0


def opened(home: Path, use: Callable[[Store], Any]) -> Any:
    store = Store.at(home)
    try:
        return use(store)
    finally:
        store.close()


# ---------------------------------------------------------------- one transaction, one file


@pytest.mark.parametrize("hit", HITS)
@pytest.mark.parametrize("moment", COMMITS)
@pytest.mark.parametrize("name", TRANSACTIONS)
def test_a_transaction_is_seen_wholly_or_not_at_all(fast: Path, name: str, moment: str, hit: int) -> None:
    deed, done = TRANSACTIONS[name], hit - COMMITS[moment]
    scene = opened(fast, deed.before)

    def both(here: Store) -> None:
        for number in range(2):
            deed.do(here, scene, number)

    base = counted(fast, deed.seen)
    assert crash(f"{name}.{moment}:{hit}", lambda: opened(fast, both)) == CRASHED
    assert not deed.seen or counted(fast, deed.seen) - base == done
    opened(fast, check)
    for number in range(done, 2):
        opened(fast, lambda store, number=number: deed.do(store, scene, number))
    assert not deed.seen or counted(fast, deed.seen) - base == 2
    opened(fast, check)
    opened(fast, artifacts.sweep)
    opened(fast, tidy)


@pytest.mark.parametrize("place", FILES)
def test_a_file_is_whole_or_not_there(fast: Path, place: str) -> None:
    _, pattern, write = FILES[place]
    for moment, unseen in FILE_MOMENTS.items():
        for hit in HITS:
            for folder in ("jobs", "datasets"):
                shutil.rmtree(fast / folder, ignore_errors=True)
            assert crash(f"{place}.{moment}:{hit}", lambda: opened(fast, lambda store: [write(store, 1), write(store, 2)])) == CRASHED
            found = [path for path in fast.glob(pattern) if path.name[0] != "."]
            assert len(found) == hit - unseen and all(path.stat().st_size for path in found)
            opened(fast, artifacts.sweep)
            assert not list(fast.glob(pattern)) and not list(fast.glob("jobs/*/checkpoints/.*"))


@pytest.mark.parametrize("hit", HITS)
@pytest.mark.parametrize("moment", RENAME_MOMENTS)
@pytest.mark.parametrize("place", RENAMES)
def test_what_is_made_out_of_sight_has_its_name_or_is_not_there(fast: Path, place: str, moment: str, hit: int) -> None:
    _, pattern, make = RENAMES[place]
    assert crash(f"{place}.{moment}:{hit}", lambda: opened(fast, lambda store: [make(store, 1), make(store, 2)])) == CRASHED
    assert len(list(fast.glob(pattern))) == hit - RENAME_MOMENTS[moment]
    opened(fast, check)
    opened(fast, artifacts.sweep)
    opened(fast, tidy)


@pytest.mark.parametrize("moment", ["after_backup", *COMMITS])
def test_a_migration_is_done_or_not(tmp_path: Path, moment: str) -> None:
    first_schema(tmp_path)
    before = schema(tmp_path)
    assert crash(f"migrate.{moment}", lambda: migrate(tmp_path)) == CRASHED
    assert (schema(tmp_path) == before) == (moment != "after_commit") and len(list((tmp_path / "backups").iterdir())) == 1
    assert migrate(tmp_path) == SCHEMA
    opened(tmp_path, check)
    assert opened(tmp_path, lambda store: store.claim("here", 60)[0].job_id) == "job_1"


def first_schema(home: Path) -> None:
    """A store as the first program left it, with a job."""
    engine = connect(f"sqlite:///{home / 'trainyard.db'}", "BEGIN IMMEDIATE")
    with engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", str(Path(store.__file__).parent / "migrations"))
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        job = {"id": "job_1", "name": "", "status": "queued", "spec": "{}", "summary": "{}", "metadata": "{}", "metrics": "{}", "warnings": "[]",
               "max_attempts": 3, "seq": 1, "version": 1, "created_at": now(),
               **dict.fromkeys(("priority", "attempt", "fence", "losses", "epoch", "epochs", "step", "progress", "elapsed_seconds"), 0)}
        connection.exec_driver_sql(f"INSERT INTO jobs ({', '.join(job)}) VALUES ({', '.join('?' * len(job))})", tuple(job.values()))
        connection.exec_driver_sql("INSERT INTO events VALUES ('job_1', 1, 'job.queued', 'info', '', '{}', NULL, 0, ?)", (now(),))
    engine.dispose()


def schema(home: Path) -> list[Any]:
    with sqlite3.connect(home / "trainyard.db") as raw:
        return raw.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall() + raw.execute("SELECT * FROM alembic_version").fetchall()


# ---------------------------------------------------------------- the whole life of a job


def live(home: Path) -> None:
    """Everything the service does with one job, from wherever an earlier process left it."""
    store = Store.at(home)
    artifacts.sweep(store)
    rows = store.list_datasets()[0]
    dataset = rows[0]["id"] if rows else add_dataset(store, 0)
    with store.write("post"):
        job_id = post(store, 0)
    while store.get_job(job_id)["status"] != "succeeded":
        if store.get_job(job_id)["status"] == "paused":
            store.resume(job_id)
        if found := store.claim("here", 0.0):       # a lease of no length: the next process takes over at once
            train(store, found[0])
    artifacts.delete_dataset(store, dataset)
    artifacts.sweep(store)
    store.close()


def train(store: Store, claim: Any) -> None:
    artifacts.sweep_job(store, claim.job_id)
    found = newest(store, claim.job_id)
    for epoch in range(1 + (found[0] // 10 if found else 0), EPOCHS + 1):
        file = artifacts.write_checkpoint(store.home, claim.job_id, epoch * 10, b"epoch %d" % epoch)
        answer = store.record(claim, events=[Event("epoch", "", {"epoch": epoch, "step": epoch * 10}, key=f"epoch:{epoch}")],
                              curves={"loss": Curve(range(epoch * 10 - 9, epoch * 10 + 1), [float(epoch)] * 10)},
                              checkpoint={"step": epoch * 10, "epoch": epoch, "metrics": {}, **file}, job={"epoch": epoch})
        artifacts.remove(store.home, answer.removed)
        if epoch == 1:
            store.request_pause(claim.job_id)
            store.release(claim)
            return
        if epoch == 2 and store.get_job(claim.job_id)["attempt"] < 3:
            store.release(claim)
            return
    store.finish(claim, "succeeded", reason="completed", message="Done.")


@pytest.mark.parametrize("hit", HITS)
@pytest.mark.parametrize("place", [f"{name}.{moment}" for name in LIVED for moment in COMMITS] + [f"checkpoint.{moment}" for moment in FILE_MOMENTS])
def test_a_job_goes_on_from_a_crash_anywhere(fast: Path, place: str, hit: int) -> None:
    status = crash(f"{place}:{hit}", lambda: live(fast))
    assert status == CRASHED or hit == 2
    opened(fast, check)
    live(fast)
    store = Store.at(fast)
    check(store)
    tidy(store)
    [job] = store.list_jobs()[0]
    happened = store.events(job["id"])
    assert job["status"] == "succeeded"
    assert [event["data"]["epoch"] for event in happened if event["type"] == "epoch"] == [1, 2, 3, 4]
    assert chart(store, job["id"], by="step")["columns"]["step"] == list(range(1, 41))
    rows = store.checkpoints(job["id"])
    assert [row["step"] for row in rows] == [40, 30] and all(artifacts.read_checkpoint(fast, row) for row in rows)
    store.close()


# ---------------------------------------------------------------- real processes


@pytest.mark.parametrize("place", ["claim.after_commit:2"] + [pytest.param(place, marks=pytest.mark.slow) for place in (
    "checkpoint.mid_write:2", "checkpoint.before_fsync:2", "checkpoint.after_folder_fsync:2", "record.before_commit:4", "record.after_commit:4",
    "checkpoint.after_rename:2", "claim.before_commit:2", "finish.after_commit:1")])
def test_a_worker_that_dies_at_a_named_point_loses_nothing(run: Callable[..., Running], place: str, monkeypatch: pytest.MonkeyPatch,
                                                           shown: Callable[[str], None]) -> None:
    monkeypatch.setenv("TRAINYARD_CRASH_POINT", place)
    running = run()
    spec = classifier(running.dataset(), 15, every=5 if place.startswith("checkpoint") else 1)      # so that every attempt gets further
    first, second = running.add(spec), running.add(spec)
    for job_id in (first, second):
        assert running.wait(job_id)["status"] == "succeeded"
    assert running.weights(first) == running.weights(second) and running.types(second).count("epoch") == 15
    files = {str(path.relative_to(running.home)) for path in (running.home / "jobs").rglob("*.safetensors")}
    assert files == running.store.checkpoint_paths()


# ---------------------------------------------------------------- the table is the program's


def test_the_table_has_every_crash_point_of_the_program_and_no_other(shown: Callable[[str], None]) -> None:
    trees = [ast.parse(path.read_text()) for path in (ROOT / "service").rglob("*.py")]
    calls = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call) and node.args]
    points = [call.args[0] for call in calls if isinstance(call.func, ast.Name) and call.func.id == "crash_point"]
    found = {ast.unparse(point).lstrip("f").strip("'\"") for point in points}
    begun = {item.context_expr for tree in trees for node in ast.walk(tree) if isinstance(node, ast.With) for item in node.items}
    transactions = {call.args[0].value for call in begun if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)
                    and call.func.attr == "write" and call.args and isinstance(call.args[0], ast.Constant)}
    assert found == {*OTHERS, *(f"{{place}}.{moment}" for moment in FILE_MOMENTS), *(f"{{name}}.{moment}" for moment in COMMITS),
                     *(f"{place}.{moment}" for place in RENAMES for moment in RENAME_MOMENTS)}
    assert transactions == set(TRANSACTIONS)
    places = {call.args[2].value for call in calls if re.fullmatch("(artifacts.)?write", ast.unparse(call.func)) and len(call.args) == 3}
    assert places | {"file"} == set(FILES)
    assert len(POINTS) == len(set(POINTS))
    shown(f"{len(POINTS)} named points, first and second hit: every invariant holds, nothing half done is seen")
