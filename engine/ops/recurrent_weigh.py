"""recurrent_weigh: the cotangent of recurrent weights, from that of the sums and the states before each step, kept whole.

    (cotangent of x [batch, steps * gates * units], parts [batch, steps, parts * units]) -> [units, gates * units]

It is one product over all steps of all rows: (states before)ᵀ (cotangents), where `scaled` multiplies those of the last gate by the second part, as
the reset gate of a gru does. Nothing is copied for it but a panel of columns at a time.
"""

# pyright: reportUndefinedVariable=false
from __future__ import annotations

from typing import Any

import numpy as np

from engine.core import FLOATS, Case, Launch, Node, Op, Sample, Scratch, Shape, apply, constant, register
from engine.errors import ShapeError
from engine.kernels.grid import grid
from engine.kernels.library import kernel
from engine.ops.square_grid import squares

BLOCK = 256     # steps that one pass of a panel takes: what it reads then stays in the nearest cache
SHARE = 64      # steps of a share, at least
ENOUGH = 512    # squares that give a GPU something to do


@kernel("recurrent_weigh")
def weigh_kernel(arena, words, begin, end):
    """Panels [begin, end), 16 columns of one gate each. Words: out, cotangent of x, parts, steps of all rows, steps, units, gates, elements of a
    step's parts, whether the last gate is scaled, whether rows are walked backwards, room."""
    total, steps, units, gates, stride = words[3], words[4], words[5], words[6], words[7]
    width, panels = gates * units, (units + 15) // 16
    room = words[10] + begin * 256 * 16 * WIDTH
    b = view(arena, room, real)
    for first in range(0, max(total, 1), 256):
        count = min(256, total - first)
        skipped = 1 if first == 0 and words[9] == 0 else 0      # there is no step before the first, and none after the last
        used = max(0, count - skipped - (1 if first + count == total and words[9] == 1 else 0))
        before = words[2] + (first + skipped + (1 if words[9] == 1 else -1)) * stride * WIDTH
        for panel in range(begin, end):
            gate = panel // panels
            j = (panel - gate * panels) * 16
            columns = min(16, units - j)
            for p in range(count):
                x = view(arena, words[1] + ((first + p) * width + gate * units + j) * WIDTH, real)
                r = view(arena, words[2] + ((first + p) * stride + units + j) * WIDTH, real)
                if (first + p) % steps == (steps - 1 if words[9] == 1 else 0):     # from one row's sequence to the next nothing is carried
                    for q in range(columns):
                        store(b, p * 16 + q, 0.0)
                elif words[8] == 1 and gate == gates - 1:
                    for q in range(columns):
                        store(b, p * 16 + q, load(x, q) * load(r, q))
                else:
                    for q in range(columns):
                        store(b, p * 16 + q, load(x, q))
            i = 0
            while i < units:
                rest = units - i
                height = 6 if rest > 9 or rest == 6 else (rest + 1) // 2 if rest > 6 else rest
                out = view(arena, words[0] + (i * width + gate * units + j) * WIDTH, real)
                tile(16, out, width, out, -1 if first == 0 else width, view(arena, before + i * WIDTH, real), 1, stride,
                     view(arena, room + skipped * 16 * WIDTH, real), 16, height, used, columns)
                i += height


# ---------------------------------------------------------------- on a GPU

