"""The same values from fewer or better nodes: equal nodes become one, numbers are computed beforehand, and what undoes itself goes.

A rule looks at one node whose inputs are done and gives another for it, or None. Rules change rounding at most, never where NaN or infinity come out:
x * 0 stays unless x is known to be finite.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import numpy as np

from engine.core import CONSTANT, FLOATS, Node, apply, constant
from engine.graph.fuse import fuse
from engine.graph.walk import known, order

Rule = Callable[[Node], Node | None]
FINITE = ("equal", "not_equal", "less", "less_equal", "greater", "greater_equal", "one_hot")


def simplify(outputs: Sequence[Node]) -> list[Node]:
    """Nodes with the same values, shapes and types, from a simpler graph. Leaves, and nodes that have a value, stay the nodes they are."""
    rewriter = _Rewriter()
    for node in order(outputs):
        rewriter.settle(node)
    return fuse([rewriter.done[node] for node in outputs])


class _Rewriter:
    def __init__(self) -> None:
        self.done: dict[Node, Node] = {}
        self.pool: dict[Hashable, Node] = {}

    def settle(self, node: Node) -> Node:
        """What stands for a node; what a rule makes is settled in turn."""
        if node in self.done:
            return self.done[node]
        if known(node):
            result = node
        else:
            inputs = tuple(self.settle(n) for n in node.inputs)
            same = all(a is b for a, b in zip(inputs, node.inputs, strict=True))
            fresh = node if same else Node(node.op, inputs, node.attrs, node.shape, node.dtype, name=node.name)
            better = next((found for rule in (*RULES.get(node.op.name, ()), folded) if (found := rule(fresh)) is not None), None)
            result = self.pool.setdefault(_key(fresh), fresh) if better is None else self.settle(better)
            assert result.shape == node.shape and result.dtype == node.dtype, f"{node!r} was rewritten to {result!r}"
        self.done[node] = self.done[result] = result
        return result


def _key(node: Node) -> Hashable:
    if node.op is CONSTANT:
        return repr(node.attrs["value"]), node.dtype
    return node.op.name, node.inputs, tuple(node.attrs.items())


def number(node: Node) -> float | None:
    """The number that every element of a node is known to be."""
    while node.op.name in ("broadcast", "reshape") and node.value is None:
        node = node.inputs[0]
    return node.attrs["value"] if node.op is CONSTANT else None


def _everywhere(value: float, like: Node) -> Node:
    scalar = constant(value, like.dtype)
    return apply("broadcast", scalar, shape=like.shape) if like.shape else scalar


def folded(node: Node) -> Node | None:
    """An elementwise op of numbers is a number."""
    numbers = [number(n) for n in node.inputs]
    if not node.op.broadcasts or not numbers or any(n is None for n in numbers) or node.dtype not in FLOATS:
        return None
    with np.errstate(all="ignore"):
        value = np.asarray(node.op.oracle(*(np.asarray(n, node.dtype) for n in numbers), **node.attrs))
    return _everywhere(value.item(), node) if value.size == 1 else None


# ---------------------------------------------------------------- arithmetic

def _times(node: Node) -> Node | None:
    for x, other in (node.inputs, node.inputs[::-1]):
        match number(other):
            case 1:
                return x
            case -1:
                return apply("negative", x)
            case 0 if x.op.name in FINITE:
                return _everywhere(0.0, node)
    return None


def _plus(node: Node) -> Node | None:
    for x, other in (node.inputs, node.inputs[::-1]):
        if number(other) == 0:
            return x
        if _is(other, "negative"):
            return apply("subtract", x, other.inputs[0])
    return None


def _minus(node: Node) -> Node | None:
    x, y = node.inputs
    if number(y) == 0:
        return x
    if number(x) == 0:
        return apply("negative", y)
    return apply("add", x, y.inputs[0]) if _is(y, "negative") else None


def _over(node: Node) -> Node | None:
    return node.inputs[0] if number(node.inputs[1]) == 1 else None


def _to_the_power(node: Node) -> Node | None:
    x, exponent = node.inputs
    return {1: lambda: x, 2: lambda: apply("square", x)}.get(number(exponent), lambda: None)()   # type: ignore[call-overload]


def _undone(node: Node) -> Node | None:
    """-(-x) is x."""
    return node.inputs[0].inputs[0] if _is(node.inputs[0], node.op.name) else None


def _is(node: Node, name: str) -> bool:
    return node.op.name == name and node.value is None


# ---------------------------------------------------------------- shapes and types

def _as_it_is(node: Node) -> Node | None:
    """A change to the shape and type that a node has already."""
    x = node.inputs[0]
    return x if x.shape == node.shape and x.dtype == node.dtype else None


def _shape_of_shape(node: Node) -> Node | None:
    return apply("reshape", node.inputs[0].inputs[0], shape=node.shape) if _is(node.inputs[0], "reshape") else None


def _cast_of_cast(node: Node) -> Node | None:
    """A number widened on the way loses nothing there."""
    x = node.inputs[0]
    if not _is(x, "cast"):
        return None
    source = x.inputs[0]
    return apply("cast", source, dtype=node.dtype) if np.can_cast(source.dtype, x.dtype, "safe") else None


def _axes(node: Node) -> tuple[int, ...]:
    axes = node.attrs["axes"]
    return tuple(range(node.ndim))[::-1] if axes is None else tuple(a % node.ndim for a in axes)


def _turned_back(node: Node) -> Node | None:
    x, axes = node.inputs[0], _axes(node)
    if axes == tuple(range(node.ndim)):
        return x
    if not _is(x, "transpose"):
        return None
    inner = _axes(x)
    return apply("transpose", x.inputs[0], axes=tuple(inner[a] for a in axes))


def _turned_operands(node: Node) -> Node | None:
    """A product reads a transposed matrix as it lies."""
    operands, turns = list(node.inputs), [node.attrs["transpose_a"], node.attrs["transpose_b"]]
    for i, x in enumerate(node.inputs):
        n = x.ndim
        if _is(x, "transpose") and _axes(x) == (*range(n - 2), n - 1, n - 2):
            operands[i], turns[i] = x.inputs[0], not turns[i]
    if turns == [node.attrs["transpose_a"], node.attrs["transpose_b"]]:
        return None
    return apply("matmul", *operands, transpose_a=turns[0], transpose_b=turns[1])


# ---------------------------------------------------------------- ops kept whole

def _log_softmax(node: Node) -> Node | None:
    x = node.inputs[0]
    return apply("log_softmax", x.inputs[0], **x.attrs) if _is(x, "softmax") else None


def _cross_entropy(node: Node) -> Node | None:
    """-(targets * log_softmax(logits)).sum(-1) of rows of classes, with one-hot targets or any others."""
    total = node.inputs[0]
    if not _is(total, "sum") or total.attrs["axis"] not in (1, -1, (1,), (-1,)) or total.attrs["keepdims"] or not _is(total.inputs[0], "multiply"):
        return None
    for targets, logs in (total.inputs[0].inputs, total.inputs[0].inputs[::-1]):
        if _is(logs, "log_softmax") and logs.ndim == 2 and logs.attrs["axis"] in (1, -1):
            return apply("softmax_cross_entropy", logs.inputs[0], targets)
    return None


RULES: dict[str, tuple[Rule, ...]] = {
    "multiply": (_times,), "add": (_plus,), "subtract": (_minus,), "divide": (_over,), "power": (_to_the_power,),
    "negative": (_undone, _cross_entropy), "identity": (_as_it_is,), "log": (_log_softmax,), "matmul": (_turned_operands,),
    "reshape": (_as_it_is, _shape_of_shape), "broadcast": (_as_it_is,), "cast": (_as_it_is, _cast_of_cast), "transpose": (_turned_back,),
}
