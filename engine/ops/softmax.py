"""softmax and its kin along one axis, kept whole: the greatest element is taken away first, so nothing overflows.

In a kernel a block of rows goes through exp as one run of numbers, because rows are often shorter than a vector.
"""

# pyright: reportUndefinedVariable=false
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from engine import special
from engine.core import Case, Launch, Node, Op, Sample, Scratch, Shape, apply, count, register
from engine.kernels.library import kernel
from engine.ops import softmax_grid  # noqa: F401
from engine.ops.elementwise import same
from engine.ops.movement import move, strides
from engine.ops.reduction import Axis, axes_of, reduced, spread
from engine.ops.shape import axis_of

SUMS = ("contract", "reassoc", "nsz")


@kernel("softmax", fastmath=SUMS)
def softmax_kernel(arena, words, begin, end):
    """y = exp(x - max) / sum. Words: out, in, row length."""
    n = words[2]
    block = max(1, 2048 // max(n, 1))
    for first in range(begin, end, block):
        rows = min(block, end - first)
        y = view(arena, words[0] + first * n * WIDTH, real)
        for r in range(rows):
            x = view(arena, words[1] + (first + r) * n * WIDTH, real)
            top = greatest(x, n)
            if top == INFINITY:       # all of it goes to the infinite ones
                for i in range(n):
                    store(y, r * n + i, select(load(x, i) == INFINITY, 0.0, select(isnan(load(x, i)), NAN, -INFINITY)))
            else:
                for i in range(n):
                    store(y, r * n + i, load(x, i) - top)
        for i in range(rows * n):
            y[i] = exp(y[i])
        for r in range(rows):
            total = 0.0
            for i in range(n):
                total += y[r * n + i]
            scale = 1.0 / total
            for i in range(n):
                y[r * n + i] *= scale


@kernel("log_softmax", fastmath=SUMS)
def log_softmax_kernel(arena, words, begin, end):
    """y = x - max - log(sum(exp(x - max))). Words: out, in, row length."""
    n = words[2]
    for r in range(begin, end):
        x = view(arena, words[1] + r * n * WIDTH, real)
        y = view(arena, words[0] + r * n * WIDTH, real)
        top = greatest(x, n)
        total = 0.0
        for i in range(n):
            total += exp(load(x, i) - top)
        shift = log(total)
        for i in range(n):
            store(y, i, (load(x, i) - top) - shift)


@kernel("logsumexp", fastmath=SUMS)
def logsumexp_kernel(arena, words, begin, end):
    """out[r] = max + log(sum(exp(x - max))). Words: out, in, row length."""
    n = words[2]
    out = view(arena, words[0], real)
    for r in range(begin, end):
        x = view(arena, words[1] + r * n * WIDTH, real)
        top = greatest(x, n)
        total = 0.0
        for i in range(n):
            total += exp(load(x, i) - top)
        out[r] = top + log(total) if isfinite(top) else top


@kernel("softmax_grad", fastmath=SUMS)
def softmax_grad_kernel(arena, words, begin, end):
    """out = y (ct - sum(ct y)). Words: out, ct, y, row length."""
    n = words[3]
    for r in range(begin, end):
        ct = view(arena, words[1] + r * n * WIDTH, real)
        y = view(arena, words[2] + r * n * WIDTH, real)
        out = view(arena, words[0] + r * n * WIDTH, real)
        total = 0.0
        for i in range(n):
            total += load(ct, i) * load(y, i)
        for i in range(n):
            store(out, i, load(y, i) * (load(ct, i) - total))


@kernel("log_softmax_grad", fastmath=SUMS)
def log_softmax_grad_kernel(arena, words, begin, end):
    """out = ct - exp(y) sum(ct). Words: out, ct, y, row length."""
    n = words[3]
    for r in range(begin, end):
        ct = view(arena, words[1] + r * n * WIDTH, real)
        y = view(arena, words[2] + r * n * WIDTH, real)
        out = view(arena, words[0] + r * n * WIDTH, real)
        total = 0.0
        for i in range(n):
            total += load(ct, i)
        for i in range(n):
            store(out, i, load(ct, i) - exp(load(y, i)) * total)


# ---------------------------------------------------------------- launches: the axis is brought last, where it is not

def _along(kernel: str, node: Node, axes: Sequence[int], price: float) -> list[Launch]:
    """Launches of a kernel over rows of all inputs (of one shape) along `axes`; the output has that shape, or one number per row."""
    shape = node.inputs[0].shape
    length = count(shape[a] for a in axes)
    rows = count(n for i, n in enumerate(shape) if i not in axes)
    order = (*(i for i in range(len(shape)) if i not in axes), *axes)
    last = order == tuple(range(len(shape)))
    whole = node.shape == shape and node.op.name != "logsumexp"
    turned = tuple(shape[a] for a in order)
    size = count(shape) * np.dtype(node.dtype).itemsize
    before, sources = [], list[Any](node.inputs)
    if not last:
        steps = strides(shape)
        sources = [Scratch(size) for _ in node.inputs]
        before = [move(node.dtype, s, x, turned, in_steps=[steps[a] for a in order]) for s, x in zip(sources, node.inputs, strict=True)]
    out: Any = Scratch(size) if whole and not last else node
    middle = Launch(kernel, node.dtype, (out, *sources, length), rows, cost=price * length + 2)
    steps = strides(turned)
    after = [move(node.dtype, node, out, shape, in_steps=[steps[order.index(i)] for i in range(len(shape))])] if out is not node else []
    return [*before, middle, *after]


def _along_axis(price: float) -> Callable[[Node], list[Launch]]:
    return lambda node: _along(node.op.name, node, (axis_of(node.attrs["axis"], node.ndim, node.op.name),), price)


# ---------------------------------------------------------------- softmax and log_softmax

def _shape(name: str) -> Callable[..., tuple[Shape, str]]:
    def shape(*nodes: Node, axis: int = -1) -> tuple[Shape, str]:
        axis_of(axis, nodes[0].ndim, name)
        return same(name, nodes)

    return shape


def _cases(inputs: int = 1, low: float = -2.0, high: float = 2.0) -> tuple[Case, ...]:
    return tuple(Case(name, (Sample(shape),) * (inputs - 1) + (Sample(shape, low, high),), {"axis": axis}) for name, shape, axis in (
        ("rows", (7, 5), -1), ("over rows", (7, 5), 0), ("middle", (2, 6, 3), 1), ("empty batch", (0, 4), 1), ("one", (1,), 0),
        ("long", (3, 133), 1)))


def _total(node: Node, x: Node) -> Node:
    return apply("sum", x, axis=node.attrs["axis"], keepdims=True)


def _softmax_compose(node: Node) -> Node:
    x, = node.inputs
    powers = apply("exp", x - apply("max", x, axis=node.attrs["axis"], keepdims=True))
    return powers / _total(node, powers)


def _log_softmax_compose(node: Node) -> Node:
    x, = node.inputs
    shifted = x - apply("max", x, axis=node.attrs["axis"], keepdims=True)
    return shifted - apply("log", _total(node, apply("exp", shifted)))


def _keep(name: str, compose: Callable[[Node], Node], grad_compose: Callable[[Node], Node], oracle: Any, grad_oracle: Any, jvp: Any,
          formula: str) -> None:
    grad = register(Op(f"{name}_grad", shape=_shape(f"{name}_grad"), oracle=grad_oracle, launch=_along_axis(0.4), compose=grad_compose,
                       cases=_cases(2, -2.0, -0.2), defaults={"axis": -1}, public=False, description=f"The cotangent carried back through {name}."))
    register(Op(name, shape=_shape(name), oracle=oracle, launch=_along_axis(1.0), compose=compose, cases=_cases(), defaults={"axis": -1},
                formula=formula, vjp=lambda node, ct: [apply(grad, ct, node, axis=node.attrs["axis"])],
                jvp=lambda node, tangents: None if tangents[0] is None else jvp(node, tangents[0]), description=f"{formula} along an axis."))


_keep("softmax", _softmax_compose, lambda node: node.inputs[1] * (node.inputs[0] - _total(node, node.inputs[0] * node.inputs[1])),
      lambda x, axis=-1: special.softmax(x, axis), lambda ct, y, axis=-1: y * ct - y * np.sum(y * ct, axis, keepdims=True),
      lambda node, t: apply("softmax_grad", t, node, axis=node.attrs["axis"]), "exp(x) / sum(exp(x))")
_keep("log_softmax", _log_softmax_compose, lambda node: node.inputs[0] - apply("exp", node.inputs[1]) * _total(node, node.inputs[0]),
      lambda x, axis=-1: special.log_softmax(x, axis), lambda ct, y, axis=-1: ct - np.exp(y) * np.sum(ct, axis, keepdims=True),
      lambda node, t: t - _total(node, apply("exp", node) * t), "x - log(sum(exp(x)))")


# ---------------------------------------------------------------- logsumexp

def _logsumexp_shape(x: Node, axis: Axis = None, keepdims: bool = False) -> tuple[Shape, str]:
    axes = axes_of(x, axis, "logsumexp")
    return reduced(x.shape, axes, keepdims), same("logsumexp", (x,))[1]


register(Op(
    "logsumexp", shape=_logsumexp_shape, defaults={"axis": None, "keepdims": False}, formula="log(sum(exp(x)))",
    description="log(sum(exp(x))) along axes.",
    oracle=lambda x, axis=None, keepdims=False: special.logsumexp(x, axis=axis, keepdims=keepdims),
    launch=lambda node: _along("logsumexp", node, axes_of(node.inputs[0], node.attrs["axis"], "logsumexp"), 0.8),
    vjp=lambda node, ct: [spread(node, ct) * apply("exp", node.inputs[0] - spread(node, node))],
    jvp=lambda node, tangents: None if tangents[0] is None else
    apply("sum", apply("exp", node.inputs[0] - spread(node, node)) * tangents[0], **node.attrs),
    cases=(Case("rows", (Sample((7, 5)),), {"axis": 1}), Case("over rows", (Sample((7, 5)),), {"axis": 0, "keepdims": True}),
           Case("total", (Sample((7, 5)),)), Case("apart", (Sample((3, 2, 4)),), {"axis": (0, 2)}),
           Case("empty batch", (Sample((0, 4)),), {"axis": 1}), Case("one", (Sample((1,)),)))))
