"""batch_moments: mean and variance of each feature, over all axes but the last.

An array is read as rows of `lanes` times its features, so that few features still fill vectors. Moments are taken in fixed blocks of rows, which are
combined in a fixed order: the same bits for any number of threads.
"""

# pyright: reportUndefinedVariable=false
from __future__ import annotations

import numpy as np

from engine.core import FLOATS, Case, Launch, Node, Op, Sample, Scratch, Shape, apply, register
from engine.errors import DtypeError, ShapeError
from engine.kernels.grid import grid
from engine.kernels.library import kernel
from engine.ops.teams import THREADS, tile_sum

WIDE = 64             # numbers in a row as it is read, at least
BLOCK = 4096          # numbers that one block measures: they stay in the nearest cache
MOST_BLOCKS = 256


@kernel("batch_moments_blocks")
def moments_blocks(arena, words, begin, end):
    """Mean and sum of squared distances from it, of each column of each block. Words: out, x, numbers, numbers in a block, columns."""
    columns = words[4]
    for b in range(begin, end):
        size = min(words[3], words[2] - b * words[3])
        x = view(arena, words[1] + b * words[3] * WIDTH, real)
        mean = view(arena, words[0] + 2 * b * columns * WIDTH, real)
        squares = view(arena, words[0] + (2 * b + 1) * columns * WIDTH, real)
        for c in range(columns):
            store(mean, c, 0.0)
            store(squares, c, 0.0)
        whole = size // (4 * columns) * 4 * columns
        for first in range(0, whole, 4 * columns):
            x0, x1, x2, x3 = first, first + columns, first + 2 * columns, first + 3 * columns
            for c in range(columns):
                store(mean, c, mean[c] + ((load(x, x0 + c) + load(x, x1 + c)) + (load(x, x2 + c) + load(x, x3 + c))))
        for first in range(whole, size, columns):
            for c in range(min(columns, size - first)):
                mean[c] += x[first + c]
        least = size // columns              # numbers of each column; one more in the first few
        few, more = real(max(least, 1)), real(least + 1)
        for c in range(columns):
            mean[c] /= select(c < size - least * columns, more, few)
        for first in range(0, whole, 4 * columns):
            x0, x1, x2, x3 = first, first + columns, first + 2 * columns, first + 3 * columns
            for c in range(columns):
                m = load(mean, c)
                far0, far1, far2, far3 = load(x, x0 + c) - m, load(x, x1 + c) - m, load(x, x2 + c) - m, load(x, x3 + c) - m
                store(squares, c, squares[c] + ((far0 * far0 + far1 * far1) + (far2 * far2 + far3 * far3)))
        for first in range(whole, size, columns):
            for c in range(min(columns, size - first)):
                far = x[first + c] - mean[c]
                squares[c] += far * far


