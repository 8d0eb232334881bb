"""Reverse mode of ordinary Python functions: arrays, numbers, trees, models; control flow, nesting, and what has no derivative."""

from collections import namedtuple

import numpy as np
import pytest

from engine import gradient, hvp, jacobian, losses, nn, ops, params, trainables, withgradient
from engine.errors import DtypeError, ScalarRequired, TrainyardError

V = np.array([1.0, 2.0, 3.0])


def poly(theta, x):
    return sum(theta[i] * x**i for i in range(3))


def test_gradients_are_always_a_tuple():
    assert gradient(lambda a, b, c: a * b * c, 2.0, 3.0, 5.0) == (15.0, 10.0, 6.0)
    assert gradient(lambda a: a * a, 4.0) == (8.0,)


def test_a_quotient_has_value_and_gradient():
    assert withgradient(lambda a, b: a / b, 1.0, 2.0) == (0.5, (0.5, -0.25))


def test_a_polynomial_is_differentiated_by_place_and_by_coefficients():
    value, (dtheta, dx) = withgradient(poly, np.array([10, 1, 0.1]), 5.0)
    assert value == pytest.approx(17.5) and dx == pytest.approx(2.0) and np.allclose(dtheta, [1, 5, 25])


def test_what_comes_with_the_loss_is_returned_and_not_differentiated():
    (loss, inverses), (g,) = withgradient(lambda x: ((1 / x).sum(), 1 / x), np.array([1.0, 2.0, 4.0]))
    assert loss == 1.75 and inverses.tolist() == [1, 0.5, 0.25] and g.tolist() == [-1, -0.25, -0.0625]
    Both = namedtuple("Both", "div mul")
    value, grads = withgradient(lambda a, b: Both(a / b, a * b), 3.0, 4.0)
    assert value == Both(0.75, 12.0) and grads == (0.25, -0.1875)
    assert withgradient(lambda a, b: {"div": a / b, "mul": a * b}, 3.0, 4.0)[0] == {"div": 0.75, "mul": 12.0}


def test_gradients_mirror_trees_and_keep_number_types():
    tree = {"a": [np.float32([1, 2]), 3.0], "b": (np.float64(2), "name", 4)}
    (g,) = gradient(lambda t: (t["a"][0] * t["b"][0]).sum() * t["a"][1], tree)
    assert g["a"][0].dtype == np.float32 and g["a"][0].tolist() == [6, 6]
    assert g["a"][1] == 6.0 and type(g["a"][1]) is float and type(g["b"]) is tuple
    assert g["b"] == (9.0, None, None) and isinstance(g["b"][0], np.floating)


def test_integers_and_what_is_not_used_have_no_derivative():
    x = np.arange(6.0).reshape(3, 2)
    assert gradient(lambda x, n, rows, unused: (x[rows] ** n).sum(), x, 2, np.array([0, 2, 2]), 1.5)[1:] == (None, None, None)
    assert gradient(lambda x, rows: x[rows].sum(), x, np.array([0, 2, 2]))[0].tolist() == [[1, 1], [0, 0], [2, 2]]
    with pytest.raises(DtypeError, match=r"write 2\.0"):
        gradient(lambda n: n * n, 3)


def test_arrays_of_any_byte_order_and_layout_are_read_as_numbers():
    x = np.arange(12.0).reshape(3, 4)
    for array in (x.astype(">f8"), np.asfortranarray(x), np.repeat(x, 2, 0)[::2, ::-1]):
        assert np.allclose(gradient(lambda a: (a * a).sum(), array)[0], 2 * array)
    model = nn.Dense(1).build(input_shape=(4,))
    assert np.array_equal(model(x.astype(">f4")), model(x))


def test_a_model_inside_a_container_is_refused():
    model = nn.Dense(1).build(input_shape=(3,))
    with pytest.raises(DtypeError, match="argument of its own"):
        gradient(lambda both: both["model"](V[None]).sum(), {"model": model})


