"""sin, cos and tan of GPUs, whose text is compiled for the processor here: as exact as promised, at any size of x."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numba import njit

from engine.kernels.vecmath import circle
from tests.engine.cuda.simulate import SIMULATING

pytestmark = pytest.mark.skipif(SIMULATING, reason="the simulator has numpy's")
LARGEST = {"float32": 3e38, "float64": circle.NEAR64}


def compute(name: str, x: np.ndarray) -> np.ndarray:
    """A function of circle.py over an array."""
    function = getattr(circle, f"{name}_{x.dtype}")

    @njit
    def each(x: Any, y: Any) -> None:
        for i in range(x.size):
            y[i] = function(x[i])

    y = np.empty_like(x)
    each(x, y)
    return y


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("name", "ulp"), [("sin", 2), ("cos", 2), ("tan", 3)])
def test_a_function_of_the_circle_is_exact_for_small_and_for_huge_numbers(name: str, ulp: float, dtype: str) -> None:
    sizes = np.geomspace(1e-30, LARGEST[dtype], 200_001)
    quarters = np.arange(1, 60_000) * (np.pi / 2)       # where what is left is smallest
    x = np.concatenate([np.linspace(-100, 100, 100_003), sizes, -sizes, quarters]).astype(dtype)
    expected = getattr(np, name)(x.astype(np.longdouble))
    unit = np.maximum(np.finfo(dtype).eps * np.abs(expected), np.finfo(dtype).tiny)
    assert np.max(np.abs(compute(name, x) - expected) / unit) <= ulp
    assert np.isnan(compute(name, np.array([np.nan, np.inf, -np.inf], dtype))).all()


def test_no_wrong_number_is_given_beyond_the_bound_of_float64() -> None:
    assert np.isnan(compute("sin", np.array([1.01 * circle.NEAR64]))).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["sin", "tan"])
def test_the_sign_of_nought_is_kept(name: str, dtype: str) -> None:
    np.testing.assert_array_equal(np.signbit(compute(name, np.array([0.0, -0.0], dtype))), [False, True])
