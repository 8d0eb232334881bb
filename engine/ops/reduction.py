"""How arrays are reduced along axes: in a fixed order, long runs in fixed blocks, the blocks' results combined likewise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from engine.core import Launch, Node, Scratch, Shape, apply, count
from engine.kernels.library import define
from engine.ops import reduction_grid  # noqa: F401
from engine.ops.shape import axis_of

ROWS_BLOCK, COLUMNS_BLOCK = 4096, 256   # elements, and rows, that one block reduces: float32 stays accurate to 1e-6, and threads have blocks to share

Axis = int | Sequence[int] | None

# ---------------------------------------------------------------- kernels

_ALONG = """def run(arena, words, begin, end):
    # out[row, block] = the reduction of one block of a contiguous row. Words: out, in, row length, block, blocks per row, scale.
    length, block, blocks = words[2], words[3], words[4]
    out = view(arena, words[0], real)
    for k in range(begin, end):
        row = k // blocks
        start = (k - row * blocks) * block
        x = view(arena, words[1] + (row * length + start) * WIDTH, real)
        total = {start}
        for i in range(min(block, length - start)):
            total = {along}
        out[k] = {end}
"""
_ACROSS = """def run(arena, words, begin, end):
    # out[group, block, column] = the reduction of one block of rows. Words: out, in, rows per group, block, blocks, scale, columns.
    length, block, blocks, columns = words[2], words[3], words[4], words[6]
    at = begin
    while at < end:
        k = at // columns
        first = at - k * columns
        width = min(columns - first, end - at)
        group = k // blocks
        start = (k - group * blocks) * block
        rows = min(block, length - start)
        y = view(arena, words[0] + at * WIDTH, real)
        x = view(arena, words[1] + ((group * length + start) * columns + first) * WIDTH, real)
        for c in range(width):
            store(y, c, {identity})
        for r in range(rows // 4):
            x0 = view(arena, words[1] + ((group * length + start + 4 * r) * columns + first) * WIDTH, real)
            x1 = view(arena, words[1] + ((group * length + start + 4 * r + 1) * columns + first) * WIDTH, real)
            x2 = view(arena, words[1] + ((group * length + start + 4 * r + 2) * columns + first) * WIDTH, real)
            x3 = view(arena, words[1] + ((group * length + start + 4 * r + 3) * columns + first) * WIDTH, real)
            for c in range(width):
                store(y, c, {four})
        for r in range(rows // 4 * 4, rows):
            for c in range(width):
                store(y, c, {one})
        if words[5] != {unscaled}:
            for c in range(width):
                store(y, c, y[c] * real(number_of(words[5])))
        at += width
"""
ONE = 0x3FF0000000000000   # the bits of 1.0


def _define(name: str, identity: str, join: Callable[[str, str], str], start: str | None = None, along: str | None = None,
            end: str | None = None) -> None:
    """The two kernels of one reduction: along contiguous rows, and across rows for all columns at once."""
    finish = end or "total * real(number_of(words[5]))"
    define(f"{name}_along", _ALONG.format(start=start or identity, along=along or join("total", "load(x, i)"), end=finish),
           ("contract", "reassoc", "nsz"))
    four = join("y[c]", join(join("load(x0, c)", "load(x1, c)"), join("load(x2, c)", "load(x3, c)")))
    one = join("y[c]", "load(x, r * columns + c)")
    define(f"{name}_across", _ACROSS.format(identity=identity, four=four, one=one, unscaled=ONE))


_define("sum", "real(0.0)", lambda a, b: f"({a} + {b})")
_define("prod", "real(1.0)", lambda a, b: f"({a} * {b})")
# the extremes of a row are those of its bits read as whole numbers (see `ordered`), which vectorises and lets NaN win
_define("max", "real(-INFINITY)", lambda a, b: f"maximum({a}, {b})",
        "ordered(real(-INFINITY))", "larger(total, ordered(load(x, i)))", "unordered(total)")
_define("min", "real(INFINITY)", lambda a, b: f"minimum({a}, {b})",
        "ordered(real(-INFINITY))", "larger(total, ordered(-load(x, i)))", "-unordered(total)")


# ---------------------------------------------------------------- shapes and launches

def axes_of(x: Node | np.ndarray, axis: Axis, op: str) -> tuple[int, ...]:
    """The axes counted from the front, in order; all of them for None."""
    if axis is None:
        return tuple(range(x.ndim))
    found = sorted({axis_of(int(a), x.ndim, op) for a in ((axis,) if isinstance(axis, int | np.integer) else axis)})
    return tuple(found)


def reduced(shape: Shape, axes: Sequence[int], keepdims: bool) -> Shape:
    return tuple(1 if i in axes else n for i, n in enumerate(shape) if keepdims or i not in axes)


def kept(node: Node) -> Shape:
    """The shape of a reduction's output with its reduced axes kept as 1."""
    x = node.inputs[0]
    return reduced(x.shape, axes_of(x, node.attrs["axis"], node.op.name), True)


def spread(node: Node, value: Node) -> Node:
    """A value of the reduction's shape, repeated over what was reduced."""
    x = node.inputs[0]
    shape = kept(node)
    value = value if value.shape == shape else apply("reshape", value, shape=shape)
    return value if value.shape == x.shape else apply("broadcast", value, shape=x.shape)


def groups(shape: Shape, axes: Sequence[int]) -> list[tuple[int, int, int]]:
    """(outer, length, inner) of each run of neighbouring axes to reduce, last run first; each is what the runs before it left."""
    left = list(shape)
    found = []
    todo = [a for a in axes if shape[a] != 1]
    while todo:
        last = first = todo.pop()
        while todo and all(left[i] == 1 for i in range(todo[-1] + 1, first)):
            first = todo.pop()
        found.append((count(left[:first]), count(left[first:last + 1]), count(left[last + 1:])))
        left[first:last + 1] = [1] * (last + 1 - first)
    return found


def launches(node: Node, name: str, scale: float = 1.0) -> list[Launch]:
    """One launch per run of axes and level of blocks, each from the result of the one before; the last writes the node."""
    x, = node.inputs
    size = np.dtype(node.dtype).itemsize
    stages: list[tuple[int, int, int, int]] = []
    for outer, length, inner in groups(x.shape, axes_of(x, node.attrs["axis"], name)) or [(x.size, 1, 1)]:
        block = ROWS_BLOCK if inner == 1 else COLUMNS_BLOCK
        while length > 2 * block:
            stages.append((outer, length, block, inner))
            length = -(-length // block)
        stages.append((outer, length, length, inner))
    found, source = [], x
    for i, (outer, length, block, inner) in enumerate(stages):
        last = i == len(stages) - 1
        blocks = -(-length // block) if length else 1
        out = node if last else Scratch(outer * blocks * inner * size)
        words: tuple[Any, ...] = (out, source, length, max(block, 1), blocks, float(scale) if last else 1.0)
        if inner == 1:
            found.append(Launch(f"{name}_along", node.dtype, words, outer * blocks, cost=2 + 0.1 * block))
        else:
            found.append(Launch(f"{name}_across", node.dtype, (*words, inner), outer * blocks * inner, grain=16, cost=0.2 + 0.1 * block))
        source = out   # type: ignore[assignment]
    return found
