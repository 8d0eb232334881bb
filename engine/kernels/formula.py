"""Formulas as data: one line of mathematics becomes the text of a kernel.

A formula is a Python expression of names, numbers, `+ - * / **`, comparisons, `and`, `or`, `a if test else b` (both sides are computed, one is
chosen) and the functions in FUNCTIONS. It is a constant of our source, parsed at import against this list; nothing from outside comes here.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

from engine import special

FUNCTIONS: dict[str, Any] = {
    "exp": np.exp, "expm1": np.expm1, "log": np.log, "log1p": np.log1p, "tanh": np.tanh, "sigmoid": special.expit, "erf": special.erf,
    "softplus": lambda x: np.logaddexp(0, x), "sin": np.sin, "cos": np.cos, "tan": np.tan, "sqrt": np.sqrt, "pow": np.power, "floor": np.floor,
    "fabs": np.abs, "minimum": np.minimum, "maximum": np.maximum, "sign": np.sign, "copysign": np.copysign,
    "isnan": np.isnan, "isfinite": np.isfinite,
}
"""What a formula may call, with numpy's function of the same meaning."""

_SAME_IN_BOTH = {"sqrt", "pow", "floor", "fabs", "minimum", "maximum", "copysign"}   # work in float64 also inside a float32 kernel
_COSTS = {"exp": 0.4, "expm1": 0.4, "log": 0.5, "log1p": 0.7, "tanh": 0.5, "sigmoid": 0.5, "softplus": 1.0, "erf": 0.7, "sin": 5.0, "cos": 5.0,
          "tan": 8.0, "pow": 8.0, "sqrt": 0.2}
_ALLOWED = (ast.BinOp, ast.UnaryOp, ast.Compare, ast.BoolOp, ast.IfExp, ast.Call, ast.Name, ast.Constant, ast.Load, ast.And, ast.Or, ast.Add, ast.Sub,
            ast.Mult, ast.Div, ast.Pow, ast.USub, ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE)
_OPERATORS: dict[type, Any] = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: np.divide, ast.Pow: np.power}
_COMPARISONS: dict[type, Any] = {ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt,
                                 ast.GtE: operator.ge}


def parse(text: str, names: Iterable[str]) -> ast.expr:
    """The tree of a formula over `names`. Raises ValueError at anything else.

    >>> ast.unparse(parse("x if x > 0 else slope * x", ("x", "slope")))
    'x if x > 0.0 else slope * x'
    """
    tree = ast.parse(text.strip(), mode="eval").body
    known = set(names)
    for node in ast.walk(tree):
        called = isinstance(node, ast.Name) and node.id in FUNCTIONS
        number = isinstance(node, ast.Constant) and type(node.value) in (int, float)
        if not isinstance(node, _ALLOWED) or (isinstance(node, ast.Constant) and not number):
            raise ValueError(f"formula {text!r}: {ast.unparse(node) or type(node).__name__} is not allowed")
        if isinstance(node, ast.Name) and node.id not in known and not called:
            raise ValueError(f"formula {text!r}: {node.id!r} is none of {sorted(known)}")
        if isinstance(node, ast.Call) and (not isinstance(node.func, ast.Name) or node.func.id not in FUNCTIONS or node.keywords):
            raise ValueError(f"formula {text!r}: {ast.unparse(node.func)} is none of {sorted(FUNCTIONS)}")
        if isinstance(node, ast.Constant):
            node.value = float(node.value)   # type: ignore[arg-type]
    return tree


def names_in(tree: ast.expr) -> set[str]:
    """The variables of a formula."""
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} - set(FUNCTIONS)


def operations(tree: ast.expr) -> int:
    """How many operations and calls a formula has."""
    return sum(isinstance(node, ast.BinOp | ast.UnaryOp | ast.Call | ast.IfExp) for node in ast.walk(tree))


def cost(tree: ast.expr) -> float:
    """Nanoseconds per element on one core, roughly, one load and one store included."""
    calls = (_COSTS.get(node.func.id, 0.05) for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name))
    return 0.15 + sum(calls) + 0.03 * operations(tree)


def compute(tree: ast.expr, values: Mapping[str, Any]) -> Any:
    """The value of a formula by numpy."""
    def value(node: ast.expr) -> Any:
        match node:
            case ast.Constant():
                return node.value
            case ast.Name():
                return values[node.id]
            case ast.UnaryOp():
                return -value(node.operand)
            case ast.BinOp():
                return _OPERATORS[type(node.op)](value(node.left), value(node.right))
            case ast.Compare():
                return reduce(np.logical_and, [_COMPARISONS[type(op)](value(a), value(b)) for a, op, b in comparisons(node)])
            case ast.BoolOp():
                return reduce(np.logical_and if isinstance(node.op, ast.And) else np.logical_or, map(value, node.values))
            case ast.IfExp():
                return np.where(value(node.test), value(node.body), value(node.orelse))
            case ast.Call(func=ast.Name(id=name)):
                return FUNCTIONS[name](*map(value, node.args))
        raise ValueError(f"no formula: {ast.dump(node)}")

    return value(tree)


