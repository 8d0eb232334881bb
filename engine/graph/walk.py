"""The order of a graph, up to where the asker wants to look."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from engine.core import LEAF, Node


def known(node: Node) -> bool:
    """Whether a node's value comes from outside the graph, or was computed before and kept."""
    return node.value is not None or node.op is LEAF


def order(outputs: Iterable[Node], stop: Callable[[Node], bool] = known) -> list[Node]:
    """The nodes that `outputs` depend on, inputs before users, in a fixed order. Nodes where `stop` holds are listed; what they depend on is not."""
    found: list[Node] = []
    seen: set[Node] = set()
    stack: list[tuple[Node, bool]] = [(node, False) for node in reversed(list(outputs))]
    while stack:
        node, done = stack.pop()
        if done:
            found.append(node)
        elif node not in seen:
            seen.add(node)
            if not node.inputs or stop(node):
                found.append(node)
            else:
                stack.append((node, True))
                stack.extend((n, False) for n in reversed(node.inputs) if n not in seen)
    return found
