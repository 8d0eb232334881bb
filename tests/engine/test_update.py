"""The update section of a plan: lists of rules, transforms and averages in jobs, exactly resumed, with any number of threads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engine.train.run.checkpoint import Checkpoint, unpack
from engine.train.trained.predict import Predictor
from tests.engine.test_run import _interrupted, events_of, job, last_checkpoint, run_of, table

LIST = [{"kind": "gradient_noise", "std": 0.1}, {"kind": "accumulate", "steps": 3}, {"kind": "clip_norm", "max_norm": 1.0},
        {"kind": "momentum", "groups": [{"paths": ["layers.0.*"], "learning_rate": 0.1}]}, {"kind": "lookahead", "steps": 2},
        {"kind": "ema", "decay": 0.9}]
PLAIN = {"model": {"kind": "dense", "units": 3}, "data": {"dataset": "d", "target": "y", "batch_size": 30, "sampling": "sequential"}, "metrics": []}


def ended(optimiser: Any, threads: int = 1, **changes: Any) -> Checkpoint:
    return unpack(last_checkpoint(events_of(run_of(job(optimiser=optimiser, **changes), threads=threads))))


def weights(checkpoint: Checkpoint, group: str = "parameters") -> np.ndarray:
    return joined(checkpoint.group(group))


def joined(arrays: dict[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([arrays[path].ravel() for path in sorted(arrays)])


@pytest.mark.parametrize("optimiser", [LIST, [{"kind": "accumulate", "steps": 2}, "muon", "ema"]], ids=["list", "muon"])
def test_a_list_goes_on_to_the_same_bytes_after_any_stop_and_with_two_threads(optimiser: Any) -> None:
    spec = job(optimiser=optimiser, epochs=2)
    whole = last_checkpoint(events_of(run_of(spec)))
    assert last_checkpoint(events_of(run_of(spec, threads=2))) == whole
    checkpoint = None
    for steps in (1, 4, 2, 3, 99):
        run = run_of(spec, checkpoint=checkpoint)
        run.seconds_per_step = 1.0
        list(_interrupted(run, steps))
        checkpoint = run.checkpoint()
    assert checkpoint == whole


def test_accumulated_gradients_are_those_of_one_larger_batch() -> None:
    small = ended([{"kind": "accumulate", "steps": 3}, {"kind": "adam", "learning_rate": 0.1}], **PLAIN)
    larger = {**PLAIN, "data": {**PLAIN["data"], "batch_size": 90}}
    large = ended({"kind": "adam", "learning_rate": 0.1}, **{**larger, "data": {**larger["data"], "drop_last": True}}, epochs=1)
    once = ended([{"kind": "accumulate", "steps": 3}, {"kind": "adam", "learning_rate": 0.1}], **PLAIN, epochs=1)
    assert np.allclose(weights(once), weights(large), rtol=1e-4, atol=1e-6)      # 10 batches of 30: 3 updates, and one gradient waits
    assert not np.allclose(weights(small), weights(once))


def test_an_average_is_what_is_validated_predicted_and_saved() -> None:
    rule = {"kind": "descent", "learning_rate": 0.5}
    one_step = {**PLAIN, "data": {**PLAIN["data"], "batch_size": "full", "validation": {"fraction": 0.2}}}
    raw = [weights(ended(rule, **one_step, epochs=epochs)) for epochs in (1, 2, 3)]
    average = joined(run_of(job(optimiser=rule, **one_step)).session.parameters)
    for x in raw:
        average = 0.8 * average + 0.2 * x
    run = run_of(job(optimiser=[rule, {"kind": "ema", "decay": 0.8}], **one_step, epochs=3))
    events = events_of(run)
    checkpoint = unpack(last_checkpoint(events))
    assert np.allclose(weights(checkpoint), average, rtol=1e-5) and np.allclose(weights(checkpoint, "trained"), raw[-1], rtol=1e-5)
    assert np.array_equal(weights(checkpoint, "best"), weights(checkpoint))
    judged = [e.data["valid_loss"] for e in events if e.type == "epoch"]
    alone = [e.data["valid_loss"] for e in events_of(run_of(job(optimiser=rule, **one_step, epochs=3))) if e.type == "epoch"]
    assert min(abs(a - b) for a, b in zip(judged, alone, strict=True)) > 1e-4


def test_a_slow_copy_goes_part_of_the_way_and_training_goes_on_from_there() -> None:
    start = {"kind": "descent", "learning_rate": 0.5}
    full = {**PLAIN, "data": {**PLAIN["data"], "batch_size": "full"}}
    begun = joined(run_of(job(optimiser=start, **full)).session.parameters)
    fast = weights(ended(start, **full, epochs=2))
    found = weights(ended([{"kind": "lookahead", "steps": 2, "rate": 0.25}, start], **full, epochs=2))     # the place in the list says nothing
    assert np.allclose(found, begun + 0.25 * (fast - begun), rtol=1e-5, atol=1e-7)


def test_a_metric_of_all_rows_is_that_of_the_predictions_and_survives_a_stop_in_the_middle_of_an_epoch() -> None:
    spec = job(metrics=["auc", "average_precision", "log_loss"], epochs=2)
    whole = run_of(spec)
    events = events_of(whole)
    run = run_of(spec)
    run.seconds_per_step = 1.0
    list(_interrupted(run, 3))
    resumed = run_of(spec, checkpoint=run.checkpoint())
    told = [e for e in events_of(resumed) if e.type == "epoch"]
    assert [e.data["train_auc"] for e in told] == [e.data["train_auc"] for e in events if e.type == "epoch"]
    assert last_checkpoint(events) == resumed.checkpoint()
    rows = whole.built.parts["valid"].rows
    found = Predictor(spec, last_checkpoint(events)).evaluate(table(), rows=rows)["metrics"]
    last = told[-1].data
    assert found == {name: pytest.approx(last[f"valid_{name}"], rel=1e-5) for name in ("auc", "average_precision", "log_loss")}
    assert 0.5 < last["valid_auc"] < 1 and last["valid_log_loss"] == pytest.approx(last["valid_loss"], rel=1e-5)


def test_noise_is_new_at_each_update_and_has_its_deviation() -> None:
    spec = {"model": {"kind": "dense", "units": 400, "bias": False}, "loss": {"kind": "expression", "formula": "0 * sum(y_hat)"},
            "data": {"dataset": "d", "inputs": ["x"], "batch_size": "full"}, "metrics": []}
    noisy = [[{"kind": "gradient_noise", "std": 0.5}, {"kind": "descent", "learning_rate": 1.0}]]
    steps = [weights(ended(noisy[0], **spec, epochs=epochs)) for epochs in (1, 2, 3)]
    first, second = np.diff(steps, axis=0)
    assert abs(first.std() - 0.5) < 0.03 and abs(first.mean()) < 0.03 and abs(np.corrcoef(first, second)[0, 1]) < 0.05
