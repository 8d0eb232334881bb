"""Initial values: the same for the same place, spread as the formulas say."""

import numpy as np
import pytest

from engine.errors import ShapeError, SpecError
from engine.nn import Chain, Dense, MultiHeadAttention
from engine.nn.initialisers import (
    Draw,
    GlorotUniform,
    Identity,
    LecunNormal,
    Normal,
    Orthogonal,
    Sparse,
    TruncatedNormal,
    Uniform,
    Values,
    fans,
    initialisers,
)

ARGUMENTS = {"sparse": {"sparsity": 0.5}, "values": {"values": [[0.0] * 6] * 4}}


@pytest.mark.parametrize("kind", initialisers.members)
def test_values_depend_on_seed_path_and_shape_only(kind):
    init = initialisers.members[kind](**ARGUMENTS.get(kind, {}))
    first = init.array((4, 6), seed=1, path="layers.0.weight")
    init.array((9, 9), seed=5, path="other") if kind != "values" else None
    assert first.dtype == np.float32 and first.shape == (4, 6)
    assert np.array_equal(first, init.array((4, 6), seed=1, path="layers.0.weight"))
    assert np.array_equal(first, init.array((4, 6), seed=1, path="layers.0.weight", dtype="float64").astype("float32"))
    elsewhere = [init.array((4, 6), seed=2, path="layers.0.weight"), init.array((4, 6), seed=1, path="layers.1.weight")]
    random = kind not in ("zeros", "ones", "constant", "identity", "values")
    assert all(np.array_equal(first, other) != random for other in elsewhere)


def test_draws_never_change():
    """These numbers are part of the promise that a job gives the same result on another day."""
    assert Draw(0, "layers.0.weight", (3,)).uniform() == pytest.approx([0.9877671446966654, 0.9273711729529885, 0.5109649332180952], abs=1e-15)


def test_draws_are_even_and_normal():
    uniform, normal = Draw(3, "a", (100_000,)).uniform(), Draw(4, "a", (100_000,)).normal()
    assert uniform.min() > 0 and uniform.max() < 1
    assert np.abs(np.histogram(uniform, 10, (0, 1))[0] / 10_000 - 1).max() < 0.04
    assert abs(normal.mean()) < 0.01 and abs(normal.std() - 1) < 0.01


def test_fans_count_the_taps_of_a_kernel():
    assert fans((10, 100)) == (10, 100) and fans((3, 3, 8, 16)) == (72, 144) and fans((5,)) == (1, 5) and fans(()) == (1, 1)


def test_glorot_uniform_is_bounded_by_its_fans():
    values = GlorotUniform().array((200, 100), seed=0)
    assert np.abs(values).max() == pytest.approx(np.sqrt(6 / 300), rel=1e-3)


def test_orthogonal_rows_or_columns_are_at_right_angles():
    for shape in ((5, 7), (7, 5), (3, 3, 2, 4)):
        q = Orthogonal().array(shape, dtype="float64").reshape(-1, shape[-1])
        product = q @ q.T if q.shape[0] < q.shape[1] else q.T @ q
        assert np.allclose(product, np.eye(min(q.shape)), atol=1e-12)
    with pytest.raises(ShapeError, match="two axes"):
        Orthogonal().array((5,))


def test_sparse_zeroes_the_same_count_for_each_input():
    values = Sparse(sparsity=0.3).array((20, 10), seed=1)
    assert (np.sum(values == 0, axis=1) == 3).all()


def test_identity_sits_at_the_centre_of_a_kernel():
    assert np.array_equal(Identity().array((2, 3)), np.eye(2, 3))
    kernel = Identity(gain=2.0).array((3, 2, 2))
    assert np.array_equal(kernel[1], 2 * np.eye(2)) and not kernel[[0, 2]].any()
    assert np.array_equal(Identity(shift=1).array((2, 3)), np.roll(np.eye(2, 3), 1, axis=1))


def test_normal_numbers_stay_within_absolute_bounds_when_truncated():
    values = TruncatedNormal().array((100_000,), seed=1)
    assert -2 <= values.min() < -1.99 and 1.99 < values.max() <= 2
    assert LecunNormal().array((100, 50), seed=1).std() == pytest.approx(0.1, rel=0.03)
    assert Normal(mean=3.0, std=0.5).array((10_000,), seed=1).mean() == pytest.approx(3, abs=0.02)
    assert Uniform(low=-1.0, high=1.0).array((10_000,), seed=1).min() < -0.99


def test_values_must_have_the_shape_of_the_parameter():
    assert np.array_equal(Values([[1, 2], [3, 4]]).array((2, 2)), [[1, 2], [3, 4]])
    with pytest.raises(ShapeError, match=r"\[2\].*\[2, 2\]"):
        Values([1, 2]).array((2, 2))
    with pytest.raises(ShapeError, match="numbers"):
        Values([[1], [2, 3]]).array((2, 2))


def test_initial_values_of_a_parameter_that_a_layer_has_not_are_refused_where_they_stand():
    with pytest.raises(SpecError, match=r"/layers/1/init/wieght: dense has no parameter 'wieght'; it has weight, bias \(did you mean 'weight'\?\)"):
        Chain(Dense(2), Dense(2, init={"wieght": "ones"})).build((3,))
    assert Dense(2, bias=False, init={"weight": "ones", "bias": "ones"}).build((3,))["weight"].all()


def test_the_matrices_of_attention_are_told_apart_by_name():
    model = MultiHeadAttention(2, 4, init={"query": "ones", "weight": "zeros"}).build((3, 4))
    assert model["query"].all() and not any(model[name].any() for name in ("key", "value", "out"))
