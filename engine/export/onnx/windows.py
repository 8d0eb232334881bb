"""Rows of convolutions and pooling. ONNX has channels before the axes that windows move over; here they come last."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.core import Node
from engine.export.onnx.writer import Row, Writer
from engine.ops.convolution import DEFAULTS, slide_of
from engine.ops.pooling import Windows


def _first(writer: Writer, name: str, rank: int) -> str:
    """Channels before the other axes."""
    return writer.put("Transpose", name, perm=[0, rank + 1, *range(1, rank + 1)])


def _last(writer: Writer, name: str, rank: int) -> str:
    return writer.put("Transpose", name, perm=[0, *range(2, rank + 2), 1])


def _laid(writer: Writer, weight: Node) -> str:
    """A kernel [axes..., channels, columns] as ONNX has it: [columns, channels, axes...]."""
    rank = weight.ndim - 2
    return writer.array(np.transpose(writer.value(weight), (rank + 1, rank, *range(rank))), f"{weight.name}.laid" if weight.name else "")


def _conv(writer: Writer, node: Node, names: list[str]) -> str:
    rank, (_, weight, *bias) = node.ndim - 2, node.inputs
    slide = slide_of(rank, *(node.attrs[name] for name in DEFAULTS))
    more = [writer.array(writer.value(b), b.name) if b not in writer.names else writer.names[b] for b in bias]
    y = writer.put("Conv", _first(writer, names[0], rank), _laid(writer, weight), *more, strides=list(slide.stride), dilations=list(slide.dilation),
                   pads=[*slide.low, *slide.high], group=slide.groups, kernel_shape=list(weight.shape[:-2]))
    return _last(writer, y, rank)


def _transposed(writer: Writer, node: Node, names: list[str]) -> str:
    """What is left of `lengths` beyond the spread of the last kernel is output_padding: zeros."""
    rank, (x, weight) = node.ndim - 2, node.inputs
    slide = slide_of(rank, *(node.attrs[name] for name in DEFAULTS))
    spread = [(n - 1) * s + (k - 1) * d + 1 - a - b for n, s, k, d, a, b in
              zip(x.shape[1:-1], slide.stride, weight.shape[:-2], slide.dilation, slide.low, slide.high, strict=True)]
    beyond = [n - m for n, m in zip(node.attrs["lengths"], spread, strict=True)]
    y = writer.put("ConvTranspose", _first(writer, names[0], rank), _laid(writer, weight), strides=list(slide.stride),
                   dilations=list(slide.dilation), pads=[*slide.low, *slide.high], group=slide.groups, kernel_shape=list(weight.shape[:-2]),
                   output_padding=beyond)
    return _last(writer, y, rank)


def _pool(op: str, around: float) -> Row:
    """Padding is put there by a node of its own: what ONNX's own pools make of it differs between programs."""
    def write(writer: Writer, node: Node, names: list[str]) -> str:
        x, windows = node.inputs[0], Windows.of(**node.attrs)
        rank, name = x.ndim - 2, names[0]
        if any((*windows.low, *windows.high)):
            name = writer.put("Pad", name, writer.ints((0, *windows.low, 0, 0, *windows.high, 0)), writer.number(around, node.dtype), mode="constant")
        lengths = [n + a + b for n, a, b in zip(x.shape[1:-1], windows.low, windows.high, strict=True)]
        if lengths == list(windows.window):
            return _whole(writer, op, name, rank)
        y = writer.put(op, _first(writer, name, rank), kernel_shape=list(windows.window), strides=list(windows.stride))
        return _last(writer, y, rank)

    return Row(write)


def _whole(writer: Writer, op: str, name: str, rank: int) -> str:
    """One window over everything is a reduction."""
    return writer.put("ReduceMax" if op == "MaxPool" else "ReduceMean", name, writer.ints(range(1, rank + 1)), keepdims=1)


def _of_input(node: Node) -> Sequence[Node]:
    return node.inputs[:1]      # weights are laid out anew


ROWS: dict[str, Row] = {"conv": Row(_conv, _of_input), "conv_input_grad": Row(_transposed, _of_input),
                        "max_pool": _pool("MaxPool", float("-inf")), "mean_pool": _pool("AveragePool", 0.0)}
