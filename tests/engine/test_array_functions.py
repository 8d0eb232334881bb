"""Nodes in the hands of numpy: its functions, `@`, masks and indices mean for nodes what they mean for arrays, and have derivatives."""

import numpy as np
import pytest

from engine import check_gradient, gradient, ops
from engine.errors import DtypeError, ShapeError

X = np.arange(12.0).reshape(3, 4) / 3 + 0.4
V = np.array([0.6, 1.4, 2.2])
R = np.random.default_rng(0).normal(size=(5, 2, 4, 3))


@pytest.mark.parametrize("f, x", [
    (lambda x: np.sum(x, 0), X), (lambda x: np.mean(x, axis=1, keepdims=True), X), (lambda x: np.prod(x), V), (lambda x: np.amax(x, 1), X),
    (lambda x: np.var(x, axis=0), X), (lambda x: x.std(), X), (lambda x: np.reshape(x, (4, -1)), X), (lambda x: x.ravel() + np.ravel(x), X),
    (lambda x: np.transpose(x, (1, 0)), X), (lambda x: np.clip(x, 1.0, 2.5), X), (lambda x: np.squeeze(x[:, None]) * x[None].squeeze(0), V),
    (lambda x: np.expand_dims(x, -1), X), (lambda x: np.concatenate([x, V.astype("float32")]), V), (lambda x: np.stack([x, x * x], axis=1), V),
    (lambda x: np.where(x > 1.0, x * x, -x), V), (lambda x: np.flip(x), X), (lambda x: np.outer(x, V) + np.dot(x, x), V),
    (lambda x: np.linalg.norm(x, axis=0), X),
    (lambda x: np.log2(x) + np.log10(x), V), (lambda x: np.sinh(x) * np.cosh(x), V), (lambda x: x // 0.65 + np.remainder(x, 0.65), V),
    (lambda x: x * ((x > 1) & ~(x > 2) | (x < 0.7)), V), (lambda x: x * np.isfinite(x), V), (lambda x: x[np.array([True, False, True])], X),
    (lambda x: np.swapaxes(x, 0, 1) @ x, X), (lambda x: np.moveaxis(x, 0, 2), R[0]), (lambda x: np.roll(x, 1, axis=0) * x, X),
    (lambda x: np.tile(x, (2, 1)), X), (lambda x: np.repeat(x, 2, axis=1), X), (lambda x: np.rot90(x), X), (lambda x: np.take(x, [0, 2], axis=1), X),
    (lambda x: np.split(x, 2, axis=1)[1], X), (lambda x: np.vstack([x, X, x * x]), X), (lambda x: np.hstack([x, V]), V),
    (lambda x: np.var(x, 0, ddof=1) + x.std(0, ddof=1), X), (lambda x: np.sort(-x, axis=0), X), (lambda x: np.cumsum(x, axis=1), R[0]),
    (lambda x: np.cumsum(x), X), (lambda x: np.diag(x, 1), X), (lambda x: np.diag(x, -1), V), (lambda x: np.trace(x) + np.triu(x), X[:, :3]),
    (lambda x: np.einsum("ij,kj->ik", x, X), X), (lambda x: np.einsum("bij,j", x, V), R[0]), (lambda x: np.tensordot(x, X, axes=([1], [1])), X),
    (lambda x: np.tensordot(x, X.T, 1), X), (lambda x: np.average(x, axis=0, weights=V), X), (lambda x: np.logaddexp(x, 0.5) + np.hypot(x, 2.0), V),
    (lambda x: np.broadcast_to(x, (4, 3)), V), (lambda x: np.clip(x, None, 1.3), V),
    (lambda x: x[x[:, 0].argmax()], X), (lambda x: x if (x > 0).all() and not np.any(x > 9) else -x, V)])
def test_numpys_functions_give_values_and_derivatives(f, x):
    seen = []
    gradient(lambda x: (seen.append(f(x).numpy()) or f(x)).sum(), x)
    assert seen[0].shape == f(x).shape and np.allclose(seen[0], f(x))
    assert check_gradient(lambda x: f(x).sum(), x)


@pytest.mark.parametrize("a, b", [
    (X, V[[0, 1, 2, 0]]), (V, X), (V, V), (R, R[0, 0, 0]), (R[0, 0], R.swapaxes(-1, -2)), (R, X[:, :2]), (V, R.swapaxes(-1, -2)),
    (R[:, :1], R[0].swapaxes(-1, -2))])
def test_matrix_products_are_numpys(a, b):
    found = []
    gradient(lambda a, b: (found.append((a @ b).numpy()) or a @ b).sum(), a, b)
    assert found[0].shape == (a @ b).shape and np.allclose(found[0], a @ b)
    assert check_gradient(lambda a, b: ((a @ b) ** 2).sum(), a, b)


def test_products_of_several_number_types_are_made_in_the_widest_float():
    g, = gradient(lambda a: (a @ np.ones((4, 2))).sum(), X.astype("float32"))
    assert g.dtype == np.float32 and g.tolist() == [[2.0] * 4] * 3
    assert gradient(lambda a: (np.ones((2, 3), "int64") @ a).sum(), X)[0].tolist() == [[2.0] * 4] * 3


def test_a_power_of_nought_is_one_and_flat():
    assert gradient(lambda x: (x**0).sum(), np.array([0.0, 2.0]))[0].tolist() == [0, 0]


@pytest.mark.parametrize("f, error, says", [
    (lambda x: (x @ 2.0).sum(), ShapeError, r"\*"), (lambda x: x.sum() if x > 1 else -x.sum(), ValueError, r"\[3, 4\].*where"),
    (lambda x: np.median(x).sum(), TypeError, "engine.ops"), (lambda x: np.einsum("i...->i", x).sum(), TypeError, "a letter"),
    (lambda x: np.zeros((3, 4)).__iadd__(x).sum(), TypeError, r"a = a \+ b"),
    (lambda x: x[1.0].sum(), TypeError, "whole numbers"), (lambda x: x[np.array([True])].sum(), IndexError, r"mask of \[1\]"),
    (lambda x: x[x > 1].sum(), DtypeError, "where"), (lambda x: x.squeeze(0).sum(), ShapeError, "not 1"),
    (lambda x: ops.sum(x[7]), IndexError, "axis 0")])
def test_what_nodes_cannot_do_is_said_with_what_to_do(f, error, says):
    with pytest.raises(error, match=says):
        gradient(f, X)
