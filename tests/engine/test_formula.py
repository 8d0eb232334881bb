"""Formulas: what the language takes, what kernels and passes it becomes, and that numpy, nodes and kernels agree on them."""

from __future__ import annotations

import numpy as np
import pytest

from engine import ops
from engine.core import leaf
from engine.graph import interpret
from engine.kernels import formula, library
from engine.ops.composition import to_nodes

FORMULAS = ["x * y + 2", "-x / (1 + y ** 2)", "x if x > y else -y", "0 if -1 < x < 1 and y != 0 else 1", "1 if x < 0 or y < 0 else 2",
            "tanh(x) * exp(-y) - log1p(fabs(x))", "maximum(x, 0.5) - minimum(y, x) ** 3", "sqrt(fabs(x)) * sign(y)", "pow(fabs(x), y)",
            "softplus(x) - sigmoid(y) * erf(x)", "0 if isnan(x) else floor(x)", "2 ** 0.5 * x"]


@pytest.mark.parametrize("text", FORMULAS)
def test_numpy_nodes_and_kernel_agree_on_a_formula(text: str) -> None:
    tree = formula.parse(text, ("x", "y"))
    rng = np.random.default_rng(0)
    x, y = rng.uniform(-2, 2, (2, 50))
    expected = formula.compute(tree, {"x": x, "y": y}) * np.ones(50)
    nodes = {"x": leaf((50,), "float64"), "y": leaf((50,), "float64")}
    made = to_nodes(tree, nodes)
    np.testing.assert_allclose(interpret.run([made], {nodes["x"]: x, nodes["y"]: y})[0], expected, rtol=1e-14)   # type: ignore[list-item]
    name = f"test_formula_{FORMULAS.index(text)}"
    if name not in library.KERNELS:
        library.define(name, formula.kernel_text(tree, ("x", "y"), numbers=False))
    out = np.empty(50)
    library.call(name, "float64", (out.ctypes.data, 0, x.ctypes.data, 0, 1, y.ctypes.data, 0, 1), 50)
    np.testing.assert_allclose(out, expected, rtol=1e-13)


@pytest.mark.parametrize("text", ["x.real", "x[0]", "lambda: x", "open(x)", "x @ y", "'a'", "True", "[x]", "z + x", "x // 2",
                                  "exp(x=1)", "x if x else", "x; y",
                                  "(exp)(x)(x)", "f'{x}'", "x := 1", "not x", "x is y", "__import__('os')", "1j * x"])
def test_the_language_takes_nothing_but_mathematics(text: str) -> None:
    with pytest.raises((ValueError, SyntaxError)):
        formula.parse(text, ("x", "y"))


def test_whole_powers_become_products() -> None:
    assert formula.text_of(formula.parse("x ** 3", ("x",))) == "x * x * x"
    assert formula.text_of(formula.parse("x ** 0.5", ("x",))) == "pow(x, 0.5)"


def test_every_number_of_a_kernel_has_the_kernels_type() -> None:
    text = library.source("gelu", "float32")
    assert "1.5957691216057308" in text and "real(1.5957691216057308)" in text


ADAM = """
m = beta1 * m + (1 - beta1) * g
v = beta2 * v + (1 - beta2) * g ** 2
rate = factor * learning_rate / (1 - beta1 ** t)
d = rate * m / (sqrt(v / (1 - beta2 ** t)) + epsilon)
"""
SCALARS = ("factor", "t", "learning_rate", "beta1", "beta2", "epsilon")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_pass_updates_its_arrays_in_place_as_the_lines_say(dtype: str) -> None:
    if "test_adam" not in library.KERNELS:
        library.define("test_adam", formula.pass_text(ADAM, ("x", "g", "m", "v"), SCALARS, ("x", "m", "v")))
    rng = np.random.default_rng(0)
    x, g, m, v = (rng.uniform(0.1, 1, 77).astype(dtype) for _ in range(4))
    table = np.array([0.5, 3, 1e-3, 0.9, 0.999, 1e-8])
    wide = [a.astype("float64") for a in (x, g, m, v)]
    library.call("test_adam", dtype, (x.ctypes.data, g.ctypes.data, m.ctypes.data, v.ctypes.data, table.ctypes.data), 77)
    m2, v2 = 0.9 * wide[2] + 0.1 * wide[1], 0.999 * wide[3] + 0.001 * wide[1] ** 2
    x2 = wide[0] - 0.5e-3 * (m2 / (1 - 0.9 ** 3)) / (np.sqrt(v2 / (1 - 0.999 ** 3)) + 1e-8)
    for found, expected in ((x, x2), (m, m2), (v, v2)):
        np.testing.assert_allclose(found, expected, rtol=3e-7 if dtype == "float32" else 1e-14)


def test_what_depends_on_scalars_alone_is_computed_once_in_float64() -> None:
    text = formula.pass_text(ADAM, ("x", "g", "m", "v"), SCALARS, ("x", "m", "v"))
    head, loop = text.split("    for i in range")
    assert "pow" in head and "pow" not in loop and "table" not in loop
    assert "rate = factor * learning_rate / (float64(1.0) - pow(beta1, t))" in head
    assert loop.count("/") == 1


def test_a_choice_may_depend_on_scalars() -> None:
    lines = "rho = 2 / (1 - beta) - 1\nd = g * sqrt(rho) if rho > 4 else g"
    if "test_choice" not in library.KERNELS:
        library.define("test_choice", formula.pass_text(lines, ("x", "g"), ("beta",), ("x",)))
    for beta, expected in ((0.5, -1.0), (0.9, -np.sqrt(19.0))):
        x, g, table = np.zeros(9), np.ones(9), np.array([beta])
        library.call("test_choice", "float64", (x.ctypes.data, g.ctypes.data, table.ctypes.data), 9)
        np.testing.assert_allclose(x, expected)


def test_a_row_of_the_table_is_a_whole_op() -> None:
    x = leaf((3, 4))
    node = ops.leaky_relu(x, slope=0.2)
    assert (node.shape, node.dtype, node.attrs) == ((3, 4), "float32", {"slope": 0.2})
    assert ops.leaky_relu.formula == "x if x > 0 else slope * x"
    with pytest.raises(TypeError, match="slop"):
        ops.leaky_relu(x, slop=0.2)
