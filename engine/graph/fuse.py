"""Products take in what follows them: fewer passes over the same numbers. Done last, when derivatives are made and nothing else is rewritten."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from engine.core import Node, apply
from engine.graph.walk import known, order
from engine.ops.matmul import in_registers


def fuse(outputs: Sequence[Node]) -> list[Node]:
    """Nodes with the same values, where products that have one user do its work too: a bias, relu, the way back through relu."""
    nodes = order(outputs)
    uses = Counter(n for node in nodes if not known(node) for n in node.inputs) + Counter(outputs)
    done: dict[Node, Node] = {}
    for node in nodes:
        inputs = node.inputs if known(node) else tuple(done[n] for n in node.inputs)
        same = all(a is b for a, b in zip(inputs, node.inputs, strict=True))
        fresh = node if same else Node(node.op, inputs, node.attrs, node.shape, node.dtype, name=node.name)
        better = None if known(node) else _fused(node, fresh, uses)
        done[node] = fresh if better is None else better
    return [done[node] for node in outputs]


def _fused(node: Node, fresh: Node, uses: Counter[Node]) -> Node | None:
    """`node` is as it was, with its number of uses; `fresh` has inputs that are done."""
    name = node.op.name
    if name == "add":
        return _biased(node, fresh, uses)
    if name == "relu" and uses[node.inputs[0]] == 1 and fresh.inputs[0].op.name == "affine":
        x = fresh.inputs[0]
        return Node(x.op, x.inputs, {**x.attrs, "relu": True}, x.shape, x.dtype, name=node.name)
    if name == "relu_grad":
        return _gated(node, fresh, uses)
    return None


def _biased(node: Node, fresh: Node, uses: Counter[Node]) -> Node | None:
    for i in (0, 1):
        before, x, row = node.inputs[i], fresh.inputs[i], fresh.inputs[1 - i]
        if _lone_product(before, x, uses) and row.op.name == "broadcast" and not known(row) and row.inputs[0].shape == x.shape[1:]:
            return apply("affine", *x.inputs, row.inputs[0], relu=False, **x.attrs)
    return None


def _gated(node: Node, fresh: Node, uses: Counter[Node]) -> Node | None:
    """relu's derivative takes the cotangent and relu's output, which is above zero exactly where its input is."""
    ct, y = fresh.inputs
    return apply("gated_product", *ct.inputs, y, **ct.attrs) if _lone_product(node.inputs[0], ct, uses) else None


def _lone_product(node: Node, fresh: Node, uses: Counter[Node]) -> bool:
    return fresh.op.name == "matmul" and not known(fresh) and uses[node] == 1 and in_registers(fresh)
