"""Checkpoints, curves, datasets, answers kept, names, schema: the rest of what the store promises."""

from __future__ import annotations

import math
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from service import jobs as states
from service.errors import ServiceError, StorageFull
from service.store import Event, Reply, Store
from service.store.curves import Curve, chart, thin
from service.store.database import connect
from service.store.migrate import migrate, version
from service.store.tables import SCHEMA, metadata
from tests.service.deeds import claimed, point, queued


def test_checkpoints_keep_best_last_two_and_the_kept_ones(store: Store):
    claim = claimed(store)
    removed = []
    for step, more in ((10, {"best": True}), (20, {"kept": True}), (30, {}), (40, {}), (50, {"best": True}), (60, {}), (70, {})):
        removed += store.record(claim, checkpoint=point(step, **more)).removed
    rows = store.checkpoints(claim.job_id)
    assert [(row["step"], row["best"], row["last"], row["kept"]) for row in rows] == [
        (70, False, True, False), (60, False, False, False), (50, True, False, False), (20, False, False, True)]
    assert sorted(removed) == ["jobs/x/10", "jobs/x/30", "jobs/x/40"]
    assert store.checkpoint(claim.job_id, "best")["step"] == 50 and store.checkpoint(claim.job_id, "2")["step"] == 20
    assert store.record(claim, checkpoint=point(70, path="jobs/x/70b")).removed == ["jobs/x/70"]
    with pytest.raises(ServiceError, match="epochs 2, 5, 6, 7"):
        store.checkpoint(claim.job_id, "3")
    assert store.record(claim, checkpoint=point(80), kept=[60, 80]).removed == ["jobs/x/20"]
    store.record(claim, checkpoint=point(90))
    assert [row["step"] for row in store.checkpoints(claim.job_id)] == [90, 80, 60, 50]
    with pytest.raises(ServiceError, match="epochs 5, 6, 8, 9"):
        store.checkpoint(claim.job_id, "3")


def test_curves_hold_every_step_once_whatever_is_replayed(store: Store):
    claim, rng = claimed(store), np.random.default_rng(0)
    truth = rng.normal(size=5001)
    truth[1234] = math.nan
    done = 0
    while done < 5000:
        begin = max(0, done - int(rng.integers(0, 1500)))       # go back to a checkpoint now and then
        done = min(5000, begin + int(rng.integers(1, 2500)))
        steps = np.arange(begin + 1, done + 1)
        store.record(claim, curves={"loss": Curve(steps, truth[steps])})
    columns = chart(store, claim.job_id, by="step", points=10_000)["columns"]
    assert columns["step"] == list(range(1, 5001))
    np.testing.assert_array_equal(columns["loss"], truth[1:])


@pytest.mark.parametrize("points", [4, 20, 300])
def test_thinning_keeps_extremes(store: Store, points: int):
    claim = claimed(store)
    values = np.sin(np.arange(6000) / 50)
    values[777], values[3333] = 9.0, -9.0
    store.record(claim, curves={"loss": Curve(np.arange(6000), values)})
    thinned = chart(store, claim.job_id, ["loss"], by="step", points=points)
    assert thinned["thinned"] and len(thinned["columns"]["step"]) <= points
    kept = dict(zip(thinned["columns"]["step"], thinned["columns"]["loss"], strict=True))
    assert kept[777] == 9.0 and kept[3333] == -9.0


@pytest.mark.parametrize("length", [600, 40_000])
def test_no_more_rows_come_than_were_asked_for(store: Store, length: int):
    claim = claimed(store)
    rng = np.random.default_rng(length)
    store.record(claim, curves={name: Curve(np.arange(length), rng.normal(size=length)) for name in ("loss", "gradient_norm", "other")})
    for points in (12, 50, 333):
        found = chart(store, claim.job_id, by="step", points=points)
        assert found["thinned"] and points // 2 <= len(found["columns"]["step"]) <= points


