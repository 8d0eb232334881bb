"""Rows of ops that work on each element by itself. ONNX stretches operands as they lie, so broadcasts before them are not written."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from engine.core import Node, apply
from engine.export.onnx.writer import Row, Writer

PLAIN = {
    "add": "Add", "subtract": "Sub", "multiply": "Mul", "divide": "Div", "power": "Pow", "maximum": "Max", "minimum": "Min",
    "negative": "Neg", "abs": "Abs", "sign": "Sign", "floor": "Floor", "reciprocal": "Reciprocal", "identity": "Identity",
    "sqrt": "Sqrt", "exp": "Exp", "log": "Log", "sin": "Sin", "cos": "Cos", "tan": "Tan", "erf": "Erf",
    "sigmoid": "Sigmoid", "tanh": "Tanh", "softplus": "Softplus", "relu": "Relu", "softsign": "Softsign",
}
COMPARED = {"equal": "Equal", "less": "Less", "less_equal": "LessOrEqual", "greater": "Greater", "greater_equal": "GreaterOrEqual"}
TYPES = {"float32": 1, "uint8": 2, "int32": 6, "int64": 7, "bool": 9, "float64": 11}      # as ONNX numbers them


def operands(node: Node) -> Sequence[Node]:
    """The inputs without their broadcasts, unless the shape would be lost with them."""
    bare = [_bare(x) for x in node.inputs]
    return bare if np.broadcast_shapes(*(x.shape for x in bare)) == node.shape else [node.inputs[0], *bare[1:]]


def _bare(node: Node) -> Node:
    while node.op.name == "broadcast" and node.value is None:
        node = node.inputs[0]
    return node


def _row(write: Callable[[Writer, Node, list[str]], str]) -> Row:
    return Row(write, operands)


def _plain(op: str) -> Row:
    return _row(lambda writer, node, names: writer.put(op, *names))


def _compared(op: str) -> Row:
    return _row(lambda writer, node, names: writer.put("Cast", writer.put(op, *names), to=TYPES[node.dtype]))


def _not_equal(writer: Writer, node: Node, names: list[str]) -> str:
    return writer.put("Cast", writer.put("Not", writer.put("Equal", *names)), to=TYPES[node.dtype])


def _where(writer: Writer, node: Node, names: list[str]) -> str:
    return writer.put("Where", writer.put("Cast", names[0], to=TYPES["bool"]), *names[1:])


def _expm1(writer: Writer, node: Node, names: list[str]) -> str:
    """tanh(x / 2) * (exp(x) + 1), exact for small x too."""
    half, one = writer.number(0.5, node.dtype), writer.number(1.0, node.dtype)
    return writer.put("Mul", writer.put("Tanh", writer.put("Mul", names[0], half)), writer.put("Add", writer.put("Exp", names[0]), one))


def _log1p(writer: Writer, node: Node, names: list[str]) -> str:
    """2 atanh(x / (x + 2)) for small x, log(1 + x) for others."""
    x, (half, one, two) = names[0], (writer.number(n, node.dtype) for n in (0.5, 1.0, 2.0))
    small = writer.put("Less", writer.put("Abs", x), half)
    bounded = writer.put("Where", small, x, half)
    exact = writer.put("Mul", two, writer.put("Atanh", writer.put("Div", bounded, writer.put("Add", bounded, two))))
    return writer.put("Where", small, exact, writer.put("Log", writer.put("Add", x, one)))


ROWS: dict[str, Row] = {
    **{name: _plain(op) for name, op in PLAIN.items()}, **{name: _compared(op) for name, op in COMPARED.items()},
    "not_equal": _row(_not_equal), "where": _row(_where), "expm1": _row(_expm1), "log1p": _row(_log1p),
    "square": Row(lambda writer, node, names: writer.put("Mul", names[0], names[0]), operands),
    "rsqrt": Row(lambda writer, node, names: writer.put("Reciprocal", writer.put("Sqrt", names[0])), operands),
    "swish": Row(lambda writer, node, names: writer.put("Mul", names[0], names[1]), lambda node: [node.inputs[0], apply("sigmoid", node.inputs[0])]),
}
SINGLE: dict[str, Row] = {      # their numbers are float32 in ONNX: other models have the formula
    "leaky_relu": _row(lambda writer, node, names: writer.put("LeakyRelu", names[0], alpha=float(node.attrs["slope"]))),
    "trelu": _row(lambda writer, node, names: writer.put("ThresholdedRelu", names[0], alpha=float(node.attrs["theta"]))),
    "hard_swish": _row(lambda writer, node, names: writer.put("HardSwish", names[0])),
}