@kernel("batch_moments_join")
def moments_join(arena, words, begin, end):
    """The blocks' moments as one (Chan, Golub and LeVeque 1979). Words: out, blocks, numbers, numbers in a block, columns, features, room."""
    columns, features = words[4], words[5]
    blocks, lanes = (words[2] + words[3] - 1) // words[3], columns // features
    mean, squares = view(arena, words[6], float64), view(arena, words[6] + 8 * features, float64)
    out, each = view(arena, words[0], real), float64(1.0) / float64(words[2] // features)
    for c in range(begin, end):
        mean[c], squares[c] = float64(0.0), float64(0.0)
    for second in range(2):
        for part in range(blocks * lanes):
            b = part // lanes
            j = part - b * lanes
            size = max(0, min(words[3], words[2] - b * words[3]) - j * features)
            least = size // columns              # numbers of each column; one more in the first few
            few, more, extra = float64(least), float64(least + 1), size - least * columns
            x = view(arena, words[1] + (2 * b * columns + j * features) * WIDTH, real)
            y = view(arena, words[1] + ((2 * b + 1) * columns + j * features) * WIDTH, real)
            if second == 0:
                for c in range(begin, end):
                    store(mean, c, mean[c] + float64(load(x, c)) * select(c < extra, more, few))
            else:
                for c in range(begin, end):
                    far = float64(load(x, c)) - load(mean, c)
                    store(squares, c, squares[c] + float64(load(y, c)) + far * far * select(c < extra, more, few))
        if second == 0:
            for c in range(begin, end):
                mean[c] *= each
    for c in range(begin, end):
        out[c] = mean[c]
        out[features + c] = squares[c] * each


# ---------------------------------------------------------------- on a GPU: a block of threads for 32 columns of each block of rows

ACROSS = 32           # columns of such a tile: as many as threads of a warp, which read one line of memory together
LEAST_ROWS = 64       # of a block


@grid("batch_moments_tiles", threads=THREADS, uses=(tile_sum,))
def moments_tiles(arena, words, size):
    """As batch_moments_blocks, a tile of 32 columns of a block for each number of the size. Words: the same."""
    block, columns, room = words[3], int32(words[4]), cuda.shared.array(256, real)
    tiles = (columns + 31) // 32
    line, lines = cuda.threadIdx.x // 32, cuda.blockDim.x // 32
    for unit in range(cuda.blockIdx.x, size, cuda.gridDim.x):
        b = int32(unit) // int32(tiles)
        c = (unit - b * tiles) * 32 + cuda.threadIdx.x % 32
        length = min(block, words[2] - b * block)
        rows = (int32(length - c) + columns - 1) // columns if c < columns else 0
        x = view(arena, words[1] + (b * block + c) * WIDTH, real)
        total, squares = 0.0, 0.0
        for r in range(line, rows, lines):
            total += load(x, r * columns)
        total = tile_sum(total, 32, room) / real(max(rows, 1))
        if line == 0:
            room[cuda.threadIdx.x] = total
        cuda.syncthreads()
        mean = room[cuda.threadIdx.x % 32]
        cuda.syncthreads()
        for r in range(line, rows, lines):
            far = load(x, r * columns) - mean
            squares += far * far
        squares = tile_sum(squares, 32, room)
        if line == 0 and c < columns:
            y = view(arena, words[0] + (2 * b * columns + c) * WIDTH, real)
            y[0] = mean
            y[columns] = squares


@grid("batch_moments_join", threads=THREADS, units=8, uses=(tile_sum,), wide=True)
def moments_join_grid(arena, words, size):
    """As on the CPU. Words: out, blocks, numbers, numbers in a block, columns, features."""
    block, columns, features = words[3], int32(words[4]), int32(words[5])
    parts = (words[2] + block - 1) // block * (columns // features)
    lanes, each = columns // features, float64(1.0) / float64(words[2] // features)
    room, out = cuda.shared.array(256, float64), view(arena, words[0], real)
    width = cuda.blockDim.x
    while width > 1 and (width >= 2 * features or (width > 32 and cuda.blockDim.x // width < parts)):
        width //= 2
    line, lines = cuda.threadIdx.x // width, cuda.blockDim.x // width
    for unit in range(cuda.blockIdx.x, (features + width - 1) // width, cuda.gridDim.x):
        c = unit * width + cuda.threadIdx.x % width
        first = line if c < features and line < lines else parts
        mean, squares = float64(0.0), float64(0.0)
        for part in range(first, parts, lines):
            b = part // lanes
            at = (part - b * lanes) * features + c
            rows = (min(block, words[2] - b * block) - at + columns - 1) // columns
            if rows > 0:
                mean += float64(view(arena, words[1] + (2 * b * columns + at) * WIDTH, real)[0]) * float64(rows)
        mean = tile_sum(mean, width, room) * each
        if line == 0:
            room[cuda.threadIdx.x] = mean
        cuda.syncthreads()
        mean = room[cuda.threadIdx.x % width]
        cuda.syncthreads()
        for part in range(first, parts, lines):
            b = part // lanes
            at = (part - b * lanes) * features + c
            rows = (min(block, words[2] - b * block) - at + columns - 1) // columns
            if rows > 0:
                x = view(arena, words[1] + (2 * b * columns + at) * WIDTH, real)
                far = float64(x[0]) - mean
                squares += float64(x[columns]) + far * far * float64(rows)
        squares = tile_sum(squares, width, room) * each
        if line == 0 and c < features:
            out[c] = mean
            out[features + c] = squares


def lanes_of(features: int) -> int:
    """How often the features are repeated in a row as it is read."""
    return max(1, WIDE // max(features, 1))


def block_of(x: Node, least: int = 1) -> tuple[int, int]:
    """Numbers in a block, whole rows of `lanes` times the features, at least so many; and how many blocks there are."""
    columns = x.shape[-1] * lanes_of(x.shape[-1])
    rows = max(least, BLOCK // columns, -(-x.size // (MOST_BLOCKS * columns)))
    return rows * columns, -(-x.size // (rows * columns))


def flat(x: np.ndarray) -> np.ndarray:
    return x.reshape(-1, x.shape[-1])


def _shape(x: Node) -> tuple[Shape, str]:
    if x.ndim < 2 or not x.size:
        raise ShapeError(f"batch_moments takes rows of features, at least one of each, found {list(x.shape)}")
    if x.dtype not in FLOATS:
        raise DtypeError(f"batch_moments takes floats, found {x.dtype}; cast first")
    return (2, x.shape[-1]), x.dtype


def _launch(node: Node) -> list[Launch]:
    x, = node.inputs
    features, (block, blocks) = x.shape[-1], block_of(x)
    lanes = lanes_of(features)
    parts = Scratch(2 * blocks * lanes * features * np.dtype(x.dtype).itemsize)
    words = (x.size, block, lanes * features)
    return [Launch("batch_moments_blocks", x.dtype, (parts, x, *words), blocks, cost=0.2 * block),
            Launch("batch_moments_join", x.dtype, (node, parts, *words, features, Scratch(16 * features)), features, grain=16, cost=blocks * lanes)]


def _grid_launch(node: Node) -> list[Launch]:
    x, = node.inputs
    features, (block, blocks) = x.shape[-1], block_of(x, LEAST_ROWS)
    columns = lanes_of(features) * features
    parts = Scratch(2 * blocks * columns * np.dtype(x.dtype).itemsize)
    words = (x.size, block, columns)
    return [Launch("batch_moments_tiles", x.dtype, (parts, x, *words), blocks * -(-columns // ACROSS)),
            Launch("batch_moments_join", x.dtype, (node, parts, *words, features), features)]


def _compose(node: Node) -> Node:
    x, axes = node.inputs[0], tuple(range(node.inputs[0].ndim - 1))
    mean = x.mean(axes)
    return apply("stack", mean, apply("square", x - mean).mean(axes))


register(Op("batch_moments", shape=_shape, oracle=lambda x: np.stack([flat(x).mean(0), flat(x).var(0)]), launch=_launch, cuda=_grid_launch,
            compose=_compose, formula="stack(mean(x), var(x))", description="Mean and variance of each feature over all axes but the last.",
            cases=(Case("rows", (Sample((7, 5)),)), Case("four axes", (Sample((2, 5, 3, 6)),)), Case("one", (Sample((1, 1)),)),
                   Case("many blocks", (Sample((97, 3, 70)),), gradient=False))))
