"""Convolution layers: what they compute, their shapes, and what is said where something does not fit."""

import numpy as np
import pytest
from pydantic import TypeAdapter

import engine  # noqa: F401  binds what computes values
from engine.autodiff.api import gradient
from engine.core import leaf
from engine.data.table import Table
from engine.errors import ShapeError, SpecError
from engine.nn import AnyLayer, Chain, Conv, ConvTranspose, DepthwiseConv, Flatten, MaxPool, output_size, trace
from engine.train import Job, start

RNG = np.random.default_rng(0)
IMAGE = RNG.normal(size=(2, 5, 6, 4))


def described(**fields):
    return TypeAdapter(AnyLayer).validate_python(fields)


def values(array):
    return {"kind": "values", "values": array.tolist()}


def test_a_kernel_of_one_is_a_dense_layer_of_each_pixel():
    w, b = RNG.normal(size=(1, 1, 4, 3)), RNG.normal(size=3)
    layer = Conv(3, 1, activation="relu", init={"weight": values(w), "bias": values(b)})
    assert np.allclose(layer.build((5, 6, 4), dtype="float64")(IMAGE), np.maximum(IMAGE @ w[0, 0] + b, 0))


def test_a_kernel_of_ones_adds_up_what_it_covers_and_runs_backwards_on_demand():
    x = np.arange(6.0).reshape(1, 6, 1)
    sums = Conv(1, [3], stride=2, padding=1, bias=False, init="ones").build((6, 1), dtype="float64")(x)
    assert sums[0, :, 0].tolist() == [1, 6, 12]
    ramp = values(np.array([1.0, 10.0]).reshape(2, 1, 1))
    steps = [Conv(1, [2], flip_kernel=flip, bias=False, init=ramp).build((6, 1), dtype="float64")(x)[0, :2, 0].tolist() for flip in (False, True)]
    assert steps == [[10, 21], [1, 12]]


def test_groups_see_their_own_channels_only():
    layer = Conv(6, 3, padding="same", groups=2, bias=False).build((5, 6, 4), dtype="float64")
    weight, y = layer["weight"], layer(IMAGE)
    assert weight.shape == (3, 3, 2, 6)
    for group in (0, 1):
        alone = Conv(3, 3, padding="same", bias=False, init=values(weight[..., 3 * group:3 * group + 3])).build((5, 6, 2), dtype="float64")
        assert np.allclose(y[..., 3 * group:3 * group + 3], alone(IMAGE[..., 2 * group:2 * group + 2]))


def test_a_depthwise_convolution_is_one_of_as_many_groups_as_channels():
    layer = DepthwiseConv(8, 3, padding=1, stride=2).build((5, 6, 4), dtype="float64")
    grouped = Conv(8, 3, padding=1, stride=2, groups=4, init=values(layer["weight"])).build((5, 6, 4), dtype="float64")
    assert layer["weight"].shape == (3, 3, 1, 8) and np.allclose(layer(IMAGE), grouped(IMAGE))


def test_a_transposed_convolution_is_the_transpose_of_a_convolution():
    """Their matrices: (conv x) · y = x · (transposed y)."""
    w = values(RNG.normal(size=(3, 2, 4, 6)))
    settings = {"stride": 2, "padding": [1, 0, 1, 1], "bias": False, "init": w}
    there, back = Conv(6, [3, 2], **settings), ConvTranspose(4, [3, 2], **settings)
    y = there.build((6, 6, 4), dtype="float64")(x := RNG.normal(size=(2, 6, 6, 4)))
    ct = RNG.normal(size=y.shape)
    found = back.build(y.shape[1:], dtype="float64")(ct)
    assert found.shape == x.shape and np.isclose((x * found).sum(), (y * ct).sum())


@pytest.mark.parametrize(("layer", "takes", "gives"), [
    (Conv(7, 3), (9, 8, 2), (7, 6, 7)), (Conv(7, 3, padding="same", stride=2), (9, 8, 2), (5, 4, 7)),
    (Conv(7, 4, padding="same"), (9, 8, 2), (9, 8, 7)),
    (Conv(7, [3], dilation=2, padding="same"), (9, 2), (9, 7)), (Conv(7, 3, padding=[0, 1, 1, 2]), (9, 8, 2), (8, 9, 7)),
    (Conv(7, 2, dimensions=3), (4, 3, 2, 1), (3, 2, 1, 7)), (ConvTranspose(7, 3, stride=2, padding="same"), (4, 5, 2), (8, 10, 7)),
    (ConvTranspose(7, 2, stride=3, padding="same"), (4, 5, 2), (12, 15, 7)), (ConvTranspose(7, [4], stride=2, padding=1), (5, 2), (10, 7))])
