"""Layers: what they compute, what shapes they take, and how models are described."""

import numpy as np
import pytest
from pydantic import TypeAdapter

import engine  # noqa: F401  binds what computes values
from engine.autodiff.api import gradient
from engine.autodiff.tree import leaves
from engine.core import leaf
from engine.errors import ShapeError, SpecError, TrainyardError
from engine.nn import (
    Activation,
    AnyLayer,
    Chain,
    Dense,
    Dropout,
    Embedding,
    Flatten,
    LayerNorm,
    Parallel,
    Reshape,
    SkipConnection,
    output_size,
    trace,
)
from engine.nn.layer import layers
from engine.nn.paths import nest, selected

x = np.array([[1.0, -2.0, 0.5], [0.0, 3.0, -1.0]])

SAMPLES = {"dense": ({"units": 4, "activation": "tanh"}, (3,), (4,)), "embedding": ({"vocabulary": 5, "units": 2}, (3,), (3, 2)),
           "flatten": ({}, (2, 3), (6,)), "reshape": ({"shape": [3, -1]}, (2, 3), (3, 2)), "activation": ({"activation": "softmax"}, (3,), (3,)),
           "layer_norm": ({}, (2, 3), (2, 3)), "dropout": ({"rate": 0.3}, (3,), (3,)),
           "batch_norm": ({"activation": "relu"}, (2, 3), (2, 3)), "instance_norm": ({"affine": True}, (2, 3), (2, 3)),
           "group_norm": ({"groups": 2}, (2, 4), (2, 4)), "alpha_dropout": ({}, (3,), (3,)),
           "multi_head_attention": ({"heads": 2, "units": 4, "causal": True}, (5, 6), (5, 4)), "positional_encoding": ({}, (5, 3), (5, 3)),
           "weight_norm": ({"layer": {"kind": "dense", "units": 2}}, (3,), (2,)), "chain": ({"layers": ["flatten"]}, (2, 2), (4,)),
           "parallel": ({"layers": ["flatten", "flatten"], "connection": "concat"}, (2, 2), (8,)),
           "conv": ({"filters": 4, "kernel_size": 3, "padding": "same", "activation": "tanh", "groups": 2}, (5, 4, 2), (5, 4, 4)),
           "depthwise_conv": ({"filters": 4, "kernel_size": [2], "stride": 2, "bias": False}, (5, 2), (2, 4)),
           "conv_transpose": ({"filters": 4, "kernel_size": 3, "stride": 2, "flip_kernel": True}, (2, 3, 5), (5, 7, 4)),
           "max_pool": ({"pool_size": 2}, (5, 4, 3), (2, 2, 3)), "mean_pool": ({"pool_size": [3], "padding": "same"}, (7, 2), (3, 2)),
           "adaptive_max_pool": ({"output_size": 2}, (5, 4, 3), (2, 2, 3)), "global_max_pool": ({}, (5, 4, 3), (1, 1, 3)),
           "adaptive_mean_pool": ({"output_size": 2, "dimensions": 3}, (4, 5, 2, 1), (2, 2, 2, 1)), "global_mean_pool": ({}, (5, 3), (1, 3)),
           "scale": ({"activation": "tanh"}, (2, 3), (2, 3)), "bilinear": ({"units": 4}, (3,), (4,)), "pad": ({"amount": 1}, (2, 3, 2), (4, 5, 2)),
           "embedding_bag": ({"vocabulary": 5, "units": 2}, (3,), (2,)), "upsample": ({"scale": 1.5, "mode": "linear"}, (4, 2), (6, 2)),
           "pixel_shuffle": ({"factor": 2}, (2, 3, 8), (4, 6, 2)), "lambda": ({"formula": "sum(x * 2, axis=1)"}, (2, 3), (3,)),
           "maxout": ({"layers": [{"kind": "dense", "units": 3}, "flatten"]}, (3,), (3,)),
           "pairwise_fusion": ({"layers": [{"kind": "dense", "units": 3}]}, (2,), (3,)),
           "rnn": ({"units": 4}, (5, 3), (4,)), "lstm": ({"units": 4, "return_sequences": True}, (5, 3), (5, 4)),
           "gru": ({"units": 4, "bidirectional": True}, (5, 3), (8,)), "gru_v3": ({"units": 4}, (5, 3), (4,)),
           "skip_connection": ({"layer": {"kind": "dense", "units": 3}}, (3,), (3,))}


