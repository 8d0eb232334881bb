"""Whether a graph is well formed: every node's shape and type are those that its op makes of its inputs."""

from __future__ import annotations

from collections.abc import Iterable

from engine.core import CONSTANT, LEAF, Node
from engine.errors import DtypeError, ShapeError
from engine.graph.walk import order


def check(outputs: Iterable[Node]) -> None:
    """Nothing, or a ShapeError or DtypeError that names the first node at fault and says what was expected."""
    for node in order(outputs, lambda n: n.op is LEAF):
        if node.value is not None and (node.value.shape != node.shape or node.value.dtype.name != node.dtype):
            raise ShapeError(f"{node!r} holds a value of {node.value.dtype.name}{list(node.value.shape)}")
        if node.op is LEAF or node.op is CONSTANT:
            continue
        shape, dtype = node.op.shape(*node.inputs, **node.attrs)
        if shape != node.shape:
            raise ShapeError(f"{node!r} says it has the shape {list(node.shape)}; {node.op.name} of its inputs has {list(shape)}")
        if dtype != node.dtype:
            raise DtypeError(f"{node!r} says it is {node.dtype}; {node.op.name} of its inputs is {dtype}")
