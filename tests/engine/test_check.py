"""check_gradient finds derivatives that are wrong, and says where; check finds graphs that are not well formed."""

import numpy as np
import pytest

from engine import check_gradient, core, losses, nn, ops
from engine.core import Node, Op, leaf
from engine.devices import values
from engine.errors import DtypeError, GradientMismatch, ShapeError
from engine.graph import interpret
from engine.graph.check import check
from engine.graph.show import show

wrong_back = Op("wrong_back", shape=lambda x: (x.shape, x.dtype), oracle=np.sin, launch=lambda node: (),
                vjp=lambda node, ct: [ct * ops.cos(node.inputs[0]) * 1.01], jvp=lambda node, ts: ts[0] * ops.cos(node.inputs[0]),
                compose=lambda node: ops.sin(node.inputs[0]))
wrong_forward = Op("wrong_forward", shape=lambda x: (x.shape, x.dtype), oracle=np.sin, launch=lambda node: (),
                   vjp=lambda node, ct: [ct * ops.cos(node.inputs[0])], jvp=lambda node, ts: ts[0])


@pytest.fixture(autouse=True)
def reference_machine():
    """These ops have no kernels."""
    core.bind(interpret.compute)
    yield
    core.bind(values.compute)


def test_right_derivatives_agree():
    x = np.random.default_rng(0).normal(size=(4, 3))
    assert check_gradient(lambda a, b: ops.tanh(a @ b).sum() ** 2, x, x.T)
    assert check_gradient(lambda t, s: t["a"] * s * 2.0, {"a": 3.0, "name": "x"}, 2.0)
    assert check_gradient(lambda a: ((a * a).sum(), a), np.float32([1, 2]))


def test_a_model_is_checked_in_float64_with_the_same_dropout_each_time():
    model = nn.Chain(nn.Dense(4, activation="gelu"), nn.Dropout(0.5), nn.LayerNorm(), nn.Dense(3)).build(input_shape=(2,))
    x, y = np.random.default_rng(0).normal(size=(6, 2)), np.array([0, 1, 2, 0, 1, 2])
    before = model.slab.copy()
    assert check_gradient(lambda m, s: losses.logit_cross_entropy(m(x), y) * s, model, 2.0)
    assert np.array_equal(model.slab, before)


def test_a_wrong_backward_rule_is_found_and_placed():
    with pytest.raises(GradientMismatch, match=r"argument 1, a\.0, entry \[0\]: reverse mode found .*, central differences expected"):
        check_gradient(lambda x, t: (wrong_back(t["a"][0]) * x).sum(), np.ones(2), {"a": [np.array([0.3, 0.4])]})


right_back = Op("right_back", shape=lambda x: (x.shape, x.dtype), oracle=np.cos, launch=lambda node: (),
                vjp=lambda node, ct: [ct * ops.sin(node.inputs[0]) * -1.01], jvp=lambda node, ts: -ts[0] * ops.sin(node.inputs[0]) * 1.01)
wrong_twice = Op("wrong_twice", shape=lambda x: (x.shape, x.dtype), oracle=np.sin, launch=lambda node: (),
                 vjp=lambda node, ct: [ct * right_back(node.inputs[0])], jvp=lambda node, ts: ts[0] * right_back(node.inputs[0]))


def test_a_second_derivative_that_is_wrong_is_found_where_the_first_is_right():
    def f(x):
        return wrong_twice(x).sum()

    assert check_gradient(f, np.array([0.3, 0.4]))
    with pytest.raises(GradientMismatch, match=r"order 2.*central differences"):
        check_gradient(f, np.array([0.3, 0.4]), order=2)


def test_right_second_derivatives_agree():
    x, y = np.random.default_rng(0).normal(size=(6, 2)), np.array([0, 1, 2, 0, 1, 2])
    model = nn.Chain(nn.Dense(4, activation="gelu"), nn.Dropout(0.5), nn.LayerNorm(), nn.Dense(3)).build(input_shape=(2,))
    assert check_gradient(lambda m, s: losses.logit_cross_entropy(m(x), y) * s, model, 2.0, order=2)
    assert check_gradient(lambda a: (a * 3.0).sum(), x, order=2)
    scores, labels = np.random.default_rng(1).normal(size=(2, 4, 3)), np.array([[0, 1], [1, -1]])
    assert check_gradient(lambda s: losses.ctc(s, labels), scores, order=2)


def test_a_wrong_forward_rule_is_found():
    with pytest.raises(GradientMismatch, match="forward mode"):
        check_gradient(lambda x: wrong_forward(x).sum(), np.array([0.3, 0.4]))


def test_a_kink_is_found():
    with pytest.raises(GradientMismatch):
        check_gradient(lambda x: ops.relu(x).sum(), np.array([1.0, 0.0]))


def test_large_arrays_are_checked_at_some_entries():
    assert check_gradient(lambda x: (x * x).sum(), np.linspace(-1, 1, 500), entries=5)


def test_a_graph_of_wrong_shapes_or_types_is_named():
    x = leaf((2, 3), name="x")
    good = ops.exp(x)
    check([good.sum()])
    with pytest.raises(ShapeError, match=r"exp .*\[3, 2\].*\[2, 3\]"):
        check([ops.tanh(Node(good.op, (x,), {}, (3, 2), "float32"))])
    with pytest.raises(DtypeError, match="float64"):
        check([Node(good.op, (x,), {}, (2, 3), "float64")])


def test_a_graph_is_shown_one_line_a_node():
    x = leaf((2, 3), name="x")
    text = show({"loss": ops.sum(x * x + 1.0, axis=1).mean()})
    assert text.splitlines() == [
        "%0 = leaf  float32[2, 3]  # x", "%1 = multiply(%0, %0)  float32[2, 3]", "%2 = 1.0  float32[]", 
        "%3 = broadcast(%2, shape=[2, 3])  float32[2, 3]",
        "%4 = add(%1, %3)  float32[2, 3]", "%5 = sum(%4, axis=1)  float32[2]", "%6 = mean(%5)  float32[]", "loss -> %6"]
