"""How a GPU reduces: a team of threads for each block of a row, a tile of threads for each block of rows; always by the same trees."""

from __future__ import annotations

from collections.abc import Callable

from engine.kernels.grid import define_grid
from engine.ops.teams import THREADS, team_of

_ALONG = """def run(arena, words, size):
    # out[row, block] = the reduction of one block of a contiguous row. Words: out, in, row length, block, blocks per row, scale.
    length, block, blocks = int32(words[2]), int32(words[3]), int32(words[4])
    out, room = view(arena, words[0], real), cuda.shared.array(32, real)
    lanes = team_of(min(block, length))
    teams, lane = cuda.blockDim.x // lanes, cuda.threadIdx.x % lanes
    for first in range(cuda.blockIdx.x * teams, size, cuda.gridDim.x * teams):
        k = first + cuda.threadIdx.x // lanes
        row = int32(k) // blocks
        start = (k - row * blocks) * block
        x = view(arena, words[1] + (row * length + start) * WIDTH, real)
        total = {identity}
        for i in range(lane, min(block, length - start) if k < size else 0, lanes):
            total = {along}
        apart = min(lanes, 32) // 2
        while apart > 0:
            total = {apart}
            apart //= 2
        if lanes > 32:
            if cuda.threadIdx.x % 32 == 0:
                room[cuda.threadIdx.x // 32] = total
            cuda.syncthreads()
            total = room[0]
            for warp in range(1, cuda.blockDim.x // 32):
                total = {warps}
            cuda.syncthreads()
        if lane == 0 and k < size:
            out[k] = total * real(number_of(words[5]))
"""
# A tile is as wide as there are columns, up to the warp where rows are many and up to the block where they are few; its threads below one another
# share the rows.
_ACROSS = """def run(arena, words, size):
    # out[group, block, column] = the reduction of one block of rows. Words: out, in, rows per group, block, blocks, scale, columns.
    length, block, blocks, columns = int32(words[2]), int32(words[3]), int32(words[4]), int32(words[6])
    out, room = view(arena, words[0], real), cuda.shared.array({threads}, real)
    width = cuda.blockDim.x
    while width > 1 and (width >= 2 * columns or (width > 32 and cuda.blockDim.x // width * 8 <= block)):
        width //= 2
    lanes, lane, low = cuda.blockDim.x // width, cuda.threadIdx.x // width, cuda.threadIdx.x % width
    tiles = (columns + width - 1) // width
    for unit in range(cuda.blockIdx.x, size // max(columns, 1) * tiles, cuda.gridDim.x):
        k = int32(unit) // int32(tiles)
        column = (unit - k * tiles) * width + low
        group = k // blocks
        start = (k - group * blocks) * block
        x = view(arena, words[1] + ((group * length + start) * columns + column) * WIDTH, real)
        total = {identity}
        for r in range(lane, min(block, length - start) if column < columns and lane < lanes else 0, lanes):
            total = {across}
        while lanes > 1:
            room[cuda.threadIdx.x] = total
            cuda.syncthreads()
            half = (lanes + 1) // 2
            if lane + half < lanes:
                total = {below}
            cuda.syncthreads()
            lanes = half
        lanes = cuda.blockDim.x // width
        if lane == 0 and column < columns:
            out[k * columns + column] = total * real(number_of(words[5]))
"""


def _define(name: str, identity: str, join: Callable[[str, str], str]) -> None:
    """The two kernels of one reduction, as in `reduction`."""
    along = {"along": join("total", "load(x, i)"), "apart": join("total", "cuda.shfl_xor_sync(-1, total, int32(apart))"),
             "warps": join("total", "room[warp]")}
    across = {"across": join("total", "load(x, r * columns)"), "below": join("total", "room[cuda.threadIdx.x + half * width]")}
    define_grid(f"{name}_along", _ALONG.format(identity=identity, **along), THREADS, uses=(team_of,))
    define_grid(f"{name}_across", _ACROSS.format(identity=identity, threads=THREADS, **across), THREADS, units=4)


_define("sum", "real(0.0)", lambda a, b: f"({a} + {b})")
_define("prod", "real(1.0)", lambda a, b: f"({a} * {b})")
_define("max", "real(-INFINITY)", lambda a, b: f"maximum({a}, {b})")
_define("min", "real(INFINITY)", lambda a, b: f"minimum({a}, {b})")