@pytest.mark.parametrize("kind", layers.members)
def test_every_layer_says_its_shape_and_has_a_gradient(kind):
    fields, takes, gives = SAMPLES[kind]
    layer = TypeAdapter(AnyLayer).validate_python({"kind": kind, **fields})
    assert output_size(layer, takes) == gives
    model = layer.build(takes, dtype="float64")
    batch = np.random.default_rng(0).integers(0, 4, (5, *takes)).astype(float)
    assert model(batch).shape == (5, *gives)
    again = TypeAdapter(AnyLayer).validate_python(layer.model_dump(mode="json"))
    assert np.array_equal(again.build(takes, dtype="float64")(batch), model(batch))
    if model.parameters:
        grads = dict(leaves(gradient(lambda m: (m(batch) ** 2).sum(), model)[0]))
        assert {path: g.shape for path, g in grads.items()} == {path: p.shape for path, p in model.parameters.items()}


def test_dense_multiplies_the_last_axis():
    model = Dense(2, "relu", init={"weight": "ones", "bias": {"kind": "values", "values": [0.5, -9.0]}}).build((3,), dtype="float64")
    assert np.allclose(model(x), np.maximum(x.sum(1, keepdims=True) + [0.5, -9.0], 0))
    cube = np.arange(24.0).reshape(2, 4, 3)
    assert np.allclose(Dense(2, bias=False, init="ones").build((4, 3))(cube), np.repeat(cube.sum(-1, keepdims=True), 2, -1))
    with pytest.raises(ShapeError, match=r"\[batch, features\].*reshape"):
        Dense(2).build(())


def test_whole_numbers_are_taken_as_floats():
    model = Dense(2).build((3,))
    assert np.array_equal(model(np.array([[1, 2, 3]])), model(np.array([[1.0, 2.0, 3.0]], np.float32)))
    assert model(np.ones((1, 3))).dtype == np.float32


def test_activations_have_other_names_and_numbers():
    leaky = Activation({"kind": "leakyrelu", "slope": 0.5})
    assert Activation("silu").activation == "swish" and leaky.activation == {"kind": "leaky_relu", "slope": 0.5}
    assert np.allclose(leaky.build((3,), dtype="float64")(x), np.where(x > 0, x, x / 2))
    assert np.allclose(Activation("softmax").build((3,), dtype="float64")(x).sum(1), 1)
    assert Chain(Dense(2, "softmax"), Flatten()).last_activation() == "softmax" and Chain(Dense(2), Dropout()).last_activation() == "identity"


def test_embedding_looks_up_rows_and_padding_gives_zeros_and_learns_nothing():
    model = Embedding(4, 2, padding_index=1).build((3,), dtype="float64")
    words = np.array([[0, 1, 3]])
    assert np.array_equal(model(words)[0, [0, 2]], model["weight"][[0, 3]]) and not model(words)[0, 1].any()
    assert gradient(lambda m: m(words).sum(), model)[0]["weight"].tolist() == [[1, 1], [0, 0], [0, 0], [1, 1]]


def test_embedding_refuses_numbers_without_a_row():
    model = Embedding(4, 2).build(input_shape=(3,))
    for wrong in (4, -1):
        with pytest.raises(TrainyardError, match=f"0 to 3, found {wrong}"):
            model(np.array([[0, 1, wrong]]))


