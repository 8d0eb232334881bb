"""Sums, products and quotients, comparisons and choices. Comparisons give 1.0 and 0.0 in their operands' type."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.core import Case, Node, Sample, apply
from engine.kernels.formula import parse
from engine.ops.elementwise import binary, fused, unary

unary("negative", "-x", "-1", np.negative, "-x.")
unary("abs", "fabs(x)", "sign(x)", np.abs, "|x|; its derivative at 0 is 0.", avoid=(0.0,))
unary("sign", "sign(x)", None, np.sign, "-1, 0 or 1; its derivative is 0.", avoid=(0.0,))
unary("square", "x * x", "2 * x", np.square, "x².")
unary("reciprocal", "1 / x", "-(y * y)", np.reciprocal, "1 / x.", over=(0.3, 3.0))
unary("floor", "floor(x)", None, np.floor, "The largest whole number that is not greater; its derivative is 0.", avoid=(-2.0, -1.0, 0.0, 1.0, 2.0))
unary("clip", "minimum(maximum(x, low), high)", "1 if low <= x <= high else 0", lambda x, low, high: np.clip(x, low, high),
      "x kept between `low` and `high`; the derivative on both ends is 1.", avoid=(0.0, 1.0), low=0.0, high=1.0)

binary("add", "x + y", ("1", "1"), np.add, "x + y.")
binary("subtract", "x - y", ("1", "-1"), np.subtract, "x - y.")
binary("multiply", "x * y", ("y", "x"), np.multiply, "x y.")
binary("divide", "x / y", ("1 / y", "-z / y"), np.divide, "x / y.", y=(0.3, 3.0))
binary("power", "pow(x, y)", ("0 if y == 0 else y * pow(x, y - 1)", "z * log(x) if x > 0 else 0"), np.power, "x to the power y.", x=(0.3, 3.0))
binary("maximum", "maximum(x, y)", ("1 if x > y else 0", "0 if x > y else 1"), np.maximum,
       "The greater; where equal, the derivative goes to y.", distinct=True)
binary("minimum", "minimum(x, y)", ("1 if x < y else 0", "0 if x < y else 1"), np.minimum,
       "The lesser; where equal, the derivative goes to y.", distinct=True)


def _comparison(name: str, sign: str, oracle: Any, words: str) -> None:
    binary(name, f"1 if x {sign} y else 0", (None, None), lambda x, y: oracle(x, y).astype(np.float64),
           f"1.0 where x is {words} y, else 0.0.", distinct=True)


_comparison("equal", "==", np.equal, "equal to")
_comparison("not_equal", "!=", np.not_equal, "not equal to")
_comparison("less", "<", np.less, "less than")
_comparison("less_equal", "<=", np.less_equal, "at most")
_comparison("greater", ">", np.greater, "greater than")
_comparison("greater_equal", ">=", np.greater_equal, "at least")


def _where_vjp(node: Node, ct: Node) -> Sequence[Node | None]:
    condition = node.inputs[0]
    return None, apply("where", condition, ct, 0.0), apply("where", condition, 0.0, ct)


def _where_jvp(node: Node, tangents: Sequence[Node | None]) -> Node | None:
    _, x, y = tangents
    return None if x is None and y is None else apply("where", node.inputs[0], 0.0 if x is None else x, 0.0 if y is None else y)


def _chooser(shape: tuple[int, ...]) -> tuple[Sample, ...]:
    return Sample(shape, -1.0, 1.0, avoid=(0.0,)), Sample(shape), Sample(shape)


fused("where", parse("x if c != 0 else y", ("c", "x", "y")), ("c", "x", "y"), attributes={}, formula="x if c != 0 else y",
      description="x where c is not 0, else y.", oracle=lambda c, x, y: np.where(np.not_equal(c, 0), x, y), vjp=_where_vjp, jvp=_where_jvp,
      cases=tuple(Case(name, _chooser(shape)) for name, shape in (("ragged", (7, 5)), ("empty batch", (0, 5)), ("scalar", ()))))
