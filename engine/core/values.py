"""Values asked of nodes, and the order in which they come."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from engine.errors import TrainyardError

if TYPE_CHECKING:
    from engine.core.node import Node

_evaluator: list[Callable[[Sequence[Node]], None]] = []


def bind(evaluator: Callable[[Sequence[Node]], None]) -> None:
    """Say who computes values (engine/__init__ does, once)."""
    _evaluator[:] = [evaluator]


def evaluate(nodes: Sequence[Node]) -> list[np.ndarray]:
    """The values of nodes, computed together and kept on them."""
    missing = [n for n in nodes if n.value is None]
    if missing:
        if not _evaluator:
            raise TrainyardError("nothing is bound to compute values; import engine, not engine.core alone")
        _evaluator[0](missing)
    return [n.value for n in nodes]  # type: ignore[misc]


def topological(outputs: Iterable[Node]) -> list[Node]:
    """All nodes that `outputs` depend on, inputs before users, in a fixed order."""
    order: list[Node] = []
    seen: set[int] = set()
    stack: list[tuple[Node, bool]] = [(n, False) for n in reversed(list(outputs))]
    while stack:
        node, done = stack.pop()
        if done:
            order.append(node)
        elif id(node) not in seen:
            seen.add(id(node))
            stack.append((node, True))
            stack.extend((n, False) for n in reversed(node.inputs) if id(n) not in seen)
    return order


def root(node: Node) -> Node:
    """The node whose bytes a reshape shows."""
    while node.op.name == "reshape":
        node = node.inputs[0]
    return node