@pytest.mark.parametrize(("rows", "columns", "points"), [(50, 1, 49), (101, 3, 20), (7, 4, 2), (64, 2, 32)])
def test_of_each_stretch_the_smallest_and_the_largest_stay(rows: int, columns: int, points: int):
    rng = np.random.default_rng(rows)
    values = rng.choice([0.0, 1.0, 2.0, math.nan, math.inf, -math.inf], (rows, columns))
    expected = {0, rows - 1}
    for stretch in np.array_split(np.arange(rows), max(1, (points - 2) // (2 * columns))):
        for column in values.T:
            unknown = np.isnan(column[stretch])
            lowest = np.where(unknown, math.inf, column[stretch]).argmin()
            expected |= {int(stretch[lowest]), int(stretch[(unknown if unknown.any() else column[stretch]).argmax()])}
    assert thin(values, points).tolist() == sorted(expected)


def test_charts_of_many_epochs_keep_what_is_not_finite_and_what_is_missing(store: Store):
    claim = claimed(store)
    losses = [math.nan if epoch == 7 else None if epoch == 8 else 1.0 / epoch for epoch in range(1, 41)]
    store.record(claim, events=[Event("epoch", "", {"epoch": epoch, "step": epoch, "train_loss": loss, "said": "no number"}, key=f"epoch:{epoch}")
                                for epoch, loss in enumerate(losses, 1)])
    found = chart(store, claim.job_id, points=10)
    kept = dict(zip(found["columns"]["epoch"], found["columns"]["train_loss"], strict=True))
    assert found["thinned"] and list(found["columns"]) == ["epoch", "step", "train_loss"] and kept[1] == 1.0 and kept[40] == 1 / 40
    assert math.isnan(kept[7]) and len(kept) <= 12


def test_metrics_by_epoch_come_from_epoch_events(store: Store):
    claim = claimed(store)
    for epoch in (1, 2):
        store.record(claim, events=[Event("epoch", "", {"epoch": epoch, "step": 10 * epoch, "train_loss": 1 / epoch}, key=f"epoch:{epoch}")],
                     curves={"loss": Curve([10 * epoch - 1, 10 * epoch], [2, 1])})
    assert chart(store, claim.job_id)["columns"] == {"epoch": [1, 2], "step": [10, 20], "train_loss": [1.0, 0.5]}
    assert chart(store, claim.job_id, ["valid_loss"])["columns"]["valid_loss"] == [None, None]
    assert chart(store, claim.job_id, by="step")["columns"] == {"epoch": [1, 1, 2, 2], "step": [9, 10, 19, 20], "loss": [2.0, 1.0, 2.0, 1.0]}


def test_a_dataset_in_use_stays(store: Store):
    dataset = store.add_dataset({"name": "a", "format": "csv", "bytes": 1, "sha256": "s", "rows": 1, "columns": []})
    job = queued(store, datasets=[dataset["id"]], inline={"name": "b", "format": "json", "bytes": 1, "sha256": "i", "rows": 1, "columns": []})
    with pytest.raises(ServiceError, match="still uses"):
        store.delete_dataset(dataset["id"])
    assert store.list_datasets() == ([dataset], False) and store.contents() == {"s", "i"}
    store.request_cancel(job["id"])
    assert store.delete_dataset(dataset["id"]) == "s" and store.delete_job(job["id"]) == ["i"] and store.contents() == set()
    with pytest.raises(ServiceError, match="was removed"):
        queued(store, datasets=[dataset["id"]])
    assert store.list_jobs() == ([], False)


def test_an_idempotency_key_gives_the_first_answer_again(store: Store, monkeypatch: pytest.MonkeyPatch):
    def post(body: str) -> Reply:
        with store.write("post"):
            if (reply := store.recall("key", "/v1/jobs", body)) is None:
                reply = Reply(202, {"id": queued(store)["id"]}, {"Location": "x"})
                store.remember("key", "/v1/jobs", body, reply)
            return reply

    assert post("a") == post("a") and len(store.list_jobs()[0]) == 1
    with pytest.raises(ServiceError) as mismatch:
        post("b")
    assert mismatch.value.status == 422
    later = states.seconds_now() + 25 * 3600
    monkeypatch.setattr(states, "seconds_now", lambda: later)
    assert store.recall("key", "/v1/jobs", "other") is None and store.expire_idempotency() == 1


def test_a_failed_transaction_leaves_nothing(store: Store):
    with pytest.raises(RuntimeError), store.write("post"):
        queued(store)
        raise RuntimeError
    assert store.counts()["jobs"]["queued"] == 0
    queued(store)
    assert store.counts()["jobs"]["queued"] == 1


def test_whoever_waits_is_told_after_the_commit_and_only_then(store: Store):
    told: list[tuple[str, str, int]] = []
    store.notify = lambda topic, word: told.append((topic, word, store.counts()["jobs"]["queued"]))
    with store.write("post"):
        job = queued(store)
        assert told == []
    assert told == [("queue", job["id"], 1)]


def test_retained_things_outlive_their_time_only_while_used(store: Store, monkeypatch: pytest.MonkeyPatch):
    claim = claimed(store, retain_seconds=60)
    store.finish(claim, "failed", reason="internal", message="", error={"kind": "system", "code": "internal"})
    clock = states.seconds_now() + 50
    monkeypatch.setattr(states, "seconds_now", lambda: clock)
    store.touch_job(claim.job_id)
    clock += 50
    assert store.outlived_jobs() == []
    clock += 50
    assert store.outlived_jobs() == [claim.job_id]


def test_settings_are_kept(store: Store):
    store.set_setting("token", {"sha256": "x"})
    store.set_setting("token", {"sha256": "y"})
    assert store.get_setting("token") == {"sha256": "y"} and store.get_setting("other", 1) == 1


def test_migrations_make_exactly_the_tables_of_the_program(home: Path):
    engine = connect(f"sqlite:///{home / 'trainyard.db'}", "BEGIN")
    with engine.begin() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    engine.dispose()
    assert version(home) == SCHEMA == migrate(home)


def test_a_store_of_another_version_is_refused_in_words(home: Path):
    with sqlite3.connect(home / "trainyard.db") as raw:
        raw.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(ServiceError, match="needs"):
        Store.at(home)
    with pytest.raises(ServiceError, match="newer program"):
        migrate(home)


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)       # which can be told how large it may grow
def test_a_full_disk_refuses_the_write_and_leaves_the_store_whole(store: Store):
    job = queued(store)
    with store.write("limit") as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + 5}")
    with pytest.raises(StorageFull):
        store.add_job({"long": "x" * 1_000_000}, {})
    with store.write("limit") as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 1000000")
    later = queued(store)
    assert [row["id"] for row in store.list_jobs()[0]] == [later["id"], job["id"]]
