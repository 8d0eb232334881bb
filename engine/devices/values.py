"""Values asked of nodes: each graph of one signature has one plan, made once; leaves are copied in, outputs copied out."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from engine import env
from engine.core import Node, leaf, topological
from engine.devices.cpu.machine import Table, arena
from engine.devices.cpu.validate import validate
from engine.errors import TrainyardError
from engine.graph.rewrite import simplify
from engine.graph.signature import signature
from engine.plan.memory import Cursor
from engine.plan.plan import make

MOST_PLANS = 256

_plans: OrderedDict[object, Compiled] = OrderedDict()
_lock = threading.RLock()


class Compiled:
    """A plan with an arena of its own, for one graph: `leaves` in, `outputs` out."""

    def __init__(self, outputs: Sequence[Node], leaves: Sequence[Node]):
        cursor = Cursor(0)
        sizes = [node.size * np.dtype(node.dtype).itemsize for node in leaves]
        self.leaves = [(cursor.take(nbytes), nbytes) for nbytes in sizes]
        plan = make(outputs, {node: offset for node, (offset, _) in zip(leaves, self.leaves, strict=True)}, cursor.at)
        self.arena = arena(cursor.at + plan.nbytes)
        for offset, value in plan.fixed:
            self.arena[offset: offset + value.nbytes] = value.reshape(-1).view(np.uint8)
        self.outputs = [(plan.at(node), node.shape, np.dtype(node.dtype)) for node in outputs]
        self.plan, self.table = plan, Table([plan])

    def run(self, values: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The outputs for these values of the leaves, as new arrays."""
        for (offset, nbytes), value in zip(self.leaves, values, strict=True):
            if nbytes:
                self.arena[offset: offset + nbytes] = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
        if env.VALIDATE:
            validate(self.plan, self.arena)
        self.table.run(self.arena, *self.table.spans[0])
        return [self.arena[at: at + int(np.prod(shape)) * dtype.itemsize].view(dtype).reshape(shape).copy() for at, shape, dtype in self.outputs]


def compute(nodes: Sequence[Node]) -> None:
    """Give each node its value."""
    with _lock:
        key, leaves = signature(nodes)
        values = [_value(node) for node in leaves]
        plan = _plans.get(key)
        if plan is None:
            plan = _plans[key] = _compile(nodes, leaves)
            if len(_plans) > MOST_PLANS:
                _plans.popitem(last=False)
        _plans.move_to_end(key)
        for node, value in zip(nodes, plan.run(values), strict=True):
            node.value = value


def _value(node: Node) -> np.ndarray:
    if node.value is None:
        raise TrainyardError(f"{node!r} has no value: this graph was made of shapes only")
    return node.value


def _compile(nodes: Sequence[Node], leaves: Sequence[Node]) -> Compiled:
    """A plan in which nodes that already have a value are leaves."""
    copies: dict[Node, Node] = {node: leaf(node.shape, node.dtype, name=node.name) for node in leaves}
    for node in topological(nodes):
        if node not in copies:
            inputs = tuple(copies[n] for n in node.inputs)
            copies[node] = Node(node.op, inputs, node.attrs, node.shape, node.dtype)
    return Compiled(simplify([copies[n] for n in nodes]), [copies[n] for n in leaves])
