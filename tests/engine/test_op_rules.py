"""What single ops promise beyond their oracles: kinks, NaN and infinity, indices, keys, accuracy, and errors that teach."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engine import ops
from engine.autodiff.reverse import pullback
from engine.core import OPS, Node, leaf
from engine.errors import DtypeError, ShapeError
from engine.graph import interpret
from engine.ops.movement import merged, strides
from tests.engine import machine


def node_of(array: Any, dtype: str = "float64") -> Node:
    array = np.array(array, dtype)
    return leaf(array.shape, dtype, value=array)


def value(node: Node) -> np.ndarray:
    return interpret.run([node])[0]


def on_cpu(node: Node) -> np.ndarray:
    return machine.run(node, {n: np.asarray(n.value) for n in node.inputs if n.value is not None})


# ---------------------------------------------------------------- activations

AT_KINKS = {   # name: {point: derivative}, Flux's conventions
    "relu": {0.0: 0.0}, "leaky_relu": {0.0: 0.01}, "relu6": {0.0: 0.0, 6.0: 0.0}, "trelu": {1.0: 0.0}, "hard_tanh": {-1.0: 0.0, 1.0: 0.0},
    "hard_sigmoid": {-3.0: 0.0, 3.0: 0.0}, "hard_swish": {-3.0: -0.5, 3.0: 1.5}, "elu": {0.0: 1.0}, "celu": {0.0: 1.0},
    "selu": {0.0: 1.0507009873554805 * 1.6732632423543772}, "soft_shrink": {-0.5: 0.0, 0.5: 0.0}, "softplus": {0.0: 0.5}, "abs": {0.0: 0.0},
}


@pytest.mark.parametrize("name", AT_KINKS)
def test_the_derivative_at_a_kink_is_fluxs(name: str) -> None:
    x = node_of(list(AT_KINKS[name]))
    back, = pullback(OPS[name](x), None, [x])
    assert back is not None
    np.testing.assert_allclose(value(back), list(AT_KINKS[name].values()), rtol=1e-12)


@pytest.mark.parametrize("name", sorted({op.name for op in ops.ACTIVATIONS.values()}))
def test_nan_in_gives_nan_out(name: str) -> None:
    x = node_of([np.nan, 1.0], "float32")
    found = on_cpu(OPS[name](x))
    assert np.isnan(found[0]) and np.isfinite(found[1])


def test_every_name_of_an_activation_finds_its_op() -> None:
    table = ops.ACTIVATIONS
    assert table["silu"] is table["swish"] and table["leakyrelu"] is table["leaky_relu"] and table["gelu_tanh"] is table["gelu"]
    assert table["logsigmoid"] is OPS["log_sigmoid"] and table["tanh_fast"] is OPS["tanh"] and table["linear"] is OPS["identity"]


def test_an_infinite_cotangent_does_not_pass_where_the_derivative_is_nought() -> None:
    x = node_of([-1.0, 1.0])
    back, = pullback(ops.relu(x), node_of([np.inf, np.inf]), [x])
    assert back is not None
    np.testing.assert_array_equal(value(back), [0.0, np.inf])


# ---------------------------------------------------------------- reductions

@pytest.mark.parametrize("axis", [None, 0, 1])
def test_long_float32_sums_stay_accurate(axis: int | None) -> None:
    x = np.random.default_rng(0).uniform(0, 1, (1 << 20,) if axis is None else (5000, 40) if axis == 0 else (3, 100_000)).astype("float32")
    found = on_cpu(ops.sum(leaf(x.shape, "float32", value=x), axis=axis))
    np.testing.assert_allclose(found, x.astype("float64").sum(axis), rtol=1e-6)


def test_nan_wins_every_extreme_and_infinities_are_kept() -> None:
    x = node_of([[1, np.nan, 3], [np.inf, 2, 3], [-np.inf, -np.inf, -np.inf]], "float32")
    for name, oracle in (("max", np.max), ("min", np.min), ("argmax", np.argmax)):
        for axis in (0, 1):
            np.testing.assert_array_equal(on_cpu(OPS[name](x, axis=axis)), oracle(x.value, axis=axis))


def test_a_product_with_noughts_has_a_derivative() -> None:
    for row, expected in (([2.0, 3.0, 4.0], [12, 8, 6]), ([2.0, 0.0, 4.0], [0, 8, 0]), ([0.0, 0.0, 4.0], [0, 0, 0])):
        x = node_of(row)
        back, = pullback(ops.prod(x), None, [x])
        assert back is not None
        np.testing.assert_allclose(value(back), expected)


def test_equal_extremes_share_the_derivative() -> None:
    x = node_of([1.0, 3.0, 3.0])
    back, = pullback(ops.max(x), None, [x])
    assert back is not None
    np.testing.assert_allclose(value(back), [0, 0.5, 0.5])


def test_softmax_does_not_overflow_and_splits_infinity() -> None:
    x = node_of([[1e30, 1e30, -1e30], [np.inf, 1.0, np.inf], [np.nan, np.inf, 0.0], [-np.inf, 0.0, 0.0]], "float32")
    found = on_cpu(ops.softmax(x))
    np.testing.assert_allclose(found, [[0.5, 0.5, 0], [0.5, 0, 0.5], [np.nan] * 3, [0, 0.5, 0.5]])
    np.testing.assert_allclose(on_cpu(ops.logsumexp(x, axis=1)), [1e30, np.inf, np.nan, np.log(2)], rtol=1e-6)


def test_a_class_that_does_not_exist_gives_nan_for_its_row_only() -> None:
    found = on_cpu(ops.softmax_cross_entropy(node_of(np.zeros((3, 4)), "float32"), node_of([0, 4, -1], "int32")))
    np.testing.assert_allclose(found, [np.log(4), np.nan, np.nan], rtol=1e-6)


# ---------------------------------------------------------------- index

GRID = np.arange(60.0).reshape(3, 4, 5)


@pytest.mark.parametrize("key", [
    0, -1, slice(None), slice(1, 3), (slice(None), 2), (..., 1), (..., None, slice(None, None, -2)), (1, 2, 3), (None, 0), (slice(5, 1), 0),
    np.array([2, 0, -1]), (slice(None), np.array([[0, 1], [3, 3]])), (np.array([0, 1]), np.array([1, -1])),
    (slice(1, 3), np.array([0, 2]), slice(0, 4, 3)), [0, 2], (np.array([0, 2]), 1), (slice(None), slice(None, None, -1), np.array([4])), (), ...,
], ids=str)
def test_indexing_means_what_it_means_in_numpy(key: Any) -> None:
    x = node_of(GRID)
    found, expected = x[key], GRID[key]
    assert found.shape == expected.shape
    np.testing.assert_array_equal(value(found), expected)


def test_indices_outside_are_refused() -> None:
    x = node_of(GRID)
    for key in (3, (0, -5), np.array([3]), (slice(None), [-5])):
        with pytest.raises(IndexError, match=r"outside"):
            x[key]
    with pytest.raises(ShapeError, match="4 indices for 3 axes"):
        x[0, 0, 0, 0]
    with pytest.raises(IndexError, match=r"mask of \[5\]"):
        x[GRID[0, 0] > 2]


# ---------------------------------------------------------------- random numbers

def draw(name: str, seed: int = 1, step: int = 0, place: int = 5, size: int = 20_000, dtype: str = "float32", **attrs: Any) -> np.ndarray:
    return on_cpu(OPS[name](node_of([seed, step], "int64"), shape=(size,), place=place, dtype=dtype, **attrs))


def test_random_numbers_have_their_distributions() -> None:
    u, z, b = draw("uniform"), draw("normal"), draw("bernoulli", rate=0.3)
    assert u.min() >= 0 and u.max() < 1 and abs(u.mean() - 0.5) < 0.01 and abs(u.var() - 1 / 12) < 0.003
    assert abs(z.mean()) < 0.03 and abs(z.std() - 1) < 0.02 and abs((z ** 3).mean()) < 0.1 and abs((z ** 4).mean() - 3) < 0.2
    assert set(np.unique(b)) == {0.0, 1.0} and abs(b.mean() - 0.3) < 0.01
    assert abs(np.corrcoef(u[:-1], u[1:])[0, 1]) < 0.03


def test_random_numbers_depend_on_seed_step_place_and_purpose_and_not_on_the_shape() -> None:
    first = draw("uniform")
    for other in (draw("uniform", seed=2), draw("uniform", step=1), draw("uniform", place=6), draw("normal"), draw("uniform", seed=1 + (1 << 32))):
        assert abs(np.corrcoef(first, other)[0, 1]) < 0.03
    np.testing.assert_array_equal(draw("uniform", size=100), first[:100])
    np.testing.assert_allclose(draw("uniform", dtype="float64"), first, atol=2.0 ** -24)
    assert not draw("bernoulli", rate=0.0).any() and draw("bernoulli", rate=1.0).all()


# ---------------------------------------------------------------- errors

@pytest.mark.parametrize(("make", "words"), [
    (lambda: leaf((3, 4)).reshape(5, -1), "12 elements"), (lambda: leaf((3, 4)).transpose(0, 0), "once"), (lambda: leaf((3, 4)).sum(2), "no axis 2"),
    (lambda: leaf((0, 4)).max(0), "nothing to choose"), (lambda: leaf((3, 4)) + leaf((2,)), "do not fit together"),
    (lambda: ops.concat(leaf((3, 4)), leaf((3, 5)), axis=0), "every other axis"), (lambda: ops.stack(), "at least one"),
    (lambda: ops.broadcast(leaf((3,)), shape=(4,)), "fit together"), (lambda: ops.softmax_cross_entropy(leaf((3, 4)), leaf((4,), "int32")), "3 rows"),
    (lambda: ops.pad(leaf((3,)), low=(-1,), high=(0,)), "0 or more"), (lambda: ops.slice(leaf((3,)), start=(0,), stop=(4,)), "leaves its 3"),
    (lambda: ops.uniform(leaf((2,)), shape=(2,), place=0), "int64"),
])
def test_shapes_that_do_not_fit_are_explained(make: Any, words: str) -> None:
    with pytest.raises(ShapeError, match=words):
        make()


@pytest.mark.parametrize("make", [
    lambda: leaf((3,), "int32").sum(), lambda: ops.gather(leaf((3, 2)), leaf((2,))), lambda: leaf((3,)).astype("float16"),
    lambda: ops.concat(leaf((3,)), leaf((3,), "float64")), lambda: ops.softmax(leaf((3,), "int64"))])
def test_types_that_do_not_fit_are_explained(make: Any) -> None:
    with pytest.raises(DtypeError):
        make()


def test_axes_that_are_walked_as_one_are_joined() -> None:
    assert merged((2, 3, 4), strides((2, 3, 4)), strides((2, 3, 4))) == [(24, 1, 1)]
    assert merged((3, 1, 4), (4, 4, 1), (1, 9, 3)) == [(3, 4, 1), (4, 1, 3)]