def test_control_flow_follows_the_values():
    def f(x):
        while x < 100:
            x = x * x if x > 3 else x + 1
        return x

    assert gradient(f, 2.0) == (4 * 4**3,)    # 2 -> 3 -> 4 -> 16 -> 256
    assert gradient(lambda x: x * 2 if float(x) > 0 else -x, -3.0) == (-1.0,)


def test_a_value_asked_for_inside_is_computed_once_and_kept():
    seen = []
    gradient(lambda x: seen.append((x * 2).numpy()) or (x * x).sum(), V)
    assert seen[0].tolist() == [2, 4, 6]

    def f(x):
        y = (x * x).sum()
        assert y.numpy() is y.numpy()
        return y * float(y)

    assert np.allclose(gradient(f, V)[0], 14 * 2 * V)


@pytest.mark.parametrize("f, says", [
    (lambda x: x * 2, "mean"), (lambda x: None, "return"), (lambda x: "loss", "real number"), (lambda x: x[:1], r"\[1\]"),
    (lambda x: ops.argmax(x), "real number")])
def test_what_is_no_number_is_refused_with_advice(f, says):
    with pytest.raises(ScalarRequired, match=says):
        gradient(f, V)


def test_a_number_that_depends_on_nothing_has_no_gradient():
    assert withgradient(lambda x: 3.0, V) == (3.0, (None,))
    assert gradient(lambda x: float((x * x).sum()), V) == (None,)


def test_second_derivatives_by_nesting():
    (g,) = gradient(lambda v: (gradient(lambda u: (u**2).sum(), v)[0] ** 2).sum(), V)
    assert g.tolist() == [8, 16, 24]
    (g,) = gradient(lambda v: gradient(lambda u: (u.sum() + 15.0) ** 3, v)[0].sum(), V)
    assert g.tolist() == [378, 378, 378]


def test_an_inner_gradient_sees_what_it_closes_over():
    w = np.array([2.0, 5.0])
    (g,) = gradient(lambda w: gradient(lambda x: (w * x * x).sum(), np.array([1.0, 3.0]))[0].sum(), w)
    assert g.tolist() == [2, 6]
    (g,) = gradient(lambda x: (x * gradient(lambda y: (x * y).sum(), x)[0]).sum(), V)    # d/dx of x * x, the inner one with x held
    assert g.tolist() == [2, 4, 6]


def test_gradients_share_no_memory():
    x = np.ones(3)
    a, b = gradient(lambda a, b: (a + b).sum(), x, x)
    a += 1
    assert b.tolist() == [1, 1, 1] and not np.shares_memory(gradient(lambda a, b: (a * b).sum(), x, V)[0], V)


def test_a_jacobian_has_the_axes_of_both():
    a = np.arange(6.0).reshape(2, 3)
    assert np.allclose(jacobian(lambda x: a @ x.reshape(3, 1), V)[:, 0], a)                      # reverse
    assert np.allclose(jacobian(lambda x: ops.concat(x * x, x, axis=0), V), np.vstack([np.diag(2 * V), np.eye(3)]))   # forward
    assert jacobian(lambda x: x.reshape(3, 1) * V, V).shape == (3, 3, 3)


def test_second_derivatives_through_models_agree_with_differences():
    model = nn.Chain(nn.Dense(3, activation="tanh"), nn.Dense(2)).build(input_shape=(2,), dtype="float64")
    x, y = np.random.default_rng(0).normal(size=(5, 2)), np.array([0, 1, 1, 0, 1])

    def f(m):
        return losses.logit_cross_entropy(m(x), y)

    (v,) = gradient(f, model)
    found, h = hvp(f, model, v), 1e-5
    at = trainables(model)
    directions = [v["layers"][i][name] for i in range(2) for name in ("weight", "bias")]

    def moved(step):
        for array, d in zip(at, directions, strict=True):
            array += step * d
        (g,) = gradient(f, model)
        for array, d in zip(at, directions, strict=True):
            array -= step * d
        return g["layers"][0]["weight"]

    assert np.allclose(found["layers"][0]["weight"], (moved(h) - moved(-h)) / (2 * h), atol=1e-7)


