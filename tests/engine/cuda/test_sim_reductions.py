"""Reductions, moments and what is normalised by them, in the simulator."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engine import ops  # noqa: F401
from engine.core import OPS, Case, Op, Sample, apply, leaf
from tests.engine import machine
from tests.engine.cuda.simulate import RAGGED, TOLERANCE, check, inside, run, table
from tests.engine.test_ops import assert_near

NAMES = ("sum", "mean", "prod", "max", "min", "batch_moments", "batch_norm", "batch_norm_grad", "batch_norm_sums")

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


@inside
@pytest.mark.parametrize(("op", "case"), table(*NAMES))
def test_kernels_agree_with_the_oracle(op: Op, case: Case) -> None:
    check(op, case, "float64" if case.name in ("rows", "over rows", "two apart") else "float32")


# rows of one thread each, of a few, of a warp and of the block; columns fewer than threads of a warp, and more
SHAPES = ((3, 0), (0, 3), (5, 1), (70, 2), (3, 31), (2, 33), (3, 257), (2, 600), (2, 2, 9), (3, 5, 2), (2, 31, 33), (1, 600, 3), (0, 5, 2))


@inside
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", ["sum", "max"])
def test_rows_and_columns_of_any_length(name: str, shape: tuple[int, ...]) -> None:
    axis = 1
    if name == "max" and not shape[axis]:
        pytest.skip("there is nothing to choose from")
    dtype = "float64" if sum(shape) % 2 else "float32"
    value = np.random.default_rng(1).normal(size=shape).astype(dtype)
    x = leaf(shape, dtype)
    found = run(apply(name, x, axis=axis), {x: value})
    assert_near(found, OPS[name].oracle(value.astype("float64"), axis=axis), TOLERANCE[dtype])


@inside
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["sum", "mean", "prod", "max", "min"])
def test_ragged_rows_and_columns(name: str, dtype: str, axis: int) -> None:
    for n in RAGGED:
        for shape in ((n, 3), (3, n)):
            if shape[axis]:
                check(OPS[name], Case("", (Sample(shape, 0.5, 1.5),), {"axis": axis}), dtype)


@inside
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("name", ["sum", "prod", "max", "min"])
def test_nan_and_infinity_are_as_on_the_cpu(name: str, axis: int) -> None:
    same_as_on_the_cpu(name, {"axis": axis}, np.array([[1, np.nan, 2], [np.inf, 1, -np.inf], [-np.inf] * 3, [np.nan, np.inf, 0]], "float32"))


def same_as_on_the_cpu(name: str, attrs: dict[str, Any], *arrays: np.ndarray) -> None:
    leaves = [leaf(a.shape, a.dtype.name) for a in arrays]
    values = dict(zip(leaves, arrays, strict=True))
    node = apply(name, *leaves, **attrs)
    assert_near(run(node, values), machine.run(node, values), TOLERANCE.get(node.dtype, 0.0))


@inside
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_moments_tell_of_numbers_that_are_not_finite(value: float) -> None:
    same_as_on_the_cpu("batch_moments", {}, np.array([[1, 2, 3], [4, value, 6]], "float32"))
