"""The vector mathematics: as exact as promised, right at the edges of the number range, and vectorised."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import special

from engine.kernels import library

# name: (a more exact computation, grid from, to, promised error in units of the last place)
EXACT: dict[str, tuple[Callable[..., Any], float, float, float]] = {
    "exp": (np.exp, -80, 80, 2), "expm1": (np.expm1, -80, 80, 2), "log": (np.log, 1e-30, 1e30, 2), "log1p": (np.log1p, -0.999, 1e6, 2),
    "tanh": (np.tanh, -20, 20, 3), "sigmoid": (special.expit, -80, 80, 3), "softplus": (lambda x: np.logaddexp(x, x.dtype.type(0)), -80, 80, 3),
    "erf": (special.erf, -6, 6, 3), "sqrt": (np.sqrt, 1e-30, 1e30, 0.51), "sign": (np.sign, -2, 2, 0), "floor": (np.floor, -99, 99, 0),
    "fabs": (np.abs, -9, 9, 0), "sin": (np.sin, -9, 9, 2), "cos": (np.cos, -9, 9, 2), "tan": (np.tan, -1.5, 1.5, 3),
}
VECTORISED = ["exp", "expm1", "log", "log1p", "tanh", "sigmoid", "softplus", "erf", "sqrt", "sign", "floor", "fabs", "sin_turn"]
LOOP = """def run(arena, words, begin, end):
    y = view(arena, words[0] + begin * WIDTH, real)
    x = view(arena, words[1] + begin * WIDTH, real)
    for i in range(end - begin):
        store(y, i, {}(load(x, i)))
