"""Pooling: where the derivative of equal elements goes, what NaN does, and how windows are described."""

from __future__ import annotations

import numpy as np
import pytest

from engine import gradient
from engine.data.table import Table
from engine.errors import ShapeError, SpecError
from engine.nn import AdaptiveMeanPool, GlobalMaxPool, GlobalMeanPool, MaxPool, MeanPool
from engine.ops import max_pool
from engine.train import Job, start
from tests.engine.test_op_rules import node_of, on_cpu

GRID = np.arange(40.0).reshape(1, 4, 5, 2)


@pytest.mark.parametrize("attrs", [{"window": (2, 2)}, {"window": (2, 2), "stride": (1, 2)}], ids=["quads", "overlapping"])
def test_the_derivative_goes_to_the_first_of_equals_in_row_major_order(attrs):
    x = np.zeros((1, 2, 4, 1))
    x[0, :, 2:, 0] = [[1, 5], [5, 5]]
    back = gradient(lambda v: max_pool(v, **attrs).sum(), x)[0]
    assert back[0, :, :, 0].tolist() == [[1, 0, 0, 1], [0, 0, 0, 0]]


@pytest.mark.parametrize("attrs", [{"window": (2, 2)}, {"window": (2, 2), "stride": (1, 1)}], ids=["quads", "overlapping"])
def test_nan_and_infinities_come_through(attrs):
    x = np.array([[-np.inf, -np.inf, 1.0, np.nan], [-np.inf, -np.inf, np.inf, 2.0]]).reshape(1, 2, 4, 1)
    found = on_cpu(max_pool(node_of(x, "float32"), **attrs))[0, 0, :, 0]
    np.testing.assert_array_equal(found[[0, -1]], [-np.inf, np.nan])


def test_padding_is_never_greatest_and_counts_as_zeros_in_means():
    model = MaxPool(2, padding=1).build((4, 5, 2), dtype="float64")
    assert model(GRID - 100)[0, :, :, 0].tolist() == [[-100, -96, -92], [-80, -76, -72], [-70, -66, -62]]
    mean = MeanPool(3, stride=1, padding="same").build((4, 5, 2), dtype="float64")(np.ones_like(GRID))
    assert np.allclose(mean[0, :, :, 1] * 9, [[4, 6, 6, 6, 4], [6, 9, 9, 9, 6], [6, 9, 9, 9, 6], [4, 6, 6, 6, 4]])


def test_windows_are_told_by_one_number_or_one_for_each_axis():
    def shape(layer, takes):
        return layer.build(takes).describe()[0]["output_shape"]

    assert shape(MaxPool(2), (7, 6, 3)) == shape(MaxPool([2, 2]), (7, 6, 3)) == (3, 3, 3)
    assert shape(MaxPool(5, stride=3, padding=2, dimensions=1), (100, 7)) == (34, 7)
    assert shape(MaxPool([2, 2], padding=[1, 0, 0, 1]), (7, 7, 1)) == (4, 4, 1)
    assert shape(MaxPool(4, padding="same"), (10, 11, 1)) == (3, 3, 1)
    assert shape(AdaptiveMeanPool([3]), (10, 2)) == (3, 2)


def test_an_adaptive_pool_has_windows_of_one_size_and_a_global_one_is_the_whole():
    found = AdaptiveMeanPool([3]).build((8, 1), dtype="float64")(np.arange(8.0).reshape(1, 8, 1))
    assert found[0, :, 0].tolist() == [1.5, 3.5, 5.5]      # windows of four, two apart
    assert GlobalMaxPool().build((4, 5, 2))(GRID).tolist() == [[[[38, 39]]]]
    assert GlobalMeanPool().build((4, 5, 2))(GRID).tolist() == [[[[19, 20]]]]


@pytest.mark.parametrize(("layer", "takes", "words"), [
    (MaxPool(2), (28, 28), r"\[height, width, channels\].*found \[28, 28\].*reshape to \[28, 28, 1\]"), (MaxPool([5]), (4, 1), r"\[5\] is larger"),
    (MaxPool(2, padding=2), (4, 4, 1), "nothing but padding"), (AdaptiveMeanPool(5), (4, 8, 1), r"\[5, 5\] of the smaller \[4, 8\]"),
    (GlobalMeanPool(), (4,), r"found \[4\]")])
def test_inputs_that_do_not_fit_are_explained(layer, takes, words):
    with pytest.raises(ShapeError, match=words):
        layer.build(takes)


def test_descriptions_that_do_not_fit_are_explained():
    wrong = (MaxPool([2, 2], stride=[1]), "stride"), (MaxPool(2, padding=[1, 2, 3]), "padding"), (MaxPool([2], dimensions=2), "dimensions")
    for layer, field in wrong:
        with pytest.raises(SpecError, match="/" + field):
            layer.build((4, 4, 1))
    for fields in ({"pool_size": 0}, {"pool_size": [2, 2, 2, 2]}, {"pool_size": 2, "padding": "sam"}, {"pool_size": 2, "padding": -1}):
        with pytest.raises(SpecError):
            MaxPool(**fields)


def test_a_job_with_pooling_gives_the_same_bytes_with_any_number_of_threads():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, 28, 28, 8)).astype(np.float32)
    layers = [{"kind": "max_pool", "pool_size": 2},
              {"kind": "pad", "amount": 1, "mode": "circular"}, {"kind": "max_pool", "pool_size": 3, "stride": 1},
              {"kind": "upsample", "scale": 1.5, "mode": "linear"}, {"kind": "mean_pool", "pool_size": 3, "stride": 2, "padding": "same"},
              {"kind": "scale"}, "flatten", {"kind": "dense", "units": "target"}]
    spec = Job.model_validate({"model": {"kind": "chain", "layers": layers}, "loss": "mse", "optimiser": "adam", "epochs": 1,
                               "data": {"dataset": "d", "target": "y", "batch_size": 64}})
    runs = [start(spec, {"d": Table.from_columns({"x": x, "y": x.mean((1, 2, 3))})}, threads=threads) for threads in (1, 2)]
    first, second = ([e.payload for e in run.events() if e.payload is not None][-1] for run in runs)
    assert runs[0].session.table.parallel and first == second
