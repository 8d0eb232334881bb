"""softmax_cross_entropy on a GPU: a team of threads for each row, whether classes are few or many; no room for exponentials."""

# pyright: reportUndefinedVariable=false
from __future__ import annotations

from engine.kernels.grid import grid
from engine.ops.teams import ROWS, THREADS


@grid("softmax_cross_entropy", threads=THREADS, uses=ROWS)
def loss_grid(arena, words, size):
    """out[r] = sum(t) log(sum(exp(x))) - sum(t x). Words: out, x, t, bytes of a label or 0 where t are floats, row length."""
    wide, n, room = words[3], int32(words[4]), cuda.shared.array(32, real)
    lanes, out = team_of(n), view(arena, words[0], real)
    teams, lane = cuda.blockDim.x // lanes, cuda.threadIdx.x % lanes
    for first in range(cuda.blockIdx.x * teams, size, cuda.gridDim.x * teams):
        row = first + cuda.threadIdx.x // lanes
        mine = n if row < size else 0
        x = view(arena, words[1] + row * n * WIDTH, real)
        top = row_greatest(x, lane, mine, lanes, room)
        shift = log(row_exponentials(x, top, lane, mine, lanes, room))
        if wide != 0:
            if lane == 0 and row < size:
                k = whole_number(arena, words[2], wide, row)
                out[row] = shift - (load(x, k) - top) if 0 <= k < n else NAN
        else:
            t = view(arena, words[2] + row * n * WIDTH, real)
            loss = 0.0
            for i in range(lane, mine, lanes):
                loss += select(load(t, i) == 0.0, 0.0, load(t, i) * (shift - (load(x, i) - top)))
            loss = team_sum(loss, lanes, room)
            if lane == 0 and row < size:
                out[row] = loss


@grid("softmax_cross_entropy_grad", threads=THREADS, uses=ROWS)
def grad_grid(arena, words, size):
    """out = ct (sum(t) softmax(x) - t) per row. Words: out, ct, its step from row to row, x, t, bytes of a label or 0, row length."""
    wide, n, room = words[5], int32(words[6]), cuda.shared.array(32, real)
    lanes = team_of(n)
    teams, lane = cuda.blockDim.x // lanes, cuda.threadIdx.x % lanes
    for first in range(cuda.blockIdx.x * teams, size, cuda.gridDim.x * teams):
        row = first + cuda.threadIdx.x // lanes
        mine, held = n if row < size else 0, min(row, size - 1)
        x = view(arena, words[3] + row * n * WIDTH, real)
        y = view(arena, words[0] + row * n * WIDTH, real)
        ct = view(arena, words[1], real)[held * words[2]]
        top = row_greatest(x, lane, mine, lanes, room)
        total = row_exponentials(x, top, lane, mine, lanes, room)
        if wide != 0:
            k = whole_number(arena, words[4], wide, held)
            scale = ct / total if 0 <= k < n else NAN
            for i in range(lane, mine, lanes):
                store(y, i, exp(load(x, i) - top) * scale - select(i == k, ct, 0.0))
        else:
            t = view(arena, words[4] + row * n * WIDTH, real)
            weight = 0.0
            for i in range(lane, mine, lanes):
                weight += load(t, i)
            scale = team_sum(weight, lanes, room) / total
            for i in range(lane, mine, lanes):
                store(y, i, ct * (exp(load(x, i) - top) * scale - load(t, i)))
