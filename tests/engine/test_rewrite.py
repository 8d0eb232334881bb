"""Graphs that are simplified keep their values, and signatures tell graphs apart."""

import numpy as np
import pytest

from engine import ops
from engine.autodiff.reverse import pullback
from engine.core import apply, constant, leaf
from engine.graph.interpret import run
from engine.graph.rewrite import simplify
from engine.graph.signature import signature
from engine.graph.walk import order

RNG = np.random.default_rng(0)


def given(shape, dtype="float64", name=""):
    return leaf(shape, dtype, name=name, value=RNG.normal(size=shape).astype(dtype))


def used(*nodes):
    return [n.op.name for n in order(nodes)]


X = given((4, 3))


@pytest.mark.parametrize("made, expected", [
    (lambda x: x * 1.0, x_is := "x"), (lambda x: 1.0 * x, x_is), (lambda x: x + 0.0, x_is), (lambda x: x - 0, x_is), (lambda x: x / 1, x_is),
    (lambda x: ops.negative(-x), x_is), (lambda x: x.T.T, x_is), (lambda x: x.transpose(0, 1), x_is), (lambda x: x.reshape(12).reshape(4, 3), x_is),
    (lambda x: x.astype("float64"), x_is), (lambda x: ops.identity(x), x_is), (lambda x: x * -1.0, "negative"), (lambda x: x + -x * 1.0, "subtract"),
    (lambda x: x - ops.negative(x), "add"), (lambda x: ops.log(ops.softmax(x)), "log_softmax"), (lambda x: 0.0 - x, "negative"),
    (lambda x: ops.power(x, 2.0), "square"),
])
def test_what_undoes_itself_goes(made, expected):
    before = made(X)
    after = simplify([before])[0]
    assert (after is X) if expected == "x" else used(after)[-1] == expected and len(order([after])) <= 2
    assert np.allclose(run([after])[0], run([before])[0])


def test_equal_nodes_become_one():
    a, b = simplify([ops.exp(X) * ops.sin(X), ops.sin(X) + ops.exp(X)])
    assert used(a, b).count("exp") == 1 and used(a, b).count("sin") == 1
    key = leaf((2,), "int64", value=np.array([1, 2]))
    p, q = simplify([ops.uniform(key, shape=(3,), place=1), ops.uniform(key, shape=(3,), place=2)])
    assert p is not q


def test_numbers_are_computed_beforehand():
    two = constant(2.0, "float64")
    after = simplify([X * (ops.exp(two) + 1.0) * (two * 3.0).reshape(1)])[0]
    assert set(used(after)) <= {"leaf", "constant", "broadcast", "multiply", "reshape"}
    assert np.allclose(run([after])[0], X.value * (np.exp(2) + 1) * 6)


def test_nought_times_what_may_be_infinite_stays():
    bad = leaf((2,), "float64", value=np.array([np.inf, 1.0]))
    assert np.isnan(run(simplify([bad * 0.0]))[0][0])
    assert "less" not in used(*simplify([(bad < 3.0) * 0.0]))


def test_casts_that_lose_nothing_go_and_those_that_round_stay():
    x32, x64 = given((3,), "float32"), given((3,), "float64")
    assert simplify([x32.astype("float64").astype("float32")])[0] is x32
    assert used(simplify([x64.astype("float32").astype("float64")])[0]).count("cast") == 2


def test_a_product_reads_a_transposed_matrix_as_it_lies():
    after = simplify([X.T @ X + X.T @ ops.exp(X)])[0]
    assert "transpose" not in used(after)
    assert np.allclose(run([after])[0], X.value.T @ X.value + X.value.T @ np.exp(X.value))


def test_cross_entropy_written_out_becomes_one_op():
    targets = leaf((4,), "int32", value=np.array([0, 2, 1, 1], np.int32))
    loss = -(ops.one_hot(targets, classes=3, dtype="float64") * ops.log(ops.softmax(X))).sum(1)
    after = simplify([loss.mean()])[0]
    assert "softmax_cross_entropy" in used(after) and "log" not in used(after)
    assert np.allclose(run([after])[0], run([loss.mean()])[0])
    other = -(ops.log_softmax(X) * X).sum(0)
    assert "softmax_cross_entropy" not in used(*simplify([other]))


def test_simplified_gradients_are_the_same_gradients():
    w = given((3, 2))
    y = ops.tanh(X @ w)
    loss = ((y * 1.0 - 0.5) ** 2).mean() + 0.0 * 3.0
    gradients = pullback(loss, None, [X, w])
    after = simplify(gradients)
    assert len(order(after)) < len(order(gradients))
    for a, b in zip(run(after), run(gradients), strict=True):
        assert np.allclose(a, b)


def test_nodes_with_values_stay_and_are_not_looked_into():
    kept = ops.exp(X)
    kept.value = run([kept])[0]
    after = simplify([kept * 1.0])[0]
    assert after is kept


def graph(rows=4, factor=2.0, turn=False, name="x"):
    x, w = leaf((rows, 3), name=name), leaf((3, 3))
    return apply("matmul", x, w, transpose_b=turn) * factor


def test_signatures_are_equal_for_equal_graphs_only():
    key, leaves = signature([graph()])
    assert signature([graph(name="another")])[0] == key and [n.shape for n in leaves] == [(4, 3), (3, 3)]
    others = [graph(rows=5), graph(factor=3.0), graph(turn=True), graph() + 1.0]
    assert len({key, *(signature([o])[0] for o in others)}) == 5
    one, two = graph(), graph()
    assert signature([one, one])[0] != signature([one, two])[0]
    assert signature([leaf((2,)) * 0.0])[0] != signature([leaf((2,)) * -0.0])[0]


def test_a_signature_does_not_look_past_values():
    x = leaf((2,), value=np.ones(2, "float32"))
    kept = x * 2.0
    kept.value = np.full(2, 2, "float32")
    _, leaves = signature([kept + 1.0])
    assert leaves[0] is kept and len(leaves) == 1
