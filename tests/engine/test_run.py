"""Runs: events in order, the same bytes twice, with any number of threads, and after any interruption."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from engine.data.table import Table
from engine.train import Job, start
from engine.train.run.checkpoint import unpack
from engine.train.run.events import Event
from engine.train.run.loop import Run

ROWS = 300


def table(rows: int = ROWS) -> Table:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, 8)).astype(np.float32)
    y = (x[:, 0] + x[:, 1] * x[:, 2] > 0).astype(np.int64) + (x[:, 3] > 1)
    return Table.from_columns({"x": x, "y": y})


def job(**changes: Any) -> Job:
    document: dict[str, Any] = {
        "model": {"kind": "chain", "layers": [{"kind": "dense", "units": 16, "activation": "relu"}, {"kind": "dropout", "rate": 0.2},
                                              {"kind": "dense", "units": "target"}]},
        "loss": "logit_cross_entropy", "optimiser": {"kind": "adam", "learning_rate": 0.01},
        "data": {"dataset": "d", "target": "y", "batch_size": 32, "validation": {"fraction": 0.2}}, "epochs": 4, "seed": 3}
    return Job.model_validate({**document, **changes})


def run_of(spec: Job | None = None, rows: int = ROWS, **options: Any) -> Run:
    return start(spec or job(), {"d": table(rows)}, **options)


def events_of(run: Run) -> list[Event]:
    return list(run.events())


def last_checkpoint(events: list[Event]) -> bytes:
    return [e.payload for e in events if e.payload is not None][-1]


def losses_of(events: list[Event]) -> list[tuple[float, float]]:
    return [(e.data["train_loss"], e.data["valid_loss"]) for e in events if e.type == "epoch"]


def test_events_come_in_order_and_end_with_finished() -> None:
    events = events_of(run_of())
    assert [e.data["epoch"] for e in events if e.type == "epoch"] == [1, 2, 3, 4]
    assert [e.type for e in events if e.type != "step"][-2:] == ["checkpoint", "finished"]
    assert events[-1].data["status"] == "succeeded" and events[-1].data["status_reason"] == "completed"
    first = next(e for e in events if e.type == "epoch").data
    assert {"epoch", "epochs", "step", "train_loss", "train_accuracy", "valid_loss", "valid_accuracy", "learning_rate", "gradient_norm", "seconds",
            "samples_per_second", "eta_seconds"} <= set(first)


def test_the_loss_falls() -> None:
    losses = losses_of(events_of(run_of(job(epochs=30))))
    assert losses[-1][1] < 0.6 * losses[0][1]


def test_each_step_is_in_the_curves_once() -> None:
    events = events_of(run_of())
    steps = np.concatenate([e.curves["loss"][0] for e in events if e.curves])
    assert steps.tolist() == list(range(1, 4 * 8 + 1))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_same_job_gives_the_same_bytes_twice_and_with_two_threads(dtype: str) -> None:
    layers = [{"kind": "dense", "units": units, "activation": f} for units, f in ((500, "tanh"), (600, "relu"), (3, "identity"))]
    wide = {"model": {"kind": "chain", "layers": layers}, "dtype": dtype, "epochs": 2}
    runs = [run_of(job(**wide), threads=threads) for threads in (1, 1, 2)]
    assert runs[0].session.table.parallel
    first, second, threaded = (last_checkpoint(events_of(run)) for run in runs)
    assert first == second
    assert first == threaded


def test_a_formula_that_gives_no_number_is_traced_to_its_part() -> None:
    loss = {"kind": "expression", "formula": "mean(log(sum(y_hat - y_hat, axis=1)))"}
    error = events_of(run_of(job(loss=loss, metrics=[])))[-1].data["error"]
    assert error["layer"] == "output of the loss's log(sum(y_hat - y_hat, axis=1))" and error["pointer"] == "/loss"


@pytest.mark.parametrize("seed", range(6))
def test_a_run_stopped_anywhere_goes_on_to_the_same_bytes(seed: int) -> None:
    whole = events_of(run_of())
    rng = np.random.default_rng(seed)
    checkpoint, losses = None, {}
    for _ in range(50):
        run = run_of(checkpoint=checkpoint)
        run.seconds_per_step = 1.0      # one step at a time, so that a stop can come anywhere
        steps = int(rng.integers(1, 12))
        for event in _interrupted(run, steps):
            if event.type == "epoch":
                losses.setdefault(event.data["epoch"], (event.data["train_loss"], event.data["valid_loss"]))
            if event.type == "finished" and event.data["status"] == "succeeded":
                assert list(losses.values()) == losses_of(whole)
                assert run.checkpoint() == last_checkpoint(whole)
                return
        checkpoint = run.checkpoint()
    raise AssertionError("the run did not end")


def _interrupted(run: Run, steps: int) -> Any:
    """Events of a run whose stop word is set after some steps."""
    begin, stretch = run.step, run._stretch

    def counted() -> Any:
        run.seconds_per_step = 1.0
        yield from stretch()
        run.seconds_per_step = 1.0
        if run.step - begin >= steps:
            run.stop_word[0] = 1

    run._stretch = counted  # type: ignore[method-assign]
    yield from run.events()


def test_a_resumed_run_keeps_the_best_weights_and_callbacks() -> None:
    spec = job(epochs=12, optimiser={"kind": "adam", "learning_rate": 0.05}, callbacks=[{"kind": "early_stopping", "patience": 2}])
    whole = events_of(run_of(spec))
    run = run_of(spec)
    for event in run.events():
        if event.type == "epoch" and event.data["epoch"] == 3:
            run.stop_word[0] = 1
    resumed = events_of(run_of(spec, checkpoint=run.checkpoint()))
    assert last_checkpoint(resumed) == last_checkpoint(whole)
    assert resumed[-1].data["status_reason"] == whole[-1].data["status_reason"]


def test_a_loss_that_is_not_finite_stops_the_run_and_leaves_the_parameters() -> None:
    run = run_of(job(optimiser={"kind": "descent", "learning_rate": 1e30}))
    events = events_of(run)
    found = events[-1].data
    assert found["status"] == "failed" and found["error"]["code"] == "nonfinite_loss"
    assert "epoch" in found["error"]["message"] and "clip_global_norm" in found["error"]["hint"]
    assert found["error"]["layer"].startswith("output of layers.")
    assert next(e for e in events if e.type == "nonfinite").data["layer"] == found["error"]["layer"]


def test_steps_that_are_not_finite_can_be_skipped() -> None:
    data = table()
    x = np.array(data.columns["x"].data)
    x[5, 0] = np.inf
    bad = Table.from_columns({"x": x, "y": np.array(data.columns["y"].data)})
    spec = job(callbacks=[{"kind": "on_nonfinite", "action": "skip"}])
    run = start(spec, {"d": bad})
    events = events_of(run)
    assert events[-1].data["status"] == "succeeded"
    assert sum(e.type == "nonfinite" for e in events) >= 3
    assert all(np.isfinite(array).all() for array in run.session.parameters.values())


def test_early_stopping_ends_the_run_with_the_best_weights() -> None:
    spec = job(epochs=200, optimiser={"kind": "adam", "learning_rate": 0.1}, callbacks=[{"kind": "early_stopping", "patience": 3}])
    run = run_of(spec)
    events = events_of(run)
    assert events[-1].data["status_reason"] == "early_stopping"
    best = events[-1].data["best"]
    assert best["metrics"]["valid_loss"] == min(valid for _, valid in losses_of(events))
    found = unpack(last_checkpoint(events))
    for path, array in found.group("parameters").items():
        assert (array == found.group("best")[path]).all()


def test_the_step_limit_ends_well_and_the_limit_ends_badly() -> None:
    well = events_of(run_of(job(callbacks=[{"kind": "step_limit", "steps": 11}])))
    assert well[-1].data["status"] == "succeeded" and well[-1].data["status_reason"] == "step_limit"
    assert unpack(last_checkpoint(well)).meta["step"] == 11
    badly = events_of(run_of(job(limits={"max_steps": 11})))
    assert badly[-1].data["status"] == "failed" and badly[-1].data["error"]["code"] == "step_limit"


def test_stop_when_ends_the_run_at_a_metric() -> None:
    events = events_of(run_of(job(epochs=100, callbacks=[{"kind": "stop_when", "metric": "accuracy", "above": 0.7}])))
    assert events[-1].data["status_reason"] == "stop_when"
    assert [e.data["valid_accuracy"] > 0.7 for e in events if e.type == "epoch"][-1]


def test_skip_when_leaves_the_parameters_of_such_steps() -> None:
    run = run_of(job(callbacks=[{"kind": "skip_when", "above": 1e-9}]))
    before = {path: array.copy() for path, array in run.session.parameters.items()}
    events_of(run)
    assert all((array == before[path]).all() for path, array in run.session.parameters.items())


def test_frozen_parameters_keep_their_values() -> None:
    run = run_of(job(trainable=["layers.2.*"]))
    before = {path: array.copy() for path, array in run.session.parameters.items()}
    events_of(run)
    changed = {path for path, array in run.session.parameters.items() if (array != before[path]).any()}
    assert changed == {"layers.2.weight", "layers.2.bias"}


def test_the_test_rows_are_looked_at_once_at_the_end() -> None:
    spec = job(data={"dataset": "d", "target": "y", "test": {"fraction": 0.25}})
    events = events_of(run_of(spec))
    found = [e for e in events if e.type == "evaluation"]
    assert len(found) == 1 and found[0].data["split"] == "test" and 0 <= found[0].data["metrics"]["accuracy"] <= 1
    assert f", accuracy {found[0].data['metrics']['accuracy']:.4g}." in found[0].message


def test_a_global_norm_clip_bounds_the_step() -> None:
    chain = [{"kind": "clip_global_norm", "max_norm": 1e-3}, {"kind": "descent", "learning_rate": 1.0}]
    spec = job(optimiser=chain, callbacks=[{"kind": "step_limit", "steps": 1}])
    run = run_of(spec)
    before = np.concatenate([a.ravel() for a in run.session.parameters.values()])
    events_of(run)
    after = np.concatenate([a.ravel() for a in run.session.parameters.values()])
    assert np.linalg.norm(after - before) == pytest.approx(1e-3, rel=1e-3)


def test_a_schedule_changes_the_learning_rate_per_epoch() -> None:
    spec = job(optimiser={"kind": "descent", "learning_rate": 0.1, "schedule": {"kind": "exp", "factor": 0.5}})
    rates = [e.data["learning_rate"] for e in events_of(run_of(spec)) if e.type == "epoch"]
    assert rates == pytest.approx([0.1, 0.05, 0.025, 0.0125])


def test_batches_of_a_validation_pass_count_as_progress() -> None:
    run = run_of(job(data={"dataset": "d", "target": "y", "batch_size": 32, "validation": {"fraction": 0.99}}), rows=50_000)
    valid = run.session.program.phases["valid"]
    passes = threading.Thread(target=lambda: [run.session.run_pass(valid) for _ in range(20)])
    passes.start()
    seen = set()
    while passes.is_alive():
        seen.add(run.progress)
    assert len(seen) > 2 and {step for step, _ in seen} == {0}
