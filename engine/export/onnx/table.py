"""The table: a row for each op. An op without one is written in the smaller ops that it is made of, or that its formula is made of.

`ABSENT` lists the public ops that no model can be exported with, and why.
"""

from __future__ import annotations

from engine.core import Node, apply, constant
from engine.export.onnx import elementwise, parts, recurrent, windows
from engine.export.onnx.writer import Row, Unwritable
from engine.kernels.formula import parse
from engine.ops.composition import to_nodes

TABLE: dict[str, Row] = {**elementwise.ROWS, **parts.ROWS, **windows.ROWS}
ABSENT = {
    "uniform": "random numbers", "normal": "random numbers", "bernoulli": "random numbers",
    "ctc": "a loss along time", "scatter_add": "what only derivatives need",
}
OPERANDS = {1: ("x",), 2: ("x", "y")}


def smaller(node: Node) -> Node:
    """The node in smaller ops. Raises Unwritable where there are none."""
    op = node.op
    if op.name in ABSENT:
        raise Unwritable(node, f"it uses {op.name} ({ABSENT[op.name]}), which has no ONNX form")
    if op.compose is not None:
        return op.compose(node)
    if op.broadcasts and len(node.inputs) in OPERANDS:
        names = OPERANDS[len(node.inputs)]
        made = to_nodes(parse(op.formula, (*names, *op.defaults)), {**dict(zip(names, node.inputs, strict=True)), **node.attrs})
        return made if isinstance(made, Node) else apply("broadcast", constant(made, node.dtype), shape=node.shape)
    raise Unwritable(node, f"it uses {op.name}, which has no ONNX form")


SMALLER = Row(write=lambda writer, node, names: names[0], reads=lambda node: [smaller(node)])


def row_of(node: Node) -> Row:
    name = node.op.name
    found = recurrent.row_of(node) if name in recurrent.GATES else elementwise.SINGLE.get(name) if node.dtype == "float32" else None
    return found or TABLE.get(name, SMALLER)
