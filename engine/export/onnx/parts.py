"""Rows of shapes, parts, reductions, products and tables."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.core import Node
from engine.export.onnx.elementwise import TYPES
from engine.export.onnx.writer import LAST, Row, Unwritable, Writer
from engine.ops.reduction import axes_of

REDUCED = {"sum": "ReduceSum", "mean": "ReduceMean", "max": "ReduceMax", "min": "ReduceMin", "prod": "ReduceProd", "logsumexp": "ReduceLogSumExp"}


# ---------------------------------------------------------------- shapes

def _reshape(writer: Writer, node: Node, names: list[str]) -> str:
    return writer.put("Reshape", names[0], writer.ints(writer.lengths(node)))


def _transpose(writer: Writer, node: Node, names: list[str]) -> str:
    axes = node.attrs["axes"]
    return writer.put("Transpose", names[0], perm=list(range(node.ndim))[::-1] if axes is None else [a % node.ndim for a in axes])


def _broadcast(writer: Writer, node: Node, names: list[str]) -> str:
    return writer.put("Expand", names[0], writer.shape(node, node.inputs[0]))


def _flip(writer: Writer, node: Node, names: list[str]) -> str:
    axis = node.attrs["axis"]
    axes = [a % node.ndim for a in ((axis,) if isinstance(axis, int) else axis)]
    return cut(writer, names[0], dict.fromkeys(axes, (-1, -LAST - 1, -1)))


def _cast(writer: Writer, node: Node, names: list[str]) -> str:
    return writer.put("Cast", names[0], to=TYPES[node.dtype])


# ---------------------------------------------------------------- parts

def cut(writer: Writer, name: str, axes: dict[int, tuple[int, int, int]]) -> str:
    """Start, stop and step along some axes."""
    start, stop, step = ([part[k] for part in axes.values()] for k in range(3))
    return writer.put("Slice", name, *map(writer.ints, (start, stop, axes, step))) if axes else name


def _slice(writer: Writer, node: Node, names: list[str]) -> str:
    x = node.inputs[0]
    start, stop, step = node.attrs["start"], node.attrs["stop"], node.attrs["step"] or (1,) * node.ndim
    if x in writer.narrow and (start[-1] < 0 or stop[-1] > writer.narrow[x]):
        raise Unwritable(node, "it uses the gates of a recurrent layer, which ONNX keeps to itself")
    whole = (*x.shape[:-1], writer.narrow.get(x, x.shape[-1])) if x.ndim else ()

    def place(at: int, n: int, by: int) -> int:
        """Along the batch, of which the length is not known, places are counted from the end; before the first is the least number there is."""
        if at < 0 or (by < 0 and at == -1):
            return -LAST - 1
        return at if not writer.open(n) or at < writer.batch // 2 else LAST if at >= n else at - n

    found = {a: (place(i, n, s), place(j, n, s), s) for a, (i, j, s, n) in enumerate(zip(start, stop, step, whole, strict=True))
             if (i, j, s) != (0, n, 1)}
    return cut(writer, names[0], found)


def _pad(writer: Writer, node: Node, names: list[str]) -> str:
    around = [*node.attrs["low"], *node.attrs["high"]]
    return writer.put("Pad", names[0], writer.ints(around), writer.number(node.attrs["value"], node.dtype), mode="constant")


def _concat(writer: Writer, node: Node, names: list[str]) -> str:
    return writer.put("Concat", *names, axis=node.attrs["axis"] % node.ndim)


def _stack(writer: Writer, node: Node, names: list[str]) -> str:
    axis = node.attrs["axis"] % node.ndim
    return writer.put("Concat", *(writer.put("Unsqueeze", name, writer.ints([axis])) for name in names), axis=axis)


# ---------------------------------------------------------------- reductions

def _reduced(op: str) -> Row:
    def write(writer: Writer, node: Node, names: list[str]) -> str:
        axes = sorted(axes_of(node.inputs[0], node.attrs["axis"], node.op.name))
        return writer.put(op, names[0], writer.ints(axes), keepdims=int(node.attrs["keepdims"])) if axes else names[0]

    return Row(write)


def _along(op: str) -> Row:
    return Row(lambda writer, node, names: writer.put(op, names[0], axis=node.attrs["axis"] % node.ndim))


def _argmax(writer: Writer, node: Node, names: list[str]) -> str:
    axis, keepdims = node.attrs["axis"], int(bool(node.attrs["keepdims"]))
    if axis is None:
        flat = writer.put("ArgMax", writer.put("Reshape", names[0], writer.ints([-1])), axis=0, keepdims=0)
        return _whole(writer, writer.put("Reshape", flat, writer.ints(node.shape)), node)
    return _whole(writer, writer.put("ArgMax", names[0], axis=axis % node.inputs[0].ndim, keepdims=keepdims), node)


def _whole(writer: Writer, name: str, node: Node) -> str:
    return name if node.dtype == "int64" else writer.put("Cast", name, to=TYPES[node.dtype])


# ---------------------------------------------------------------- products and tables

def _matmul(writer: Writer, node: Node, names: list[str]) -> str:
    a, b = (_turned(writer, name, x, node.attrs[turn]) for name, x, turn in zip(names, node.inputs, ("transpose_a", "transpose_b"), strict=True))
    return writer.put("MatMul", a, b)


def _turned(writer: Writer, name: str, x: Node, turn: bool) -> str:
    return writer.put("Transpose", name, perm=[*range(x.ndim - 2), x.ndim - 1, x.ndim - 2]) if turn else name


def _indices(writer: Writer, name: str, node: Node) -> str:
    return name if node.dtype in ("int32", "int64") else writer.put("Cast", name, to=TYPES["int64"])


def _gather(writer: Writer, node: Node, names: list[str]) -> str:
    return writer.put("Gather", names[0], _indices(writer, names[1], node.inputs[1]), axis=0)


def _one_hot(writer: Writer, node: Node, names: list[str]) -> str:
    """1 where a number equals the place; numbers outside equal none."""
    places = writer.array(np.arange(node.attrs["classes"], dtype=np.int64))
    numbers = writer.put("Unsqueeze", writer.put("Cast", names[0], to=TYPES["int64"]), writer.ints([-1]))
    return writer.put("Cast", writer.put("Equal", numbers, places), to=TYPES[node.dtype])


def _written(rows: Sequence[tuple[str, object]]) -> dict[str, Row]:
    return {name: row if isinstance(row, Row) else Row(row) for name, row in rows}    # type: ignore[arg-type]


ROWS: dict[str, Row] = _written([
    ("reshape", _reshape), ("transpose", _transpose), ("broadcast", _broadcast), ("flip", _flip), ("cast", _cast),
    ("slice", _slice), ("pad", _pad), ("concat", _concat), ("stack", _stack),
    *((name, _reduced(op)) for name, op in REDUCED.items()), ("argmax", _argmax),
    ("softmax", _along("Softmax")), ("log_softmax", _along("LogSoftmax")),
    ("matmul", _matmul), ("gather", _gather), ("one_hot", _one_hot),
])
