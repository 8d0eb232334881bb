"""softmax and its kin on a GPU: a team of threads for each row, read anew for each step, since it stays in the nearest cache."""

# pyright: reportUndefinedVariable=false
from __future__ import annotations

from engine.kernels.grid import grid
from engine.ops.teams import ROWS, TEAMS, THREADS


def share(x, top):
    """exp(x - top); where the greatest is infinite, all of it goes to the infinite ones."""
    infinite = top == INFINITY
    return select(infinite, select(x == INFINITY, real(1), select(x != x, x, real(0))), exp(x - top))


@grid("softmax", threads=THREADS, uses=(*ROWS, share))
def softmax_grid(arena, words, size):
    """y = exp(x - max) / sum. Words: out, in, row length."""
    n, room = int32(words[2]), cuda.shared.array(32, real)
    lanes = team_of(n)
    teams, lane = cuda.blockDim.x // lanes, cuda.threadIdx.x % lanes
    for first in range(cuda.blockIdx.x * teams, size, cuda.gridDim.x * teams):
        row = first + cuda.threadIdx.x // lanes
        mine = n if row < size else 0
        x = view(arena, words[1] + row * n * WIDTH, real)
        y = view(arena, words[0] + row * n * WIDTH, real)
        top = row_greatest(x, lane, mine, lanes, room)
        total = 0.0
        for i in range(lane, mine, lanes):
            total += share(load(x, i), top)
        scale = 1.0 / team_sum(total, lanes, room)
        for i in range(lane, mine, lanes):
            store(y, i, share(load(x, i), top) * scale)


@grid("log_softmax", threads=THREADS, uses=ROWS)
def log_softmax_grid(arena, words, size):
    """y = x - max - log(sum(exp(x - max))). Words: out, in, row length."""
    n, room = int32(words[2]), cuda.shared.array(32, real)
    lanes = team_of(n)
    teams, lane = cuda.blockDim.x // lanes, cuda.threadIdx.x % lanes
    for first in range(cuda.blockIdx.x * teams, size, cuda.gridDim.x * teams):
        row = first + cuda.threadIdx.x // lanes
        mine = n if row < size else 0
        x = view(arena, words[1] + row * n * WIDTH, real)
        y = view(arena, words[0] + row * n * WIDTH, real)
        top = row_greatest(x, lane, mine, lanes, room)
        shift = log(row_exponentials(x, top, lane, mine, lanes, room))
        for i in range(lane, mine, lanes):
            store(y, i, (load(x, i) - top) - shift)


@grid("logsumexp", threads=THREADS, uses=ROWS)
def logsumexp_grid(arena, words, size):
    """out[r] = max + log(sum(exp(x - max))). Words: out, in, row length."""
    n, room = int32(words[2]), cuda.shared.array(32, real)
    lanes, out = team_of(n), view(arena, words[0], real)
    teams, lane = cuda.blockDim.x // lanes, cuda.threadIdx.x % lanes
    for first in range(cuda.blockIdx.x * teams, size, cuda.gridDim.x * teams):
        row = first + cuda.threadIdx.x // lanes
        mine = n if row < size else 0
        x = view(arena, words[1] + row * n * WIDTH, real)
        top = row_greatest(x, lane, mine, lanes, room)
        total = row_exponentials(x, top, lane, mine, lanes, room)
        if lane == 0 and row < size:
            out[row] = top + log(total) if isfinite(top) else top


@grid("softmax_grad", threads=THREADS, uses=TEAMS)
def softmax_grad_grid(arena, words, size):
    """out = y (ct - sum(ct y)). Words: out, ct, y, row length."""
    n, room = int32(words[3]), cuda.shared.array(32, real)
    lanes = team_of(n)
    teams, lane = cuda.blockDim.x // lanes, cuda.threadIdx.x % lanes
    for first in range(cuda.blockIdx.x * teams, size, cuda.gridDim.x * teams):
        row = first + cuda.threadIdx.x // lanes
        mine = n if row < size else 0
        ct = view(arena, words[1] + row * n * WIDTH, real)
        y = view(arena, words[2] + row * n * WIDTH, real)
        out = view(arena, words[0] + row * n * WIDTH, real)
        total = 0.0
        for i in range(lane, mine, lanes):
            total += load(ct, i) * load(y, i)
        total = team_sum(total, lanes, room)
        for i in range(lane, mine, lanes):
            store(out, i, load(y, i) * (load(ct, i) - total))


@grid("log_softmax_grad", threads=THREADS, uses=TEAMS)
def log_softmax_grad_grid(arena, words, size):
    """out = ct - exp(y) sum(ct). Words: out, ct, y, row length."""
    n, room = int32(words[3]), cuda.shared.array(32, real)
    lanes = team_of(n)
    teams, lane = cuda.blockDim.x // lanes, cuda.threadIdx.x % lanes
    for first in range(cuda.blockIdx.x * teams, size, cuda.gridDim.x * teams):
        row = first + cuda.threadIdx.x // lanes
        mine = n if row < size else 0
        ct = view(arena, words[1] + row * n * WIDTH, real)
        y = view(arena, words[2] + row * n * WIDTH, real)
        out = view(arena, words[0] + row * n * WIDTH, real)
        total = 0.0
        for i in range(lane, mine, lanes):
            total += load(ct, i)
        total = team_sum(total, lanes, room)
        for i in range(lane, mine, lanes):
            store(out, i, load(ct, i) - exp(load(y, i)) * total)