def test_lengths_come_out_as_the_padding_says(layer, takes, gives):
    assert output_size(layer, takes) == gives


def test_relu_before_max_pool_is_done_after_it_on_fewer_numbers():
    model = Chain(Conv(4, 1, activation="relu"), MaxPool(2)).build((5, 6, 4), dtype="float64")
    assert trace(model.layer, leaf(IMAGE.shape, "float64"), training=True, dtype="float64").output.op.name == "relu"
    y = np.maximum(IMAGE @ model["layers"][0]["weight"][0, 0], 0)[:, :4].reshape(2, 2, 2, 3, 2, 4)
    assert np.allclose(model(IMAGE), y.max((2, 4)))
    found = gradient(lambda m: m(IMAGE).sum(), model)[0]["layers"][0]["bias"]
    assert np.allclose(found, (y.max((2, 4)) > 0).sum((0, 1, 2)))


def test_a_name_that_ends_in_a_number_of_dimensions_says_it():
    assert described(kind="conv1d", filters=2, kernel_size=3).dimensions == 1 and described(kind="conv2d", filters=2, kernel_size=3).kind == "conv"
    assert described(kind="conv_transpose3d", filters=2, kernel_size=2) == ConvTranspose(2, 2, dimensions=3)
    assert described(kind="conv", filters=2, kernel_size=[3, 5]) == Conv(2, [3, 5])


def test_initial_weights_are_as_wide_as_their_fans_say():
    """Glorot: the fan in is taps times channels of a group, the fan out taps times filters."""
    for layer, fans in ((Conv(64, 3, groups=2), 9 * (32 + 64)), (ConvTranspose(64, 3), 9 * (64 + 64)), (DepthwiseConv(64, 5), 25 * (1 + 64))):
        weight = layer.build((8, 8, 64))["weight"]
        assert np.isclose(np.abs(weight).max(), np.sqrt(6 / fans), rtol=0.02)


@pytest.mark.parametrize(("layer", "takes", "words"), [
    (Conv(4, 3), (28, 28), r"\[height, width, channels\].*found \[28, 28\].*reshape to \[28, 28, 1\]"),
    (Conv(4, 5), (4, 9, 1), r"spans \[5, 5\] is larger than the \[4, 9\].*pad"),
    (Conv(4, 3, groups=2), (5, 5, 3), "2 groups.*channels of.*4 filters"),
    (DepthwiseConv(4, 3), (5, 5, 3), "3 groups"), (ConvTranspose(4, 3, groups=3), (5, 5, 3), "3 groups"),
    (ConvTranspose(4, 2, padding=2), (2, 2, 3), "more than there is"),
    (Chain(Conv(4, 3), Flatten(), Conv(4, 3)), (8, 8, 1), r"layers.2 \(conv\).*found \[144\]")])
def test_inputs_that_do_not_fit_are_explained(layer, takes, words):
    with pytest.raises(ShapeError, match=words):
        layer.build(takes)


def test_descriptions_that_do_not_fit_are_explained():
    wrong = (Conv(2, [3, 3], stride=[1]), "stride"), (Conv(2, 3, dilation=[1, 2, 3]), "dilation"), (Conv(2, [3], dimensions=2), "dimensions")
    for layer, field in wrong:
        with pytest.raises(SpecError, match="/" + field):
            layer.build((4, 4, 1))
    for fields in ({"kernel_size": 0}, {"kernel_size": 2, "groups": 0}, {"kernel_size": 2, "padding": "sam"}):
        with pytest.raises(SpecError):
            Conv(3, **fields)


def test_a_convolutional_job_gives_the_same_bytes_with_any_number_of_threads():
    x = RNG.standard_normal((96, 20, 20, 1)).astype(np.float32)
    layers = [{"kind": "conv", "filters": 8, "kernel_size": 3, "activation": "relu"}, {"kind": "conv", "filters": 24, "kernel_size": 3, "stride": 2},
              {"kind": "depthwise_conv", "filters": 24, "kernel_size": 3, "padding": "same"},
              {"kind": "conv_transpose", "filters": 4, "kernel_size": 3, "stride": 2}, "flatten", {"kind": "dense", "units": "target"}]
    spec = Job.model_validate({"model": {"kind": "chain", "layers": layers}, "loss": "mse", "optimiser": "adam", "epochs": 1,
                               "data": {"dataset": "d", "target": "y", "batch_size": 48}})
    runs = [start(spec, {"d": Table.from_columns({"x": x, "y": x.mean((1, 2, 3))})}, threads=threads) for threads in (1, 2)]
    first, second = ([e.payload for e in run.events() if e.payload is not None][-1] for run in runs)
    assert runs[0].session.table.parallel and first == second
