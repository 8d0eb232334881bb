"""Forward mode: tangents are nodes and travel with the values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from engine.autodiff.reverse import pullback
from engine.core import FLOATS, Node, leaf
from engine.graph.walk import order


def pushforward(outputs: Sequence[Node], tangents: Mapping[Node, Node | None]) -> list[Node | None]:
    """The directional derivative of each output, given the tangents of some nodes, which are taken as independent. None is a tangent of zeros.

    An op's own `jvp` comes first, then its parts (`compose`), then its `vjp` turned round, which is linear in what it is given.
    """
    found: dict[Node, Node | None] = dict(tangents)
    for node in order(outputs, tangents.__contains__):
        if node in found or node.dtype not in FLOATS:
            continue
        parts = [found.get(n) for n in node.inputs]
        if any(p is not None for p in parts):
            found[node] = _tangent(node, parts)
    return [found.get(node) for node in outputs]


def _tangent(node: Node, parts: Sequence[Node | None]) -> Node | None:
    if node.op.jvp is not None:
        return node.op.jvp(node, parts)
    if node.op.compose is not None:
        return pushforward([node.op.compose(node)], dict(zip(node.inputs, parts, strict=True)))[0]
    if node.op.vjp is None:
        return None
    probe = leaf(node.shape, node.dtype)
    pairs = [(back, t) for back, t in zip(node.op.vjp(node, probe), parts, strict=True) if back is not None and t is not None]
    turned = [pullback(back, t, [probe])[0] for back, t in pairs]
    terms = [t for t in turned if t is not None]
    return sum(terms[1:], start=terms[0]) if terms else None
