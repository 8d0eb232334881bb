"""Recurrent layers: what they compute, both ways and for rows that end early; derivatives of all orders; what is shared and what is refused."""

import numpy as np
import pytest

from engine import check_gradient, gradient, hvp
from engine.core import apply, leaf
from engine.errors import ShapeError
from engine.nn import GRU, LSTM, RNN, Chain, Embedding, GRUv3, Lambda, Parallel, Scale
from engine.special import expit

rng = np.random.default_rng(5)
x = rng.normal(size=(3, 4, 2))
KINDS = [RNN, LSTM, GRU, GRUv3]


def by_numpy(kind, p, sequence):
    """The states after each step of one row, from Flux's formulas with our weights [in, out]."""
    h = c = np.zeros(len(p["recurrent_weight"]))
    states = []
    for row in sequence:
        s, w = row @ p["weight"] + p["bias"], p["recurrent_weight"]
        if kind is RNN:
            h = np.tanh(s + h @ w)
        elif kind is LSTM:
            i, f, g, o = np.split(s + h @ w, 4)
            c = expit(f) * c + expit(i) * np.tanh(g)
            h = expit(o) * np.tanh(c)
        else:
            (x_r, x_z, x_c), (w_r, w_z, w_c) = np.split(s, 3), np.split(w, 3, axis=1)
            r, z = expit(x_r + h @ w_r), expit(x_z + h @ w_z)
            candidate = np.tanh(x_c + r * (h @ w_c)) if kind is GRU else np.tanh(x_c + (r * h) @ w_c)
            h = (1 - z) * candidate + z * h
        states.append(h)
    return np.array(states)


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_follows_fluxs_formulas_from_step_to_step(kind):
    model = kind(5, return_sequences=True).build((4, 2), dtype="float64")
    model["bias"][...] = rng.normal(size=model["bias"].shape)
    expected = np.array([by_numpy(kind, model.parameters, sequence) for sequence in x])
    assert np.allclose(model(x), expected, atol=1e-12)
    last = kind(5).build((4, 2), dtype="float64").bind(model.parameters, training=False)
    assert np.allclose(last(x), expected[:, -1], atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_that_ends_early_keeps_its_state_and_learns_from_its_own_steps_only(kind):
    layer, lengths = kind(3, return_sequences=True, bidirectional=True), np.array([4, 2, 0])
    model = layer.build((4, 2), dtype="float64")
    whole, short = model(x, lengths), model(x[1:2, :2])
    assert np.allclose(whole[1, :2], short[0]) and np.allclose(whole[1, 2:, :3], short[0, -1, :3]) and not whole[2].any()
    assert np.allclose(kind(3, bidirectional=True).build((4, 2), dtype="float64")(x, lengths)[1], np.r_[short[0, -1, :3], short[0, 0, 3:]])
    dx = gradient(lambda v: (model(v, lengths) ** 2).sum(), x)[0]
    assert dx[1, :2].all() and not dx[1, 2:].any() and not dx[2].any()


@pytest.mark.parametrize("kind", KINDS)
def test_derivatives_of_both_modes_and_of_second_order_agree_with_differences(kind):
    model = kind(2, return_sequences=kind is not LSTM, bidirectional=kind is GRU).build((4, 2), dtype="float64")
    assert check_gradient(lambda m, v: (m(v) ** 2).sum(), model, x)
    v, step = rng.normal(size=x.shape), 1e-5
    slopes = [gradient(lambda u: (model(u) ** 3).sum(), x + k * step * v)[0] for k in (-1, 1)]
    assert np.allclose(hvp(lambda u: (model(u) ** 3).sum(), x, v), (slopes[1] - slopes[0]) / (2 * step), atol=1e-7)


def test_an_rnn_takes_any_activation_and_two_of_them_are_kept_whole():
    for activation, function in (("relu", lambda s: np.maximum(s, 0)), ("swish", lambda s: s * expit(s))):
        model = RNN(3, activation=activation, return_sequences=True).build((4, 2), dtype="float64")
        first = function(x[:, 0] @ model["weight"])
        assert np.allclose(model(x)[:, :2], np.stack([first, function(x[:, 1] @ model["weight"] + first @ model["recurrent_weight"])], 1))
        assert check_gradient(lambda m, model=model: m(x).sum(), model)


def test_rows_of_a_short_table_are_multiplied_before_they_are_looked_up_and_nothing_else_changes():
    model, places = Chain(Embedding(5, 2), GRU(3)).build((4,), dtype="float64"), rng.integers(0, 5, (3, 4))
    looked_up = model(leaf(places.shape, "int64", value=places))
    assert [n.shape for n in walk(looked_up) if n.op.name == "matmul"] == [(5, 9)]
    gru = GRU(3).build((4, 2), dtype="float64").bind({k: model["layers"][1][k] for k in ("weight", "recurrent_weight", "bias")})
    assert np.allclose(model(places), gru(leaf((3, 4, 2), "float64", value=model["layers"][0]["weight"][places])).numpy())
    grads = gradient(lambda m: (m(places) ** 2).sum(), model)[0]["layers"]
    rows = gradient(lambda v: (gru(v) ** 2).sum(), model["layers"][0]["weight"][places])[0]
    expected = np.zeros((5, 2))
    np.add.at(expected, places, rows)
    assert np.allclose(grads[0]["weight"], expected)


def walk(node):
    yield node
    for source in node.inputs:
        yield from walk(source)


def test_initial_values_are_told_by_parameter_and_those_of_the_way_back_follow_unless_they_say_otherwise():
    init = {"weight": "ones", "recurrent_weight": {"kind": "identity"}, "reverse_weight": "zeros"}
    model = RNN(2, bidirectional=True, init=init).build((4, 3))
    assert model["weight"].all() and not model["reverse_weight"].any() and np.array_equal(model["reverse_recurrent_weight"], np.eye(2))
    assert "bias" not in GRU(2, bias=False).build((4, 3)).parameters


@pytest.mark.parametrize("kind", [RNN, LSTM, GRU, GRUv3])
def test_lengths_are_an_input_of_the_model_too_in_order_or_by_name_whole_numbers_or_a_column_of_floats(kind):
    layer, lengths = kind(3, bidirectional=True), np.array([4, 2, 1])
    expected = layer.build((4, 2), dtype="float64")(x, lengths)
    in_order, by_name = layer.build([(4, 2), ()], dtype="float64"), layer.build({"steps": (4, 2), "length": (1,)}, dtype="float64")
    chained = Chain(Parallel({"steps": Scale(), "length": Lambda("x")}, "separate"), layer).build({"steps": (4, 2), "length": (1,)}, dtype="float64")
    column = lengths[:, None].astype(float)
    assert np.array_equal(in_order(x, lengths), expected) and np.array_equal(by_name({"steps": x, "length": column}), expected)
    chained.assign({f"layers.1.{name}": value for name, value in in_order.parameters.items()})
    assert np.array_equal(chained({"steps": x, "length": column}), expected)


def test_what_is_no_sequence_and_lengths_that_are_none_are_refused():
    with pytest.raises(ShapeError, match=r"gru expects a sequence \[steps, features\]"):
        GRU(2).build((3,))
    with pytest.raises(ShapeError, match="one step or more"):
        LSTM(2).build((0, 3))
    model = GRU(2).build((4, 2), dtype="float64")
    for wrong in (np.full(3, 1.5), np.ones(2, np.int32), np.ones((3, 2))):
        with pytest.raises(ShapeError, match="their lengths as whole numbers"):
            model(x, wrong)
    with pytest.raises(ShapeError, match=r"weights \[units, 3 \* units\]"):
        apply("gru", leaf((2, 3, 6)), leaf((2, 4)))