def comparisons(node: ast.Compare) -> list[tuple[ast.expr, ast.cmpop, ast.expr]]:
    """The pairs of `0 < x < 6`: (0, <, x), (x, <, 6)."""
    sides = [node.left, *node.comparators]
    return list(zip(sides, node.ops, sides[1:], strict=False))


def whole_power(node: ast.expr) -> int | None:
    """The exponent, where `node` is something to a whole power from 2 to 8: products are exact to the last bits and vectorise."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow) and isinstance(node.right, ast.Constant):
        exponent = node.right.value
        if isinstance(exponent, float) and exponent == int(exponent) and 2 <= exponent <= 8:
            return int(exponent)
    return None


class _Kernel(ast.NodeTransformer):
    """A formula in the words of kernels: select for a choice, `&` and `|` for and, or; products for whole powers."""

    def visit_IfExp(self, node: ast.IfExp) -> ast.AST:
        return _call("select", *(self.visit(n) for n in (node.test, node.body, node.orelse)))

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        pairs = [ast.Compare(self.visit(a), [op], [self.visit(b)]) for a, op, b in comparisons(node)]
        return reduce(lambda a, b: ast.BinOp(a, ast.BitAnd(), b), pairs)

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        join = ast.BitAnd() if isinstance(node.op, ast.And) else ast.BitOr()
        return reduce(lambda a, b: ast.BinOp(a, join, b), [self.visit(n) for n in node.values])

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        times = whole_power(node)
        left, right = self.visit(node.left), self.visit(node.right)
        if times is not None:
            return reduce(lambda a, b: ast.BinOp(a, ast.Mult(), b), [left] * times)
        return _call("pow", left, right) if isinstance(node.op, ast.Pow) else ast.BinOp(left, node.op, right)


def _call(name: str, *args: Any) -> ast.Call:
    return ast.Call(ast.Name(name, ast.Load()), list(args), [])


def text_of(tree: ast.expr) -> str:
    """A formula in the words of kernels."""
    return ast.unparse(ast.fix_missing_locations(_Kernel().visit(ast.parse(ast.unparse(tree), mode="eval").body)))


# ---------------------------------------------------------------- elementwise kernels

def kernel_text(tree: ast.expr, operands: tuple[str, ...], attributes: tuple[str, ...] = (), numbers: bool = True) -> str:
    """An elementwise kernel: words (out, row length or 0, then offset, row step and column step per operand, then the float attributes).

    There is a loop of its own, which vectorises, for operands side by side in memory, and with `numbers`, of two operands, for either one being a
    single number. Each loop takes a tenth of a second to compile.
    """
    lines = ["def run(arena, words, begin, end):", "    rows, columns, first, skip = rows_of(words[1], begin, end)"]
    lines += [f"    {name} = real(number_of(words[{2 + 3 * len(operands) + k}]))" for k, name in enumerate(attributes)]
    lines += [f"    column_{name} = words[{4 + 3 * k}]" for k, name in enumerate(operands)]
    lines += ["    for r in range(rows):", "        out = view(arena, words[0] + (begin + r * columns) * WIDTH, real)"]
    lines += [f"        p_{name} = operand(arena, words, {2 + 3 * k}, first + r, skip, real, WIDTH)" for k, name in enumerate(operands)]
    patterns = [(1,) * len(operands)] + ([(1, 0), (0, 1)] if numbers and len(operands) == 2 else [])
    for k, pattern in enumerate(patterns):
        test = " and ".join(f"column_{name} == {step}" for name, step in zip(operands, pattern, strict=True))
        at = {name: "i" if step else "0" for name, step in zip(operands, pattern, strict=True)}
        lines += [f"        {'elif' if k else 'if'} {test}:", *_loop(tree, at)]
    lines += ["        else:", *_loop(tree, {name: f"i * column_{name}" for name in operands})]
    return "\n".join(lines) + "\n"


def _loop(tree: ast.expr, index: Mapping[str, str]) -> list[str]:
    loads = [f"                {name} = load(p_{name}, {at})" for name, at in index.items()]
    return ["            for i in range(columns):", *loads, f"                store(out, i, {text_of(tree)})"]


# ---------------------------------------------------------------- passes: several lines over several arrays, in place

def pass_text(lines: str, arrays: tuple[str, ...], scalars: tuple[str, ...], writes: tuple[str, ...]) -> str:
    """One fused pass in place over arrays of equal length; words (offset of each array, in order, then of the float64 table of the scalars).

    `lines` are assignments `name = formula`, over arrays, scalars and names assigned above. What depends on scalars alone is computed once, in
    float64, before the loop; a division by it becomes a product. At the end each name in `writes` is stored in its array. Where `d` is assigned and
    `x` is to be written but not assigned, x becomes x - d: the step of an optimiser.

    >>> print(pass_text("d = rate * g / (1 - beta ** t)", ("x", "g"), ("rate", "beta", "t"), ("x",)))
    def run(arena, words, begin, end):
        a_x = view(arena, words[0] + begin * WIDTH, real)
        a_g = view(arena, words[1] + begin * WIDTH, real)
        table = view(arena, words[2], float64)
        rate = table[0]
        beta = table[1]
        t = table[2]
        once_0 = real(rate)
        once_1 = real(float64(1.0) / (float64(1.0) - pow(beta, t)))
        for i in range(end - begin):
            x = a_x[i]
            g = a_g[i]
            d = once_0 * g * once_1
            a_x[i] = x - d
    <BLANKLINE>
    """
    parts = pass_parts(lines, arrays, scalars, writes)
    head = [f"a_{name} = view(arena, words[{k}] + begin * WIDTH, real)" for k, name in enumerate(arrays)]
    head += [f"table = view(arena, words[{len(arrays)}], float64)"] + [f"{name} = table[{k}]" for k, name in enumerate(scalars)] + parts.once
    loop = [f"{name} = a_{name}[i]" for name in arrays] + parts.body + [f"a_{name}[i] = {value}" for name, value in parts.results.items()]
    text = ["def run(arena, words, begin, end):", *(f"    {t}" for t in head), "    for i in range(end - begin):", *(f"        {t}" for t in loop)]
    return "\n".join(text) + "\n"


@dataclass(frozen=True)
class Pass:
    """Lines of a pass: `once`, on scalars alone, of which `once_0`, `once_1` ... are for the `body`; then each array that is written, and by what."""

    once: list[str]
    body: list[str]
    results: dict[str, str]


def pass_parts(lines: str, arrays: tuple[str, ...], scalars: tuple[str, ...], writes: tuple[str, ...]) -> Pass:
    """What `pass_text` puts together."""
    assigned = [line.split("=", 1)[0].strip() for line in lines.strip().splitlines()]
    once = _Once(set(scalars))
    body = []
    known = [*arrays, *scalars]
    for name, line in zip(assigned, lines.strip().splitlines(), strict=True):
        tree = parse(line.split("=", 1)[1], known)
        if names_in(tree) <= once.names and name not in arrays:
            once.lines.append(f"{name} = {_double(tree)}")
            once.names.add(name)
        else:
            body.append(f"{name} = {text_of(once.rewrite(tree))}")
            once.names.discard(name)
        known.append(name)
    step = "d" in assigned and "x" in writes and "x" not in assigned
    return Pass(once.lines, body, {name: "x - d" if name == "x" and step else name for name in writes})


class _Once(ast.NodeTransformer):
    """Take what depends on `names` alone out of a formula, into `lines`."""

    def __init__(self, names: set[str]):
        self.names, self.lines = names, list[str]()

    def rewrite(self, tree: ast.expr) -> ast.expr:
        done = self.visit(tree)
        assert isinstance(done, ast.expr)
        return done

    def visit(self, node: ast.AST) -> ast.AST:
        if isinstance(node, ast.expr) and not isinstance(node, ast.Compare | ast.BoolOp) and names_in(node) and names_in(node) <= self.names:
            return self._take(_double(node))
        return self.generic_visit(node)

    def _take(self, text: str) -> ast.Name:
        name = f"once_{sum(line.startswith('once_') for line in self.lines)}"
        self.lines.append(f"{name} = real({text})")
        return ast.Name(name, ast.Load())

    def generic_visit(self, node: ast.AST) -> ast.AST:
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and names_in(node.right) and names_in(node.right) <= self.names:
            return ast.BinOp(self.visit(node.left), ast.Mult(), self._take(f"float64(1.0) / ({_double(node.right)})"))   # type: ignore[arg-type]
        return super().generic_visit(node)


def _double(tree: ast.expr) -> str:
    """A formula of scalars, computed in float64 whatever the kernel's type."""
    called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    if not called <= _SAME_IN_BOTH:
        raise ValueError(f"{sorted(called - _SAME_IN_BOTH)} of scalars is not computed in float64; use {sorted(_SAME_IN_BOTH)}")
    typed = ast.parse(text_of(tree), mode="eval").body

    class Literals(ast.NodeTransformer):
        def visit_Constant(self, node: ast.Constant) -> ast.AST:
            return _call("float64", node)

    return ast.unparse(ast.fix_missing_locations(Literals().visit(typed)))