@squares("recurrent_weigh_squares")
def squares_kernel(arena, words, size):
    """Squares of 32 units and 32 columns, of a share of the steps each.

    Words: out, or its shares one after the other, cotangent of x, parts, steps of all rows, steps, units, gates, elements of a step's parts, whether
    the last gate is scaled, whether rows are walked backwards, steps of a share.
    """
    total, steps, units, stride, share = words[3], words[4], words[5], words[7], words[10]
    width, edge = words[6] * units, (steps - 1 if words[9] == 1 else 0)
    y, x = (cuda.threadIdx.x >> 3) * 4, (cuda.threadIdx.x & 7) * 4
    row, column = cuda.threadIdx.x >> 5, cuda.threadIdx.x & 31
    across, down = (width + 31) >> 5, (units + 31) >> 5
    left = view_of(cuda.shared.array(4608, uint8, alignment=16), real)
    right = view_of(cuda.shared.array(4608, uint8, alignment=16), real)
    sums = cuda.local.array(16, real)
    for unit in range(cuda.blockIdx.x, size, cuda.gridDim.x):
        line = int64(uint32(unit) // uint32(across))
        part = int64(uint32(line) // uint32(down))
        i, j = (line - part * down) * 32, (unit - line * across) * 32
        before = view(arena, words[2] + ((stride if words[9] == 1 else -stride) + i + column) * WIDTH, real)
        after = view(arena, words[1] + (j + column) * WIDTH, real)
        reset = view(arena, words[2] + (units + j + column - (width - units)) * WIDTH, real)
        scaled = words[8] == 1 and j + column >= width - units
        for e in each(16):
            sums[e] = 0.0
        for p in range(part * share, min(total, (part + 1) * share), 16):
            for e in range(8):
                step = p + row + 2 * e
                known = step < total and step < (part + 1) * share and int64(uint32(step) % uint32(steps)) != edge
                value = after[step * width] if known and j + column < width else 0.0
                if known and scaled and j + column < width:
                    value *= reset[step * stride]
                left[(row + 2 * e) * 36 + column] = before[step * stride] if known and i + column < units else 0.0
                right[(row + 2 * e) * 36 + column] = value
            cuda.syncthreads()
            for d in range(16):
                outer(sums, 0, four_of(left, d * 36 + y), four_of(right, d * 36 + x))
            cuda.syncthreads()
        out = view(arena, words[0] + (part * units + i) * width * WIDTH, real)
        for e in each(4):
            if i + y + e < units:
                put_four_of(out, (y + e) * width + j + x, width - j - x, real(1), sums[4 * e], sums[4 * e + 1], sums[4 * e + 2], sums[4 * e + 3])


@grid("recurrent_weigh_join", threads=256, units=256)
def join_kernel(arena, words, size):
    """The sum of the shares, in order. Words: out, shares, how many."""
    out, shares = view(arena, words[0], real), view(arena, words[1], real)
    i = int64(cuda.blockIdx.x) * cuda.blockDim.x + cuda.threadIdx.x
    while i < size:
        total = shares[i]
        for part in range(1, words[2]):
            total += shares[part * size + i]
        out[i] = total
        i += int64(cuda.gridDim.x) * cuda.blockDim.x


# ---------------------------------------------------------------- the op

def _shape(dx: Node, y: Node, gates: int, parts: int, scaled: bool, reverse: bool) -> tuple[Shape, str]:
    units = y.shape[2] // parts if y.ndim == 3 else 0
    if y.ndim != 3 or not y.shape[1] or dx.shape != (y.shape[0], y.shape[1] * gates * units) or dx.dtype != y.dtype or y.dtype not in FLOATS:
        raise ShapeError(f"recurrent_weigh takes [batch, steps * {gates} * units] and [batch, steps, {parts} * units], "
                         f"found {list(dx.shape)} and {list(y.shape)}")
    return (units, gates * units), y.dtype


def _oracle(dx: np.ndarray, y: np.ndarray, gates: int, parts: int, scaled: bool, reverse: bool) -> np.ndarray:
    rows, steps, units = y.shape[0], y.shape[1], y.shape[2] // parts
    d = dx.reshape(rows, steps, gates, units)
    if scaled:
        d = np.concatenate([d[:, :, :-1], d[:, :, -1:] * y[:, :, None, units:2 * units]], axis=2)
    before, after = (y[:, 1:, :units], d[:, :-1]) if reverse else (y[:, :-1, :units], d[:, 1:])
    return np.einsum("nti,ntgj->igj", before, after).reshape(units, gates * units)


def _compose(node: Node) -> Node:
    (dx, y), gates, scaled = node.inputs, node.attrs["gates"], node.attrs["scaled"]
    rows, steps, units = y.shape[0], y.shape[1], node.shape[0]
    d = dx.reshape(rows, steps, gates * units)
    if scaled:
        last = (gates - 1) * units
        d = apply("concat", d[:, :, :last], d[:, :, last:] * y[:, :, units:2 * units], axis=-1)
    before, after = (y[:, 1:, :units], d[:, :-1]) if node.attrs["reverse"] else (y[:, :-1, :units], d[:, 1:])
    if not before.size:
        return apply("broadcast", constant(0.0, y.dtype), shape=node.shape)
    return before.reshape(rows * (steps - 1), units).T @ after.reshape(rows * (steps - 1), gates * units)


def _launch(node: Node) -> list[Launch]:
    dx, y = node.inputs
    units, total = node.shape[0], y.shape[0] * y.shape[1]
    panels = node.attrs["gates"] * -(-units // 16)
    room = Scratch(panels * BLOCK * 16 * np.dtype(node.dtype).itemsize)
    words = (node, dx, y, total, y.shape[1], units, node.attrs["gates"], y.shape[2], int(node.attrs["scaled"]), int(node.attrs["reverse"]), room)
    return [Launch("recurrent_weigh", node.dtype, words, panels, cost=total * (16 * units / 50 + 5))]


def _grid_launch(node: Node) -> list[Launch]:
    dx, y = node.inputs
    units, total, gates = node.shape[0], y.shape[0] * y.shape[1], node.attrs["gates"]
    tiles = -(-units // 32) * -(-gates * units // 32)
    shares = max(1, min(ENOUGH // max(tiles, 1), total // SHARE))
    share = -(-total // (16 * shares)) * 16
    room = node if shares == 1 else Scratch(shares * node.size * np.dtype(node.dtype).itemsize)
    words = (room, dx, y, total, y.shape[1], units, gates, y.shape[2], int(node.attrs["scaled"]), int(node.attrs["reverse"]), share)
    made = [Launch("recurrent_weigh_squares", node.dtype, words, tiles * shares, cost=1000.0)]
    return made if shares == 1 else [*made, Launch("recurrent_weigh_join", node.dtype, (node, room, shares), node.size)]


def _case(name: str, rows: int, steps: int, units: int, gates: int, parts: int, **attrs: Any) -> Case:
    return Case(name, (Sample((rows, steps * gates * units)), Sample((rows, steps, parts * units))), {"gates": gates, "parts": parts, **attrs})


register(Op("recurrent_weigh", shape=_shape, oracle=_oracle, launch=_launch, cuda=_grid_launch, compose=_compose, public=False, cases=(
    _case("scaled", 5, 4, 3, 3, 5, scaled=True, reverse=False), _case("backwards", 3, 5, 7, 4, 6, scaled=False, reverse=True),
    _case("several blocks", 90, 6, 17, 1, 1, scaled=False, reverse=False), _case("one step", 2, 1, 2, 1, 1, scaled=False, reverse=False),
    _case("empty batch", 0, 2, 3, 1, 1, scaled=False, reverse=False)),
    description="The cotangent of recurrent weights: the states before each step, turned, times the cotangents of its sums."))
