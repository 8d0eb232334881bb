"""Normalising layers: running statistics, in jobs too; directions and lengths of weights; what selu networks drop."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engine.autodiff.api import gradient, withgradient
from engine.core import lift
from engine.data.table import Table
from engine.errors import ShapeError, SpecError
from engine.nn import AlphaDropout, BatchNorm, Chain, Dense, Flatten, GroupNorm, InstanceNorm, WeightNorm
from engine.train import Job, check, start
from engine.train.run.checkpoint import unpack
from engine.train.trained.predict import Predictor
from tests.engine.test_run import _interrupted, events_of, last_checkpoint

IMAGES = np.random.default_rng(0).normal(2.0, 3.0, (4, 3, 5, 6))


def trained_once(layer: Any, x: np.ndarray = IMAGES) -> tuple[Any, np.ndarray]:
    """The model after one pass in training, and what it gave."""
    model = layer.build(x.shape[1:], dtype="float64")
    return model, withgradient(lambda m: ((y := m(x)).sum(), y), model)[0][1]


def test_batch_norm_uses_the_batch_in_training_and_running_means_of_it_afterwards() -> None:
    model, y = trained_once(BatchNorm(momentum=0.25, epsilon=1e-9))
    flat = IMAGES.reshape(-1, 6)
    np.testing.assert_allclose(y.reshape(-1, 6), (flat - flat.mean(0)) / flat.std(0), rtol=1e-6)
    np.testing.assert_allclose(model.buffers["mean"], 0.25 * flat.mean(0))
    np.testing.assert_allclose(model.buffers["variance"], 0.75 + 0.25 * flat.var(0, ddof=1))
    expected = (IMAGES - model.buffers["mean"]) / np.sqrt(model.buffers["variance"] + 1e-9)
    np.testing.assert_allclose(model(IMAGES), expected, rtol=1e-10)


def test_a_batch_norm_used_twice_follows_both_batches() -> None:
    shared = BatchNorm(momentum=0.5)
    model, _ = trained_once(Chain(shared, Dense(6, bias=False, init={"kind": "identity", "gain": 3.0}), shared))
    means = IMAGES.reshape(-1, 6).mean(0)
    np.testing.assert_allclose(model.buffers["layers.0.mean"], means / 4, rtol=1e-10)    # the second batch has mean 0


def test_the_batch_tells_the_moments_also_where_they_are_far_from_nought() -> None:
    x = (np.random.default_rng(1).normal(size=(1000, 3)) + 1e4).astype("float32")
    model = BatchNorm(momentum=0.5).build((3,))
    gradient(lambda m: m(x).sum(), model)
    np.testing.assert_allclose(model.buffers["variance"], 0.5 + 0.5 * x.astype("float64").var(0, ddof=1), rtol=1e-4)


def test_group_norm_and_instance_norm_look_at_one_row_alone() -> None:
    y = GroupNorm(groups=2, epsilon=1e-9).build((3, 5, 6), dtype="float64")(IMAGES).reshape(4, 15, 2, 3)
    np.testing.assert_allclose(y.mean((1, 3)), 0, atol=1e-9)
    np.testing.assert_allclose(y.var((1, 3)), 1)
    y = InstanceNorm(epsilon=1e-9).build((3, 5, 6), dtype="float64")(IMAGES)
    np.testing.assert_allclose([y.mean((1, 2)), y.var((1, 2))], np.stack([np.zeros((4, 6)), np.ones((4, 6))]), atol=1e-9)
    with pytest.raises(ShapeError, match="divide"):
        GroupNorm(groups=4).build((3, 5, 6))


def test_weight_norm_begins_as_the_layer_does_and_learns_lengths_apart() -> None:
    x = np.random.default_rng(2).normal(size=(5, 4))
    plain, model = Dense(3, "tanh").build((4,), seed=1, dtype="float64"), Chain(WeightNorm(Dense(3, "tanh"))).build((4,), seed=1, dtype="float64")
    inside = model["layers"][0]["layer"]
    np.testing.assert_allclose(inside["gain"], np.linalg.norm(inside["weight"], axis=0))
    np.testing.assert_allclose(model(x), np.tanh(x @ inside["weight"]), rtol=1e-12)
    assert plain["weight"].shape == inside["weight"].shape
    slopes = gradient(lambda m: (m(x) ** 2).sum(), model)[0]["layers"][0]["layer"]
    np.testing.assert_allclose((slopes["weight"] * inside["weight"]).sum(0), 0, atol=1e-12)      # turning a direction does not lengthen it
    for layer, why in ((Flatten(), "no weight"), (Dense(2, init="zeros"), "no direction")):
        with pytest.raises((SpecError, ShapeError), match=why):
            WeightNorm(layer).build((4,))


def test_alpha_dropout_keeps_mean_and_variance() -> None:
    x = np.random.default_rng(3).normal(size=(200, 400))
    y = np.asarray(AlphaDropout(0.3).build((400,), dtype="float64").bind({}, training=True)(lift(x)))
    assert abs(y.mean()) < 0.01 and abs(y.std() - 1) < 0.01 and 0.29 < np.unique(y, return_counts=True)[1].max() / y.size < 0.31


# ---------------------------------------------------------------- in jobs

def table(rows: int = 150) -> Table:
    x = np.random.default_rng(4).normal(1.0, 2.0, (rows, 8)).astype(np.float32)
    return Table.from_columns({"x": x, "y": (x[:, 0] > x[:, 1]).astype(np.int64)})


def job(**changes: Any) -> Job:
    layers = [{"kind": "dense", "units": 12}, {"kind": "batch_norm", "activation": "relu"}, {"kind": "dense", "units": "target"}]
    return Job.model_validate({"model": {"kind": "chain", "layers": layers}, "loss": "logit_cross_entropy", "optimiser": "adam", "seed": 1,
                               "epochs": 3, "data": {"dataset": "d", "target": "y", "batch_size": 32, "validation": {"fraction": 0.2}}, **changes})


def test_a_resumed_job_with_running_statistics_goes_on_to_the_same_bytes() -> None:
    whole = last_checkpoint(events_of(start(job(), {"d": table()})))
    assert whole == last_checkpoint(events_of(start(job(), {"d": table()}, threads=2)))
    run = start(job(), {"d": table()})
    list(_interrupted(run, 6))
    assert run.step < 12
    resumed = start(job(), {"d": table()}, checkpoint=run.checkpoint())
    assert last_checkpoint(events_of(resumed)) == whole
    assert not np.allclose(unpack(whole).group("buffers")["layers.1.mean"], 0)


def test_evaluation_and_prediction_use_the_running_statistics() -> None:
    data = table()
    run = start(job(), {"d": data})
    valid = [e.data["valid_loss"] for e in events_of(run) if e.type == "epoch"][-1]
    predictor, rows = Predictor(job(), run.checkpoint()), run.built.parts["valid"].rows
    x, y = (np.asarray(data.columns[name].data)[rows] for name in ("x", "y"))
    found = [np.array(predictor.predict(columns={"x": part.tolist()})["probabilities"]) for part in (x, x[:1])]
    np.testing.assert_allclose(found[1], found[0][:1], rtol=1e-5)    # a row by itself is what it is among others
    np.testing.assert_allclose(-np.log(found[0][np.arange(len(y)), y]).mean(), valid, rtol=1e-5)


def test_a_last_batch_of_one_row_and_a_large_momentum_are_told_before_anything_runs() -> None:
    with pytest.raises(SpecError, match=r"one row.*drop_last"):
        check(job(data={"dataset": "d", "target": "y", "batch_size": 32}), {"d": table(97)})
    layers = [{"kind": "batch_norm", "momentum": 0.99}, {"kind": "dense", "units": "target"}]
    warnings = check(job(model={"kind": "chain", "layers": layers}), {"d": table()}).warnings
    assert [(w["pointer"], w["code"]) for w in warnings] == [("/model/layers/0/momentum", "large_momentum")]
    with pytest.warns(UserWarning, match=r"momentum: .* write 0\.01"):
        BatchNorm(momentum=0.99).build((3,))
