"""Teams of a GPU's threads: rows of any length get as many threads as they keep busy, several short rows to a warp, one long row to a block.

These functions are text for GPU kernels (see `engine.kernels.together`): all threads of a block must come to them. A kernel shares its rows so:

    lanes = team_of(n)
    for first in range(cuda.blockIdx.x * teams, rows, cuda.gridDim.x * teams):      # teams = cuda.blockDim.x // lanes
        row = first + cuda.threadIdx.x // lanes
        for i in range(cuda.threadIdx.x % lanes, n if row < rows else 0, lanes):

The team depends on the length alone: a row has the same bits whatever stands beside it.
"""

# pyright: reportUndefinedVariable=false
from __future__ import annotations

THREADS = 256     # of a block that is shared by teams


def team_of(n):
    """How many threads share a row of n numbers: 1 to 32, about four numbers to each, or from 512 numbers on the whole block."""
    lanes = 1
    while lanes < 32 and lanes * 4 < n:
        lanes *= 2
    return int32(cuda.blockDim.x if n > 512 else lanes)


def team_sum(x, lanes, room):
    """The sum of x over the threads of each team, by a tree. `room` is a shared array of 32 numbers."""
    if lanes > 32:
        return block_sum(x, room)
    apart = lanes // 2
    while apart > 0:
        x += cuda.shfl_xor_sync(-1, x, int32(apart))
        apart //= 2
    return x


def team_greatest(x, lanes, room):
    """The greatest x of the threads of each team, NaN if one is. `room` as for `team_sum`."""
    if lanes > 32:
        return block_greatest(x, room)
    apart = lanes // 2
    while apart > 0:
        x = maximum(x, cuda.shfl_xor_sync(-1, x, int32(apart)))
        apart //= 2
    return x


def row_greatest(x, lane, mine, lanes, room):
    """The greatest of a row of `mine` numbers, NaN if one is; thread `lane` of its team reads every `lanes`-th. `room` as for `team_sum`."""
    top = -real(INFINITY)
    for i in range(lane, mine, lanes):
        top = maximum(top, load(x, i))
    return team_greatest(top, lanes, room)


def row_exponentials(x, top, lane, mine, lanes, room):
    """The sum of exp(x - top) over such a row."""
    total = real(0)
    for i in range(lane, mine, lanes):
        total += exp(load(x, i) - top)
    return team_sum(total, lanes, room)


def tile_sum(x, width, room):
    """The sums of x over the threads that stand below one another, `width` of them side by side; those of the first line have them.

    `room` is a shared array of as many numbers as the block has threads.
    """
    lanes = cuda.blockDim.x // width
    while lanes > 1:
        half = (lanes + 1) // 2
        room[cuda.threadIdx.x] = x
        cuda.syncthreads()
        if cuda.threadIdx.x // width + half < lanes:
            x += room[cuda.threadIdx.x + half * width]
        cuda.syncthreads()
        lanes = half
    return x


TEAMS = (team_of, team_sum, team_greatest)
ROWS = (*TEAMS, row_greatest, row_exponentials)
