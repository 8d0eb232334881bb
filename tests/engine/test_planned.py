"""Jobs planned before: whoever starts one again gets the same bytes as from a new plan, and nothing of another job or run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engine.data.table import Table
from engine.train import Job, Recent, start
from tests.engine.test_run import job, table

ROWS = table()
OTHER = Table.from_columns({name: column.data + (name == "x") for name, column in ROWS.columns.items()})


def trained(spec: Job, rows: Table = ROWS, recent: Recent | None = None) -> bytes:
    """The run's last checkpoint: parameters, buffers, optimiser state, best weights, counters and sums."""
    return [event.payload for event in start(spec, {"d": rows}, recent=recent).events() if event.payload is not None][-1]


def test_an_equal_job_gives_the_same_bytes_from_a_plan_made_before() -> None:
    recent = Recent()
    assert trained(job()) == trained(job(), recent=recent) == trained(job(name="again", priority=3, metadata={"try": "2"}), recent=recent)
    first, again = (recent.planned(one, {"d": ROWS}) for one in (job(), job(name="again")))
    assert first.program is again.program and again.built.job.name == "again"


@pytest.mark.parametrize("changes", [{"seed": 4}, {"epochs": 3}, {"optimiser": {"kind": "adam", "learning_rate": 0.02}}, {"dtype": "float64"},
                                     {"optimiser": "descent"}, {"data": {"dataset": "d", "target": "y", "batch_size": 16}}, {"metrics": []},
                                     {"model": {"kind": "chain", "layers": [{"kind": "dense", "units": "target", "bias": False}]}}], ids=str)
def test_a_job_that_differs_gets_a_plan_of_its_own(changes: dict[str, Any]) -> None:
    recent = Recent()
    trained(job(), recent=recent)
    assert trained(job(**changes), recent=recent) == trained(job(**changes)) != trained(job())


def test_other_rows_get_a_plan_of_their_own() -> None:
    recent = Recent()
    trained(job(), recent=recent)
    assert trained(job(), OTHER, recent) == trained(job(), OTHER) != trained(job())


def test_a_run_remembers_nothing_of_the_callbacks_of_the_last_one() -> None:
    recent, skips = Recent(), {"kind": "on_nonfinite", "action": "skip", "max_times": 3}
    spec = job(optimiser={"kind": "descent", "learning_rate": 1e30}, callbacks=[skips])
    told = [[event.data.get("action") for event in start(spec, {"d": ROWS}, recent=recent).events() if event.type == "nonfinite"] for _ in range(2)]
    assert told[0] == told[1] and "skip" in told[0]


def test_what_was_planned_last_is_kept_and_large_jobs_are_not() -> None:
    recent = Recent(most=2)
    plans = [recent.planned(job(seed=seed), {"d": ROWS}).program for seed in (0, 1, 0, 2)]
    assert plans[0] is plans[2]
    assert recent.planned(job(seed=0), {"d": ROWS}).program is plans[0]
    assert recent.planned(job(seed=1), {"d": ROWS}).program is not plans[1]
    wide = Table.from_columns({"x": np.zeros((3000, 100), np.float32), "y": np.arange(3000) % 3})
    assert recent.planned(job(), {"d": wide}).program is not recent.planned(job(), {"d": wide}).program
