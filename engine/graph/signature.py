"""The signature of a graph: equal for graphs that compute the same in the same way, whatever arrays hang on their leaves.

Plans are kept under it, so a function traced again finds the plan of the last time.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from engine.core import CONSTANT, LEAF, Node


def signature(outputs: Iterable[Node]) -> tuple[Hashable, list[Node]]:
    """A key, and the leaves in the order in which the key numbers them. A node with a value is a leaf.

    The key holds each node's op, inputs and attributes, the shapes and types of leaves, and which nodes are put out.
    """
    numbers: dict[Node, int] = {}
    leaves: list[Node] = []
    parts: list[Hashable] = []
    stack = list(outputs)
    wanted = tuple(stack)
    stack.reverse()
    while stack:
        node = stack[-1]
        if node in numbers:
            stack.pop()
            continue
        op = node.op
        if node.value is not None or op is LEAF:
            leaves.append(node)
            parts.append((node.shape, node.dtype))
        elif op is CONSTANT:
            parts.append((repr(node.attrs["value"]), node.dtype))   # as text: 0.0 equals -0.0, NaN not NaN
        else:
            inputs = node.inputs
            try:
                places = [numbers[n] for n in inputs]
            except KeyError:
                stack.extend([n for n in reversed(inputs) if n not in numbers])
                continue
            parts.append((op.name, *places, *node.attrs.items()))
        numbers[node] = len(numbers)
        stack.pop()
    return (tuple(parts), tuple([numbers[n] for n in wanted])), leaves