"""


@pytest.fixture(params=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> str:
    return request.param


def compute(name: str, x: Any, dtype: str) -> np.ndarray:
    """A function of vecmath over an array, by a kernel in a loop."""
    if f"test_{name}" not in library.KERNELS:
        library.define(f"test_{name}", LOOP.format(name))
    x = np.array(x, dtype)
    y = np.empty_like(x)
    library.call(f"test_{name}", dtype, (y.ctypes.data, x.ctypes.data), x.size)
    return y


def grid(low: float, high: float) -> np.ndarray:
    """Points close together, and points of every size."""
    sizes = np.geomspace(1e-30, max(abs(low), abs(high)), 20_001)
    points = np.concatenate([np.linspace(low, high, 100_003), sizes, -sizes])
    return points[(points >= low) & (points <= high)]


@pytest.mark.parametrize("name", EXACT)
def test_a_function_is_as_exact_as_promised(name: str, dtype: str) -> None:
    oracle, low, high, ulp = EXACT[name]
    x = grid(low, high).astype(dtype)
    wide = np.longdouble if dtype == "float64" and name not in ("sigmoid", "erf") else np.float64
    expected = oracle(x.astype(wide))
    loose = 30 if (name, dtype) == ("erf", "float64") else 4 if wide is np.float64 and dtype == "float64" else ulp
    unit = np.maximum(np.finfo(dtype).eps * np.abs(expected), np.finfo(dtype).tiny)
    assert np.max(np.abs(compute(name, x, dtype) - expected) / unit) <= loose


@pytest.mark.parametrize(("name", "values"), [
    ("exp", {0.0: 1.0, -np.inf: 0.0, np.inf: np.inf, 1000.0: np.inf, -1000.0: 0.0}),
    ("expm1", {0.0: 0.0, -np.inf: -1.0, np.inf: np.inf, 1000.0: np.inf, -1000.0: -1.0}),
    ("log", {0.0: -np.inf, 1.0: 0.0, np.inf: np.inf, -1.0: np.nan, -np.inf: np.nan}),
    ("log1p", {0.0: 0.0, -1.0: -np.inf, np.inf: np.inf, -2.0: np.nan}),
    ("tanh", {0.0: 0.0, np.inf: 1.0, -np.inf: -1.0, 1000.0: 1.0}),
    ("sigmoid", {0.0: 0.5, np.inf: 1.0, -np.inf: 0.0, 1000.0: 1.0, -1000.0: 0.0}),
    ("softplus", {np.inf: np.inf, -np.inf: 0.0, 1000.0: 1000.0, -1000.0: 0.0}),
    ("erf", {0.0: 0.0, np.inf: 1.0, -np.inf: -1.0}),
    ("sqrt", {0.0: 0.0, np.inf: np.inf, -1.0: np.nan}),
    ("sign", {0.0: 0.0, np.inf: 1.0, -np.inf: -1.0}),
])
def test_a_function_is_right_at_the_edges_and_passes_nan_on(name: str, values: dict[float, float], dtype: str) -> None:
    np.testing.assert_array_equal(compute(name, [*values, np.nan], dtype), np.array([*values.values(), np.nan], dtype))


def test_the_largest_and_smallest_numbers_come_through(dtype: str) -> None:
    info = np.finfo(dtype)
    for x in (np.log(info.max) * 0.9999, np.log(info.tiny) * 0.9999):
        np.testing.assert_allclose(compute("exp", [x], dtype), np.exp(np.array([x], dtype).astype(np.longdouble)).astype(dtype), rtol=4 * info.eps)
    smallest = np.array([info.tiny, info.smallest_subnormal, info.max], dtype)
    np.testing.assert_allclose(compute("log", smallest, dtype), np.log(smallest.astype(np.longdouble)).astype(dtype), rtol=4 * info.eps)
    below = np.array([np.log(info.tiny) - 3], dtype)
    np.testing.assert_allclose(compute("exp", below, dtype), np.exp(below.astype(np.longdouble)).astype(dtype), rtol=1e-5)


def test_the_sign_of_nought_is_kept(dtype: str) -> None:
    for name in ("tanh", "expm1", "log1p", "erf", "sqrt"):
        assert np.signbit(compute(name, [-0.0], dtype))[0], name


def test_turns_are_exact_in_absolute_terms(dtype: str) -> None:
    x = np.linspace(-3, 3, 10_001).astype(dtype)
    for name, oracle in (("sin_turn", np.sin), ("cos_turn", np.cos)):
        expected = oracle(2 * np.pi * x.astype(np.longdouble))
        assert np.max(np.abs(compute(name, x, dtype) - expected)) < (2e-7 if dtype == "float32" else 2e-15)


def test_extremes_let_nan_win_and_order_the_bits_as_the_numbers(dtype: str) -> None:
    for name, oracle in (("minimum", np.minimum), ("maximum", np.maximum)):
        if f"test_{name}" not in library.KERNELS:
            library.define(f"test_{name}", LOOP.replace("{}(load(x, i))", f"{name}(load(x, i), load(x, (i + 1) % 6))"))
        x = np.array([1, np.nan, -np.inf, np.inf, 0.5, -3], dtype)
        np.testing.assert_array_equal(compute(name, x, dtype), oracle(x, np.roll(x, -1)))
    if "test_order" not in library.KERNELS:
        library.define("test_order", LOOP.format("real(1.0) * unordered(ordered").replace("load(x, i))", "load(x, i)))"))
    x = np.array([-np.inf, -2.5, -0.0, 0.0, 1e-30, 3, np.inf, np.nan, -np.nan], dtype)
    np.testing.assert_array_equal(compute("order", x, dtype), x)


@pytest.mark.parametrize("name", VECTORISED)
def test_a_loop_over_a_function_runs_on_vectors(name: str, dtype: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "folder", lambda: tmp_path)   # numba shows no code that it took from its cache
    monkeypatch.setattr(library, "_loaded", {})
    library.KERNELS.pop("test_vector", None)
    library.define("test_vector", LOOP.format(name))
    code = library.compiled("test_vector", dtype).inspect_llvm()
    kind = {"float32": "float", "float64": "double"}[dtype]
    assert re.search(rf"<\d+ x {kind}>", code)
    assert not re.search(rf"call fast {kind} @|call {kind} @(exp|log|tanh|erf)", code)
    library.KERNELS.pop("test_vector")
