"""Reverse mode: from the derivative with respect to an output, those with respect to what it depends on. Derivatives are nodes.

An op's own `vjp` comes first; an op that has none is taken apart by its `compose`. So a kept-whole op uses its whole backward op
for first derivatives, and second derivatives go through the parts of that backward op.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from engine.core import FLOATS, Node, apply, constant
from engine.graph.walk import order


def pullback(output: Node, ct: Node | None, wrt: Sequence[Node]) -> list[Node | None]:
    """The derivative of sum(ct * output) with respect to each of `wrt`, which are taken as independent; None where there is no way to one.

    `ct` has the output's shape; None stands for ones.
    """
    ends = set(wrt)
    nodes = active(output, ends)
    reached = set(nodes)
    if output not in reached:
        return [None] * len(wrt)
    totals: dict[Node, Node] = {output: filled(1.0, output) if ct is None else ct}
    for node in reversed(nodes):
        if node in ends or node not in totals:
            continue
        for source, part in _contributions(node, totals.pop(node)):
            if source in reached:
                totals[source] = apply("add", totals[source], part) if source in totals else part
    return [totals.get(node) for node in wrt]


def active(output: Node, ends: set[Node]) -> list[Node]:
    """The float nodes between `ends` and `output`, both included, inputs before users."""
    found: set[Node] = set()
    nodes = order([output], ends.__contains__)
    for node in nodes:
        if node.dtype in FLOATS and (node in ends or any(n in found for n in node.inputs)):
            found.add(node)
    return [node for node in nodes if node in found]


def filled(number: float, like: Node) -> Node:
    """One number in the shape and type of a node."""
    scalar = constant(number, like.dtype)
    return apply("broadcast", scalar, shape=like.shape) if like.shape else scalar


def _contributions(node: Node, ct: Node) -> Iterator[tuple[Node, Node]]:
    """What a node gives to the derivative of each of its inputs. An op with neither `vjp` nor `compose` is constant between its steps."""
    if node.op.vjp is not None:
        inputs, parts = node.inputs, node.op.vjp(node, ct)
    elif node.op.compose is not None:
        inputs = tuple(dict.fromkeys(node.inputs))
        parts = pullback(node.op.compose(node), ct, inputs)
    else:
        return
    for source, part in zip(inputs, parts, strict=True):
        if part is not None:
            yield source, part