def test_layer_norm_brings_rows_to_mean_zero_and_variance_one():
    y = LayerNorm(epsilon=1e-12).build((3,), dtype="float64")(x)
    assert np.allclose(y.mean(1), 0) and np.allclose(y.var(1), 1)
    assert not LayerNorm(affine=False).build((3,)).parameters


def test_dropout_works_in_training_only_and_shares_draws_along_axes():
    ones = np.ones((6, 4, 5))
    model = Dropout(0.5, axes=[0, 2]).build((4, 5), dtype="float64")
    assert np.array_equal(model(ones), ones)
    y = np.asarray(model.bind({}, training=True)(leaf(ones.shape, "float64", value=ones)))
    assert set(np.unique(y)) == {0.0, 2.0} and np.array_equal(y, np.repeat(y[:, :1], 4, axis=1))
    with pytest.raises(ShapeError, match="axis 7"):
        Dropout(0.5, axes=[7]).build((2,)).bind({}, training=True)(leaf((1, 2), "float32"))


def test_draws_of_two_dropouts_and_of_two_steps_differ():
    ones, model = np.ones((30, 30)), Chain(Dropout(), Dropout()).build((30,), dtype="float64")
    y = [np.asarray(model.bind({}, training=True)(leaf(ones.shape, "float64", value=ones))) for _ in range(2)]
    assert 0.15 < (y[0] > 0).mean() < 0.35 and not np.array_equal(y[0], y[1])


def test_parallel_joins_its_layers_or_keeps_them_apart():
    def joined(connection, *more):
        return Parallel([Reshape([3]), Activation("relu")], connection).build(*more or ((3,),), dtype="float64")(x)

    r = np.maximum(x, 0)
    assert np.allclose(joined("add"), x + r) and np.allclose(joined("multiply"), x * r) and np.allclose(joined("mean"), (x + r) / 2)
    assert np.allclose(joined("max"), np.maximum(x, r)) and np.allclose(joined("concat"), np.concatenate([x, r], -1))
    assert list(joined("separate")) == ["0", "1"]
    model = Parallel({"a": Dense(2), "b": Dense(3)}, "separate").build({"a": (3,), "b": (1,)})
    assert {k: v.shape for k, v in model({"a": x, "b": x[:, :1]}).items()} == {"a": (2, 2), "b": (2, 3)}
    pair = Chain(Parallel([Dense(2), Dense(2)], "add"), Dense(1)).build([(3,), (1,)])
    assert pair(x, x[:, :1]).shape == (2, 1)


def test_a_skip_connection_adds_what_it_went_around():
    assert np.allclose(SkipConnection(Activation("relu")).build((3,), dtype="float64")(x), np.maximum(x, 0) + x)
    assert SkipConnection(Dense(2), "concat").build((3,))(x).shape == (2, 5)


def test_paths_follow_the_model_and_names_replace_places():
    model = Chain(Dense(2, name="first"), Chain(Dense(2), Dense(1), name="body"), SkipConnection(Dense(1))).build((3,))
    assert [*model.parameters] == ["layers.first.weight", "layers.first.bias", "layers.body.0.weight", "layers.body.0.bias", "layers.body.1.weight",
                                   "layers.body.1.bias", "layers.2.layer.weight", "layers.2.layer.bias"]
    assert model["layers"]["body"][1]["bias"] is model.parameters["layers.body.1.bias"]
    model["layers"]["body"][1]["bias"][...] = 7
    assert model.slab is not None and 7 in model.slab
    assert [(row["path"], row["output_shape"], row["parameters"]) for row in model.describe()] == [
        ("layers.first", (2,), 8), ("layers.body", (1,), 0), ("layers.body.0", (2,), 6), ("layers.body.1", (1,), 3), ("layers.2", (1,), 0),
        ("layers.2.layer", (1,), 2)]


