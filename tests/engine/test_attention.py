"""Layers of sequences: what attention sees, by position, mask and head; where a place is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engine.autodiff.api import gradient
from engine.core import lift
from engine.data.table import Table
from engine.errors import ShapeError
from engine.nn import Model, MultiHeadAttention, PositionalEncoding
from engine.train import Job, start
from tests.engine.test_run import _interrupted, events_of, last_checkpoint

X = np.random.default_rng(0).normal(size=(3, 6, 4))


def by_hand(model: Model, x: np.ndarray, heads: int, seen: np.ndarray) -> np.ndarray:
    """The layer head by head; `seen` is [queries, keys]."""
    q, k, v = (x @ model[name] for name in ("query", "key", "value"))
    found = []
    for part in np.split(np.arange(q.shape[2]), heads):
        scores = np.where(seen, q[..., part] @ k[..., part].swapaxes(1, 2) / np.sqrt(len(part)), -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        found.append(weights / weights.sum(-1, keepdims=True) @ v[..., part])
    return np.concatenate(found, -1) @ model["out"]


@pytest.mark.parametrize("causal", [False, True])
def test_every_head_weighs_the_places_it_may_see(causal: bool) -> None:
    model = MultiHeadAttention(heads=2, units=6, causal=causal).build((6, 4), dtype="float64")
    np.testing.assert_allclose(model(X), by_hand(model, X, 2, np.tri(6) == 1 if causal else np.ones((6, 6), bool)), rtol=1e-10)
    slope = gradient(lambda x: model(x)[:, 2].sum(), X)[0]
    assert slope[:, :3].all() and slope[:, 3:].any() != causal       # what comes later has no say


def test_a_mask_hides_keys_and_a_query_that_may_see_nothing_is_no_nan() -> None:
    model = MultiHeadAttention(heads=2).build({"query": (6, 4), "mask": (6,)}, dtype="float64")
    mask = np.ones((3, 6), "int32")
    mask[:, 4:] = 0
    seen = np.tile(mask[:1] == 1, (6, 1))
    np.testing.assert_allclose(model({"query": X, "mask": mask}), by_hand(model, X, 2, seen), rtol=1e-10)
    whole = MultiHeadAttention(heads=2).build([(6, 4)] * 3 + [(6, 6)], dtype="float64")
    np.testing.assert_allclose(whole(X, X, X, np.tile(seen, (3, 1, 1))), by_hand(whole, X, 2, seen), rtol=1e-10)
    assert np.isfinite(model({"query": X, "mask": 0 * mask})).all()


def test_queries_may_look_at_another_sequence() -> None:
    other = np.random.default_rng(1).normal(size=(3, 9, 5))
    model = MultiHeadAttention(heads=2).build([(6, 4), (9, 5)], dtype="float64")
    found = model(X, other)
    assert found.shape == X.shape and model["key"].shape == (5, 4)
    np.testing.assert_allclose(model(X, other[:, ::-1]), found, rtol=1e-10)     # without positions order is nothing


def test_dropout_of_weights_keeps_their_mean_and_works_in_training_only() -> None:
    model = MultiHeadAttention(heads=1, dropout=0.5, init="identity").build((6, 4), dtype="float64")
    draws = np.stack([np.asarray(model.bind({}, training=True)(lift(X))) for _ in range(400)])
    assert draws.std(0).min() > 0.01
    np.testing.assert_allclose(draws.mean(0), model(X), atol=0.25)


def test_positions_are_told_by_sines_and_cosines() -> None:
    y = PositionalEncoding(length=6).build((6, 4), dtype="float64")(X) - X
    t = np.arange(6)
    np.testing.assert_allclose(y, np.tile(np.stack([np.sin(t), np.cos(t), np.sin(t / 100), np.cos(t / 100)], 1), (3, 1, 1)), atol=1e-12)


@pytest.mark.parametrize(("layer", "shape", "why"), [
    (MultiHeadAttention(heads=3), (6, 4), "4 units in 3 heads"), (MultiHeadAttention(heads=2), (4,), r"\[time, features\]"),
    (MultiHeadAttention(heads=1, causal=True), [(6, 4), (5, 4)], "as many queries as keys"),
    (MultiHeadAttention(heads=1), {"query": (6, 4), "look": (6,)}, "query, key, value and mask; found query, look"),
    (MultiHeadAttention(heads=1), [(6, 4)] * 3 + [(5,)], r"a mask of \[6\], \[6, 6\] or \[1, 6, 6\].*found \[5\]"),
    (PositionalEncoding(length=5), (6, 4), "up to 5 places, found 6")], ids=lambda value: value if isinstance(value, str) else None)
def test_what_does_not_fit_is_told(layer: Any, shape: Any, why: str) -> None:
    with pytest.raises(ShapeError, match=why):
        layer.build(shape)


def test_a_job_with_attention_gives_the_same_bytes_with_two_threads_and_resumed() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(64, 24, 8)).astype(np.float32)
    table = {"d": Table.from_columns({"x": x, "y": (x.sum((1, 2)) > 0).astype(np.int64)})}
    attend = {"kind": "multi_head_attention", "heads": 4, "units": 32, "causal": True, "dropout": 0.1}
    layers = ["positional_encoding", attend, "layer_norm", "flatten", {"kind": "dense", "units": "target"}]
    job = Job.model_validate({"model": {"kind": "chain", "layers": layers}, "loss": "logit_cross_entropy", "optimiser": "adam", "epochs": 2,
                              "data": {"dataset": "d", "target": "y", "batch_size": 16}})
    runs = [start(job, table, threads=threads) for threads in (1, 2)]
    whole, threaded = (last_checkpoint(events_of(run)) for run in runs)
    assert whole == threaded
    stopped = start(job, table)
    list(_interrupted(stopped, 3))
    assert last_checkpoint(events_of(start(job, table, checkpoint=stopped.checkpoint()))) == whole
