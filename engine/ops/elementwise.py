"""Ops that work on each element by itself. One row says all: `unary` and `binary` make from it the op, its kernel, and those of
its derivative.

    #              name    formula    derivative   oracle
    tanh = unary("tanh", "tanh(x)", "1 - y * y", np.tanh)

A derivative is a formula of x (and of y for binary ops) and of the output: `y` for unary ops, `z` for binary ones. Times the cotangent it becomes the
private op `<name>_grad`, one fused kernel; where it is so simple that an op exists for it, that op is used.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from engine.core import FLOATS, Case, Launch, Node, Op, Sample, Shape, apply, constant, count, register
from engine.errors import DtypeError, ShapeError
from engine.kernels.formula import compute, cost, kernel_text, names_in, operations, parse
from engine.kernels.library import define
from engine.ops.composition import times, to_nodes
from engine.ops.elementwise_grid import define_formula

CT = ast.Name("ct", ast.Load())
SHAPES: tuple[tuple[str, Shape], ...] = (("ragged", (7, 5)), ("long", (131,)), ("empty batch", (0, 5)), ("one", (1,)), ("scalar", ()))


def unary(name: str, formula: str, derivative: str | None, oracle: Callable[..., Any], description: str, *,
          over: tuple[float, float] = (-3.0, 3.0), avoid: tuple[float, ...] = (), **attributes: float) -> Op:
    """An op of one array. `attributes` are its float attributes with their defaults; `over` and `avoid` say where it is tested."""
    cases = tuple(Case(label, (Sample(shape, *over, avoid=avoid),), attributes) for label, shape in SHAPES)
    return _row(name, formula, ("x",), "y", (derivative,), oracle, description, cases, attributes)


def binary(name: str, formula: str, derivatives: tuple[str | None, str | None], oracle: Callable[..., Any], description: str, *,
           x: tuple[float, float] = (-3.0, 3.0), y: tuple[float, float] = (-3.0, 3.0), avoid: tuple[float, ...] = (), distinct: bool = False) -> Op:
    """An op of two arrays, which are brought to one shape first."""
    def case(label: str, shape: Shape) -> Case:
        if distinct:   # the two never come near each other
            return Case(label, (Sample(shape, 0.0, 1.0, distinct=True), Sample(shape, 1.5, 3.0) if label == "long" else Sample(shape, -3.0, -0.5)))
        return Case(label, (Sample(shape, *x, avoid=avoid), Sample(shape, *y, avoid=avoid)))

    return _row(name, formula, ("x", "y"), "z", derivatives, oracle, description, tuple(case(*shape) for shape in SHAPES), {})


def _row(name: str, formula: str, inputs: tuple[str, ...], output: str, derivatives: tuple[str | None, ...], oracle: Callable[..., Any],
         description: str, cases: tuple[Case, ...], attributes: Mapping[str, float]) -> Op:
    tree = parse(formula, (*inputs, *attributes))
    backs = [_derivative(f"{name}_grad" + (f"_{x}" if len(inputs) > 1 else ""), d, inputs, output, cases, attributes)
             for x, d in zip(inputs, derivatives, strict=True)]

    def vjp(node: Node, ct: Node) -> list[Node | None]:
        return [back(node, ct) for back in backs]

    def jvp(node: Node, tangents: Sequence[Node | None]) -> Node | None:
        parts = [back(node, t) for back, t in zip(backs, tangents, strict=True) if t is not None]
        terms = [p for p in parts if p is not None]
        return sum(terms[1:], start=terms[0]) if terms else None

    smooth = any(d is not None for d in derivatives)
    return fused(name, tree, inputs, oracle=oracle, attributes=attributes, cases=cases, formula=formula, description=description,
                 vjp=vjp if smooth else None, jvp=jvp if smooth else None)


Back = Callable[[Node, Node], Node | None]


def _derivative(name: str, formula: str | None, inputs: tuple[str, ...], output: str, cases: Sequence[Case], attributes: Mapping[str, float]) -> Back:
    """(node, ct) -> ct times the derivative: by an op of its own, or by an existing one where that is enough."""
    if formula is None:
        return lambda node, ct: None
    tree = times(CT, parse(formula, (*inputs, output, *attributes)))
    used = tuple(n for n in (*inputs, output) if n in names_in(tree))

    def values(node: Node) -> dict[str, Node]:
        return {n: node if n == output else node.inputs[inputs.index(n)] for n in used}

    if operations(tree) <= 1 and not isinstance(tree, ast.IfExp):
        def simple(node: Node, ct: Node) -> Node | None:
            made = to_nodes(tree, {"ct": ct, **values(node), **node.attrs})
            return made if isinstance(made, Node) else None

        return simple

    def sample(case: Case, operand: str) -> Sample:
        return case.inputs[inputs.index(operand)] if operand in inputs else case.inputs[0]

    op = fused(name, tree, ("ct", *used), attributes=attributes, public=False, formula=ast.unparse(tree), composed=True,
               description=f"The cotangent times the derivative {formula}.",
               cases=tuple(Case(c.name, (Sample(c.inputs[0].shape), *(sample(c, n) for n in used)), c.attrs) for c in cases))

    def back(node: Node, ct: Node) -> Node:
        return apply(op, ct, *values(node).values(), **node.attrs)

    return back


def fused(name: str, tree: ast.expr, operands: tuple[str, ...], *, attributes: Mapping[str, float], cases: tuple[Case, ...], formula: str,
          description: str, oracle: Callable[..., Any] | None = None, public: bool = True, composed: bool = False,
          vjp: Any = None, jvp: Any = None) -> Op:
    """The op and the kernel of one formula. Without an `oracle` numpy computes the formula: then differences of the forward oracle check it."""
    define(name, partial(kernel_text, tree, operands, tuple(attributes), numbers=public))
    define_formula(name, tree, operands, tuple(attributes))
    price = cost(tree)

    def shape(*nodes: Node, **given: float) -> tuple[Shape, str]:
        if unknown := set(given) - set(attributes):
            raise TypeError(f"{name} has no {', '.join(sorted(unknown))}; it has {', '.join(attributes) or 'no attributes'}")
        return same(name, nodes)

    def compose(node: Node) -> Node:
        made = to_nodes(tree, {**dict(zip(operands, node.inputs, strict=True)), **node.attrs})
        return made if isinstance(made, Node) else apply("broadcast", constant(made, node.dtype), shape=node.shape)

    def by_numpy(*arrays: Any, **given: float) -> Any:
        values = dict(zip(operands, arrays, strict=True))
        return np.broadcast_to(compute(tree, {**values, **given}), np.broadcast_shapes(*(np.shape(a) for a in arrays)))

    return register(Op(name, shape=shape, oracle=oracle or by_numpy, launch=lambda node: launch(node, name, tuple(attributes), price),
                       vjp=vjp, jvp=jvp, compose=compose if composed else None, cases=cases, broadcasts=True, formula=formula,
                       description=description, public=public, defaults=attributes))


def same(name: str, nodes: Sequence[Node]) -> tuple[Shape, str]:
    """The one shape and float type that all nodes have."""
    first = nodes[0]
    for node in nodes:
        if node.dtype not in FLOATS or node.dtype != first.dtype:
            raise DtypeError(f"{name} takes floats of one type, found {' and '.join(sorted({n.dtype for n in nodes}))}; cast them first")
        if node.shape != first.shape:
            raise ShapeError(f"{name} takes arrays of one shape, found {' and '.join(str(list(n.shape)) for n in nodes)}")
    return first.shape, first.dtype


# ---------------------------------------------------------------- launches

def launch(node: Node, kernel: str, attributes: tuple[str, ...], price: float) -> list[Launch]:
    """One elementwise launch, its operands read where they are: a broadcast that is rows or columns of one array is never made."""
    row, found = 0, []
    for source in node.inputs:
        operand, length, steps = source, 0, None
        while source.op.name == "broadcast":
            source = source.inputs[0]
            pattern = stretch(source.shape, node.shape)
            if pattern and (not pattern[0] or not row or row == pattern[0]):
                operand, length, steps = source, pattern[0], pattern[1:]
        row = row or length
        found.append((operand, steps))
    words: list[Any] = [node, row]
    for operand, steps in found:
        words += [operand, *(steps or (row, 1))]
    words += [float(node.attrs[a]) for a in attributes]
    return [Launch(kernel, node.dtype, tuple(words), node.size, grain=max(row, 1), cost=price, elementwise=True)]


def stretch(source: Shape, shape: Shape) -> tuple[int, int, int] | None:
    """(row length, row step, column step) to read `source` as `shape`: one number (row length 0), one row for all, one number per row; or None."""
    if count(source) == 1:
        return 0, 0, 0
    padded = (1,) * (len(shape) - len(source)) + source
    for i in range(len(shape) + 1):
        length = count(shape[i:])
        if padded[i:] == shape[i:] and count(padded[:i]) == 1:
            return length, 0, 1
        if padded[:i] == shape[:i] and count(padded[i:]) == 1:
            return length, 1, 0
    return None
