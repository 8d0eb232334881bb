"""The text of a graph: one line a node."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from engine.core import CONSTANT, LEAF, Node
from engine.graph.walk import order


def show(outputs: Iterable[Node] | Mapping[str, Node]) -> str:
    """One line a node, inputs first: its number, op, inputs and attributes, type and shape, and its name where it has one.

    `outputs` may be named: their names come last, one line each.
    """
    named = dict(outputs) if isinstance(outputs, Mapping) else {}
    nodes = list(named.values()) if isinstance(outputs, Mapping) else list(outputs)
    numbers: dict[Node, str] = {}
    lines = []
    for node in order(nodes, lambda n: n.op is LEAF):
        numbers[node] = f"%{len(numbers)}"
        name = f"  # {node.name}" if node.name else ""
        lines.append(f"{numbers[node]} = {_call(node, numbers)}  {node.dtype}{list(node.shape)}{name}")
    lines.extend(f"{name} -> {numbers[node]}" for name, node in named.items())
    return "\n".join(lines)


def _call(node: Node, numbers: Mapping[Node, str]) -> str:
    if node.op is CONSTANT:
        return repr(node.attrs["value"])
    attributes = [f"{name}={_text(value)}" for name, value in node.attrs.items() if value is not None and value is not False]
    arguments = [numbers[n] for n in node.inputs] + attributes
    return f"{node.op.name}({', '.join(arguments)})" if arguments else node.op.name


def _text(value: Any) -> str:
    return str(list(value)) if isinstance(value, tuple) else str(value)