def test_models_and_their_gradients_are_nested_alike():
    model = nn.Chain(nn.Chain(nn.Dense(3, activation="relu"), nn.Dropout(0.0)), nn.Dense(1, bias=False)).build(input_shape=(2,))
    x = np.ones((4, 2), "float32")
    value, (g,) = withgradient(lambda m: m(x).sum(), model)
    assert g["layers"][1]["weight"].shape == (3, 1) and set(g["layers"][1]) == {"weight"}
    assert g["layers"][0][0]["weight"].shape == (2, 3) and g["layers"][0][0]["weight"].dtype == np.float32
    assert value == pytest.approx(float(model(x).sum()), rel=1e-6)


@pytest.mark.parametrize("mode", ["forward", "finite_difference"])
def test_every_mode_finds_the_same_gradient(mode):
    x, labels = np.random.default_rng(0).normal(size=(5, 2)), np.array([0, 1, 2, 0, 1])
    model = nn.Chain(nn.Dense(3, "tanh"), nn.Dropout(0.5), nn.Dense(3)).build((2,), dtype="float64")
    calls = model.calls

    def f(m, s, unused):
        return losses.logit_cross_entropy(m(x), labels) * s, 7

    expected = withgradient(f, model, 2.0, np.zeros(2))
    model.calls = calls
    value, (of_model, of_scale, of_nothing) = withgradient(f, model, 2.0, np.zeros(2), mode=mode)
    assert value == expected[0] and of_nothing is None and of_scale == pytest.approx(expected[1][1], rel=1e-6)
    for found, right in zip(of_model["layers"], expected[1][0]["layers"], strict=True):
        assert all(np.allclose(found[name], right[name], rtol=1e-6, atol=1e-9) for name in right)
    assert gradient(lambda a: float(a) * 0 + (a * a), np.float32(3.0), mode=mode)[0] == pytest.approx(6.0)


def test_a_mode_that_is_none_is_refused():
    with pytest.raises(ValueError, match="'finite_difference', found 'central'"):
        gradient(lambda a: a, 1.0, mode="central")
    with pytest.raises(TrainyardError, match="have no derivative"):
        gradient(lambda a: gradient(lambda b: b * b, a, mode="finite_difference")[0], 1.0)
    assert gradient(lambda a: gradient(lambda b: b**3, a, mode="forward")[0], 2.0) == (12.0,)


def test_the_implicit_style_finds_gradients_by_parameter():
    model = nn.Chain(nn.Dense(4, activation="sigmoid"), nn.Dense(1)).build(input_shape=(1,))
    x = np.linspace(0, 1, 9, dtype="float32")[:, None]

    def loss(m):
        return losses.mse(m(x), x**2)

    ps = params(model)
    gs, (g,) = gradient(lambda: loss(model), ps), gradient(loss, model)
    assert len(ps) == len(gs) == 4
    assert np.allclose(gs[model["layers"][1]["weight"]], g["layers"][1]["weight"])
    ps.delete(model["layers"][1]["bias"])
    gs = gradient(lambda: loss(model), ps)
    with pytest.raises(KeyError, match="not among the params"):
        gs[model["layers"][1]["bias"]]
    assert np.allclose(gs[model["layers"][0]["bias"]], g["layers"][0]["bias"])


def test_a_model_without_parameters_has_an_empty_gradient():
    model = nn.Chain(nn.Flatten(), nn.Dropout(0.5)).build((2, 2))
    assert gradient(lambda m: m(np.ones((3, 2, 2), "float32")).sum(), model) == ({"layers": [{}, {}]},)


@pytest.mark.parametrize("mode", ["reverse", "forward", "finite_difference"])
def test_running_statistics_follow_the_batch_in_every_mode(mode):
    model = nn.Chain(nn.Dense(3), nn.BatchNorm()).build((4,), dtype="float64")
    x = np.random.default_rng(0).normal(size=(6, 4))
    gradient(lambda m: (m(x) ** 2).sum(), model, mode=mode)
    assert np.allclose(model.buffers["layers.1.mean"], 0.1 * (x @ model["layers"][0]["weight"]).mean(0))