def test_a_layer_used_twice_has_one_set_of_parameters():
    shared = Dense(3)
    model = Chain(shared, shared).build((3,), dtype="float64")
    assert [*model.parameters] == ["layers.0.weight", "layers.0.bias"] and model["layers"][1]["weight"] is model["layers"][0]["weight"]
    assert np.allclose(model(x), x @ model["layers"][0]["weight"] @ model["layers"][0]["weight"])
    with pytest.raises(ShapeError, match=r"layers.1 \(dense\): its weight is \[2, 3\], this input asks for \[3, 3\]"):
        Chain(shared, shared).build((2,))
    assert [*Chain(Dense(3), Dense(3)).build((3,)).parameters] == [f"layers.{i}.{n}" for i in (0, 1) for n in ("weight", "bias")]


def test_values_do_not_depend_on_what_else_is_in_the_model():
    small, large = Chain(Dense(3)).build((2,), seed=4), Chain(Dense(3), Dense(9)).build((2,), seed=4)
    assert np.array_equal(small["layers"][0]["weight"], large["layers"][0]["weight"])


@pytest.mark.parametrize("layer, shape, words", [
    (Chain(Dense(4), Reshape([3])), (2,), r"layers.1 \(reshape\).*\[3\] of \[4\].*comes from layers.0 \(dense\)"),
    (Chain(Dense(4), Chain(Reshape([3]), name="body")), (2,), r"layers.body.0 \(reshape\).*layers.0 \(dense\)"),
    (Parallel([Dense(2), Dense(3)]), (2,), r"parallel.*'add'.*one shape.*layers.0 \(dense\) \[2\], layers.1 \(dense\) \[3\]"),
    (Parallel([Dense(2), Dense(3)]), [(2,), (2,), (2,)], "2 layers and found 3 inputs"),
    (Parallel({"a": Dense(2)}), {"b": (2,)}, "named inputs b.*found layers a"),
    (Dense(2), {"a": (2,)}, "put a parallel layer before it")])
def test_shapes_that_do_not_fit_are_told_with_the_layer_and_where_they_come_from(layer, shape, words):
    with pytest.raises(ShapeError, match=words):
        layer.build(shape)


def test_a_shape_error_points_into_the_description():
    with pytest.raises(ShapeError) as caught:
        Chain(Dense(4), SkipConnection(Chain(Reshape([3]), name="x"))).build((2,))
    assert caught.value.pointer == "/layers/1/layer/layers/0" and caught.value.path == "layers.1.layer.0 (reshape)"


@pytest.mark.parametrize("shape", [3, (-1,), [(2,), 3]])
def test_an_input_shape_is_lengths_of_axes(shape):
    with pytest.raises(ShapeError, match="input_shape is the lengths"):
        Dense(1).build(shape)


def test_sizes_that_only_data_can_tell_are_named():
    with pytest.raises(SpecError) as caught:
        Chain(Chain(Dense("target"))).build((2,))
    assert caught.value.problems[0].pointer == "/layers/0/layers/0/units"


def test_names_side_by_side_must_differ():
    with pytest.raises(SpecError, match="called 'a'"):
        Chain(Dense(1, name="a"), Dense(1, name="a"))


def test_a_trace_makes_no_arrays_and_keeps_given_leaves():
    given = leaf((3, 2), "float32")
    traced = trace(Dense(2), leaf((10**9, 3), "float32"), training=True, parameters={"weight": given})
    assert traced.parameters["weight"].node is given and traced.output.shape == (10**9, 2) and traced.key is None


def test_path_patterns_choose_parameters():
    assert nest({"a.0": 1, "a.1": 2}, ["b"]) == {"a": [1, 2], "b": {}}
    assert selected("layers.0.weight", ["layers.0.*"]) and selected("layers.0.weight", ["layers.0"]) and selected("layers.0.weight", ["!layers.1"])
    assert not selected("layers.1.bias", ["*", "!*.bias"]) and not selected("layers.10.bias", ["layers.1"])
