"""Copying with strides: one kernel behind transposes, slices, padding, joining and stretching, for every number type."""

# pyright: reportUndefinedVariable=false
from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from engine.core import Launch, Node, Scratch, Shape, constant, count
from engine.kernels.grid import GRIDS, Grid, define_grid, grid
from engine.kernels.library import KERNELS, Source, define, kernel

_KERNEL_TYPE = {1: "float32", 4: "float32", 8: "float64"}   # moving bits needs only their width; single bytes have a kernel of their own


@kernel("move")
def move_kernel(arena, words, begin, end):
    """Copy elements [begin, end) of a region. Words: out, its first element, in, its first element, axes, then per axis length, out and in stride."""
    rank = words[4]
    inner, out_step, in_step = words[2 + 3 * rank], words[3 + 3 * rank], words[4 + 3 * rank]
    beside = words[2 + 3 * (rank - 1)] if rank > 1 else 1          # rows of the axis before the last: they are walked without divisions
    out_row = words[3 + 3 * (rank - 1)] if rank > 1 else 0
    in_row = words[4 + 3 * (rank - 1)] if rank > 1 else 0
    at = begin
    while at < end:
        row = at // inner
        column = at - row * inner
        plane = row // beside
        rows = min(beside - (row - plane * beside), (end - at) // inner) if column == 0 else 0
        length = inner if rows > 0 else min(inner - column, end - at)
        rows = max(rows, 1)
        to = words[1] + (row - plane * beside) * out_row + column * out_step
        fro = words[3] + (row - plane * beside) * in_row + column * in_step
        for axis in range(rank - 3, -1, -1):
            size = words[5 + 3 * axis]
            i = plane % size
            plane = plane // size
            to += i * words[6 + 3 * axis]
            fro += i * words[7 + 3 * axis]
        for r in range(rows):
            y = view(arena, words[0] + (to + r * out_row) * WIDTH, real)
            x = view(arena, words[2] + (fro + r * in_row) * WIDTH, real)
            if out_step == 1 and in_step == 1:
                for i in range(length):
                    store(y, i, load(x, i))
            elif out_step == 1 and in_step == 0:
                value = load(x, 0)
                for i in range(length):
                    store(y, i, value)
            else:
                for i in range(length):
                    store(y, i * out_step, load(x, i * in_step))
        at += rows * length


@kernel("turn")
def turn_kernel(arena, words, begin, end):
    """out[b, n, m] = in[b, m, n] for rows [begin, end) of all b and n. Words: out, in, its first element, n, m, in strides of b and of m."""
    height, width, batch_step, step = words[3], words[4], words[5], words[6]
    row = begin
    while row < end:
        b = row // height
        n = row - b * height
        rows = min(16, min(height - n, end - row))   # sixteen streams of writing keep whole lines of the input in use
        x = view(arena, words[1] + (words[2] + b * batch_step + n) * WIDTH, real)
        y = view(arena, words[0] + row * width * WIDTH, real)
        for m in range(width):
            for r in range(rows):
                store(y, r * width + m, load(x, m * step + r))
        row += rows


@grid("move", threads=256, units=1024)
def move_grid(arena, words, size):
    """A thread per element, or per four where rows, steps and addresses are multiples of four elements; words as on the CPU."""
    rank, y, x = words[4], view(arena, words[0], real), view(arena, words[2], real)
    out_step, in_step, out_first, in_first = int32(words[3 + 3 * rank]), int32(words[4 + 3 * rank]), int32(words[1]), int32(words[3])
    uneven = (words[1] | words[2 + 3 * rank]) & 3 | words[0] & 15
    if in_step == 1:
        uneven |= words[3] & 3 | words[2] & 15
    for axis in range(rank - 1):
        uneven |= (words[6 + 3 * axis] | words[7 + 3 * axis] * in_step) & 3
    each = 4 if WIDTH > 1 and uneven == 0 and out_step == 1 and (in_step == 0 or in_step == 1) else 1
    at = uint32(cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x)
    while at < size // each:
        place, to, fro = int32(at * each), out_first, in_first
        axis = int32(3 * rank - 3)
        while axis > 0:
            outer = int32(uint32(place) // uint32(words[5 + axis]))
            i = int32(place - outer * int32(words[5 + axis]))
            to, fro, place = int32(to + i * int32(words[6 + axis])), int32(fro + i * int32(words[7 + axis])), outer
            axis = int32(axis - 3)
        to, fro = int32(to + place * int32(words[6])), int32(fro + place * int32(words[7]))
        if each == 1:
            store(y, to, load(x, fro))
        elif in_step == 1:
            a, b, c, d = four_of(x, fro)
            put_four(y, to, a, b, c, d)
        else:
            value = load(x, fro)
            put_four(y, to, value, value, value, value)
        at = uint32(at + cuda.gridDim.x * cuda.blockDim.x)


@grid("turn", threads=256)
def turn_grid(arena, words, size):
    """Squares of 32 by 32 elements by way of shared memory, so that rows are read and rows are written; words as on the CPU."""
    height, width, batch_step, step = int32(words[3]), int32(words[4]), int32(words[5]), int32(words[6])
    x, y = view(arena, words[1], real), view(arena, words[0], real)
    square = cuda.shared.array((32, 33), real)       # a column's elements are in 32 banks
    lane, warp, warps = uint32(cuda.threadIdx.x % 32), uint32(cuda.threadIdx.x // 32), uint32(cuda.blockDim.x // 32)
    across = int32((width + 31) // 32)
    squares = int32((height + 31) // 32 * across)
    unit, units = uint32(cuda.blockIdx.x), uint32(size // max(words[3], 1) * squares)
    while unit < units:
        b = int32(unit // uint32(squares))
        down = int32(uint32(unit - b * squares) // uint32(across))
        n, m = int32(32 * down), int32((unit - b * squares - down * across) * 32)
        fro, to = int32(words[2] + b * batch_step + m * step + n + lane), int32((b * height + n) * width + m + lane)
        k = warp
        while k < 32:
            if m + k < width and n + lane < height:
                square[k, lane] = load(x, int32(fro + k * step))
            k = uint32(k + warps)
        cuda.syncthreads()
        k = warp
        while k < 32:
            if n + k < height and m + lane < width:
                store(y, int32(to + k * width), square[lane, k])
            k = uint32(k + warps)
        cuda.syncthreads()
        unit = uint32(unit + cuda.gridDim.x)


def _of_bytes(kernel: Source | Grid) -> str:
    """The text of a kernel for single bytes."""
    return kernel.text.replace("real", "uint8").replace("WIDTH", "1")


for _name in ("move", "turn"):
    define(f"{_name}_bytes", partial(_of_bytes, KERNELS[_name]))
    define_grid(f"{_name}_bytes", partial(_of_bytes, GRIDS[_name]), GRIDS[_name].threads, GRIDS[_name].units)


def strides(shape: Shape) -> tuple[int, ...]:
    """The strides, in elements, of an array in row-major order.

    >>> strides((2, 3, 4))
    (12, 4, 1)
    """
    return tuple(count(shape[i + 1:]) for i in range(len(shape)))


def merged(shape: Shape, *steps: Sequence[int]) -> list[tuple[int, ...]]:
    """Axes (length, stride, stride...) with those of length 1 left out, and neighbours that are walked as one joined.

    >>> merged((2, 3, 4), (12, 4, 1), (24, 8, 1))
    [(6, 4, 8), (4, 1, 1)]
    """
    axes: list[tuple[int, ...]] = []
    for axis in zip(shape, *steps, strict=True):
        if axis[0] == 1:
            continue
        if axes and all(before == here * axis[0] for before, here in zip(axes[-1][1:], axis[1:], strict=True)):
            axes[-1] = (axes[-1][0] * axis[0], *axis[1:])
        else:
            axes.append(axis)
    return axes or [(1, *(1 for _ in steps))]


def move(dtype: str, out: Node | Scratch, source: Node | Scratch, shape: Shape, *, out_steps: Sequence[int] | None = None,
         in_steps: Sequence[int] | None = None, out_start: int = 0, in_start: int = 0) -> Launch:
    """Copy a region of `shape` from strided places of `source` to strided places of `out`; without steps they are in row-major order."""
    axes = merged(shape, out_steps or strides(shape), in_steps or strides(shape))
    width = np.dtype(dtype).itemsize
    suffix, kind, size = "_bytes" if width == 1 else "", _KERNEL_TYPE[width], count(shape)
    if out_start == 0 and len(axes) in (2, 3) and axes[-2][2] == 1 and axes[-1][2] > 1 and _in_order(axes):
        batch = axes[0][2] if len(axes) == 3 else 0
        words: tuple[Any, ...] = (out, source, in_start, axes[-2][0], axes[-1][0], batch, axes[-1][2])
        return Launch(f"turn{suffix}", kind, words, size // axes[-1][0] if size else 0, grain=16, cost=0.5 * axes[-1][0])
    words = (out, out_start, source, in_start, len(axes), *(word for axis in axes for word in axis))
    return Launch(f"move{suffix}", kind, words, size, cost=0.2 if axes[-1][2] <= 1 else 1.0)


def _in_order(axes: Sequence[tuple[int, ...]]) -> bool:
    """Whether the output is written from end to end."""
    return tuple(axis[1] for axis in axes) == strides(tuple(axis[0] for axis in axes))


def fill(node: Node, value: float) -> Launch:
    """Put one number everywhere."""
    return move(node.dtype, node, constant(value, node.dtype), node.shape, in_steps=(0,) * node.ndim)
