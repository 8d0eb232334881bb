"""Rows of recurrent ops, as ONNX's RNN, GRU and LSTM. Ours take the weighted sums of the input, ONNX's the input and its weights: these are found
again in the nodes that made the sums. Only the states come out, not the gates that ours keep for the way back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.core import FLOATS, Node, apply
from engine.export.onnx.elementwise import TYPES
from engine.export.onnx.writer import Row, Writer

GATES = {"rnn_tanh": ("RNN", [0]), "rnn_relu": ("RNN", [0]), "gru": ("GRU", [1, 0, 2]), "gru_v3": ("GRU", [1, 0, 2]), "lstm": ("LSTM", [0, 3, 1, 2])}
"""ONNX's name, and which of our gates stand where in its order."""


@dataclass(frozen=True)
class Sums:
    """What sums [batch, steps, gates * units] are made of. Without a weight they are taken as they are."""

    x: Node
    weight: Node | None = None
    bias: Node | None = None


def sums_of(node: Node) -> Sums:
    """x @ weight + bias, however the layer wrote it: over rows laid end to end, or over the rows of a table before they were looked up."""
    table = node.inputs[0] if node.op.name == "gather" else None
    if table is None and node.op.name != "reshape":
        return Sums(node)
    product, bias = node.inputs[0], None
    if product.op.name == "add" and product.inputs[1].op.name == "broadcast":
        product, bias = product.inputs[0], product.inputs[1].inputs[0]
    if product.op.name != "matmul" or product.attrs["transpose_a"] or product.attrs["transpose_b"]:
        return Sums(node)
    rows, weight = product.inputs
    if table is not None:
        return Sums(apply("gather", rows, node.inputs[1]), weight, bias)
    return Sums(apply("reshape", rows, shape=(*node.shape[:2], rows.shape[-1])), weight, bias)


def _reads(node: Node) -> Sequence[Node]:
    return [sums_of(node.inputs[0]).x, *node.inputs[2:]]


def _blocks(value: np.ndarray, order: Sequence[int]) -> np.ndarray:
    """[k, gates * units] as ONNX has it: [1, gates * units, k], the gates in its order."""
    parts = np.split(value, len(order), axis=-1)
    return np.concatenate([parts[k] for k in order], axis=-1).T[None]


def _write(writer: Writer, node: Node, names: list[str]) -> str:
    kind, order = GATES[node.op.name]
    found, recurrent = sums_of(node.inputs[0]), writer.value(node.inputs[1])
    units, steps, more = recurrent.shape[0], node.shape[1], node.inputs[2:]
    weight = np.eye(recurrent.shape[1], dtype=node.dtype) if found.weight is None else writer.value(found.weight)
    bias = np.zeros(recurrent.shape[1:], node.dtype) if found.bias is None else writer.value(found.bias)
    both = np.concatenate([_blocks(bias[None], order)[:, :, 0], np.zeros((1, bias.size), node.dtype)], axis=1)
    label = found.weight.name.removesuffix("weight") if found.weight is not None and found.weight.name else ""
    arrays = [writer.array(value, f"{label}{name}" if label else "") for name, value in
              (("W", _blocks(weight, order)), ("R", _blocks(recurrent, order)), ("B", both))]
    lengths = [writer.put("Cast", names[1], to=TYPES["int32"])] if more else []
    attrs = {"hidden_size": units, "direction": "reverse" if node.attrs["reverse"] else None,
             "activations": ["Relu"] if node.op.name == "rnn_relu" else None, "linear_before_reset": 1 if node.op.name == "gru" else None}
    x = writer.put("Transpose", names[0], perm=[1, 0, 2])
    outputs = (writer._new(kind), writer._new(f"{kind}_end"))
    y, end = writer.several(kind, x, *arrays, *lengths, names=outputs, **attrs)
    states = writer.put("Transpose", writer.put("Squeeze", y, writer.ints([1])), perm=[1, 0, 2])
    if node.shape[-1] != units:
        writer.narrow[node] = units
    return _held(writer, states, end, lengths[0], steps) if lengths and not node.attrs["reverse"] else states


def _held(writer: Writer, states: str, end: str, lengths: str, steps: int) -> str:
    """From its length on a row's state stays what it is; ONNX puts zeros there."""
    places = writer.array(np.arange(steps, dtype=np.int32).reshape(1, steps, 1))
    on = writer.put("Less", places, writer.put("Unsqueeze", lengths, writer.ints([1, 2])))
    return writer.put("Where", on, states, writer.put("Transpose", end, perm=[1, 0, 2]))


WHOLE = Row(_write, _reads)


def row_of(node: Node) -> Row | None:
    """The row of a recurrent op; None where its steps are written one by one: from given states, and for float64, which onnxruntime's have not."""
    return WHOLE if node.dtype == "float32" and not any(x.dtype in FLOATS for x in node.inputs[2:]) else None
