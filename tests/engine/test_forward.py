"""Forward mode: tangents travel with the values."""

import numpy as np
import pytest

import engine.ops  # noqa: F401
from engine import gradient, hvp, jvp, losses, nn, ops
from engine.autodiff.forward import pushforward
from engine.core import OPS, Node, Op, apply, lift
from engine.errors import ShapeError

V = np.array([1.0, 2.0, 3.0])


def test_value_and_tangent_come_together():
    value, tangent = jvp(lambda a, b: a / b, (1.0, 2.0), (1.0, 3.0))
    assert value == 0.5 and tangent == pytest.approx(1 / 2 - 3 / 4)


def test_the_tangent_has_the_nesting_of_the_value():
    value, tangent = jvp(lambda x: {"square": x * x, "sum": (x.sum(), 7.0)}, (V,), (np.ones(3),))
    assert value["square"].tolist() == [1, 4, 9] and tangent["square"].tolist() == [2, 4, 6]
    assert value["sum"] == (6.0, 7.0) and tangent["sum"] == (3.0, 0.0)


def test_what_does_not_move_has_a_tangent_of_zeros():
    assert jvp(lambda x, y: y * 1.0, (V, V), (np.ones(3), None))[1].tolist() == [0, 0, 0]
    with pytest.raises(ShapeError, match="one direction"):
        jvp(lambda x, y: y, (V, V), (V,))


def test_forward_mode_agrees_with_reverse_mode_in_a_model():
    model = nn.Chain(nn.Dense(4, activation="gelu"), nn.LayerNorm(), nn.Dense(3)).build(input_shape=(2,), dtype="float64")
    x, y = np.random.default_rng(0).normal(size=(6, 2)), np.array([0, 1, 2, 0, 1, 2])

    def f(m):
        return losses.logit_cross_entropy(m(x), y)

    (g,) = gradient(f, model)
    _, tangent = jvp(f, (model,), (g,))
    squares = sum(float((a * a).sum()) for layer in g["layers"] for a in layer.values())
    assert tangent == pytest.approx(squares, rel=1e-9)


def test_hessian_vector_products():
    assert hvp(lambda v: (v**3).sum(), V, np.array([1.0, 0, 2])).tolist() == [6, 0, 36]
    assert hvp(lambda v: v.sum(), V, V).tolist() == [0, 0, 0]
    assert hvp(lambda t: t["a"] ** 2 * t["b"], {"a": 3.0, "b": 2.0}, {"a": 1.0, "b": 0.0}) == {"a": 4.0, "b": 6.0}


def test_an_op_with_a_backward_op_only_is_turned_round():
    twice = Op("twice", shape=lambda x: (x.shape, x.dtype), oracle=lambda x: 2 * x, launch=lambda node: (), vjp=lambda node, ct: [ct * 2.0])
    x, t = lift(V), lift(np.array([1.0, 0.0, 5.0]))
    assert pushforward([twice(x)], {x: t})[0].numpy().tolist() == [2, 0, 10]


def test_forward_through_forward():
    outer = jvp(lambda x: jvp(lambda y: (y**3).sum(), (x,), (np.ones(3),))[1], (V,), (np.ones(3),))
    assert outer[0] == pytest.approx(3 * 14) and outer[1] == pytest.approx(6 * 6)


@pytest.mark.parametrize("name", [name for name, op in OPS.items() if op.cases and op.public])
def test_forward_mode_agrees_with_reverse_mode_for_each_op(name):
    op, rng = OPS[name], np.random.default_rng(0)
    for case in (c for c in op.cases if c.gradient):
        arrays = [s.array(rng) for s in case.inputs]
        moving = [i for i, a in enumerate(arrays) if a.dtype == np.float64]
        if not moving:
            continue

        def f(*xs, case=case, arrays=arrays, moving=moving):
            full: list[np.ndarray | Node] = list(arrays)
            for i, x in zip(moving, xs, strict=True):
                full[i] = x
            y = apply(op, *full, **case.attrs)
            weights = np.random.default_rng(1).normal(size=y.shape)
            return (y * weights).sum() if y.dtype == "float64" else ops.sum(y.astype("float64") * 0.0)

        point = [arrays[i] for i in moving]
        directions = [rng.normal(size=p.shape) for p in point]
        expected = sum(float((np.asarray(g) * d).sum()) for g, d in zip(gradient(f, *point), directions, strict=True) if g is not None)
        assert jvp(f, point, directions)[1] == pytest.approx(expected, rel=1e-7, abs=1e-9), case.name
