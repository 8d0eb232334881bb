"""Formulas as nodes: what a kernel does in one loop, made of smaller ops. Derivatives of derivatives come from it."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from functools import reduce

from engine.core import Node, apply
from engine.kernels.formula import comparisons, compute, whole_power

_NAMES = {"fabs": "abs", "pow": "power"}
_OPERATORS: dict[type, str] = {ast.Add: "add", ast.Sub: "subtract", ast.Mult: "multiply", ast.Div: "divide", ast.Pow: "power", ast.Lt: "less",
                               ast.LtE: "less_equal", ast.Gt: "greater", ast.GtE: "greater_equal", ast.Eq: "equal", ast.NotEq: "not_equal"}

Value = Node | float


def to_nodes(tree: ast.expr, values: Mapping[str, Value]) -> Value:
    """The formula with nodes (or numbers) for its names: a node, or a number where there are only numbers."""
    match tree:
        case ast.Constant():
            return float(tree.value)   # type: ignore[arg-type]
        case ast.Name(id=name):
            return values[name]
        case ast.UnaryOp():
            return -to_nodes(tree.operand, values)
        case ast.BinOp() if whole_power(tree) is not None:
            base = to_nodes(tree.left, values)
            exponent = whole_power(tree)
            return base ** exponent   # type: ignore[operator]
        case ast.BinOp():
            return _make(_OPERATORS[type(tree.op)], tree, values, tree.left, tree.right)
        case ast.Compare():
            return reduce(_both, [_make(_OPERATORS[type(op)], ast.Compare(a, [op], [b]), values, a, b) for a, op, b in comparisons(tree)])
        case ast.BoolOp():
            join = _both if isinstance(tree.op, ast.And) else lambda a, b: apply("maximum", a, b)
            return reduce(join, [to_nodes(n, values) for n in tree.values])
        case ast.IfExp():
            return _make("where", tree, values, tree.test, tree.body, tree.orelse)
        case ast.Call(func=ast.Name(id="isnan")):
            x = to_nodes(tree.args[0], values)
            return apply("not_equal", x, x)
        case ast.Call(func=ast.Name(id=name)):
            return _make(_NAMES.get(name, name), tree, values, *tree.args)
    raise ValueError(f"no formula: {ast.dump(tree)}")


def _make(name: str, tree: ast.expr, values: Mapping[str, Value], *parts: ast.expr) -> Value:
    args = [to_nodes(part, values) for part in parts]
    return apply(name, *args) if any(isinstance(a, Node) for a in args) else float(compute(tree, values))


def _both(a: Value, b: Value) -> Value:
    return a * b


def times(ct: ast.expr, tree: ast.expr) -> ast.expr:
    """`ct * tree`, with ct carried into choices: ct itself for 1, and 0, not 0 * ct, for 0, so that an infinite ct stays out."""
    match tree:
        case ast.IfExp():
            return ast.IfExp(tree.test, times(ct, tree.body), times(ct, tree.orelse))
        case ast.Constant(value=0.0):
            return tree
        case ast.Constant(value=1.0):
            return ct
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return ast.UnaryOp(ast.USub(), times(ct, operand))
        case ast.BinOp(op=ast.Div(), left=ast.Constant(value=1.0)):
            return ast.BinOp(ct, ast.Div(), tree.right)
    return ast.BinOp(ct, ast.Mult(), tree)
