"""GPU kernels of the control block and of sums of squares, with the words of the CPU's. Their trees of additions are fixed: a thread's own numbers
first, then warps, then the block.
"""

# pyright: reportUndefinedVariable=false
from __future__ import annotations

from engine.kernels.grid import grid
from engine.ops.elementwise_grid import THREADS, UNITS


def sum_of(x, count, room):
    """The sum of `count` float64 by one block. `room` as for `block_sum`."""
    total = float64(0.0)
    for i in range(cuda.threadIdx.x, count, cuda.blockDim.x):
        total += x[i]
    return block_sum(total, room)


def copy_all(arena, to, fro, nbytes):
    """Copy bytes by all threads: 16 at a time, or 4, where both addresses allow that."""
    at = uint32(cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x)
    step = uint32(cuda.gridDim.x * cuda.blockDim.x)
    done = int64(0)
    if (to | fro) & 15 == 0:
        y, x, k = view(arena, to, int32), view(arena, fro, int32), at
        while k < nbytes // 16:
            a, b, c, d = four_of(x, 4 * int64(k))
            put_four(y, 4 * int64(k), a, b, c, d)
            k = uint32(k + step)
        done = nbytes // 16 * 16
    elif (to | fro) & 3 == 0:
        y, x, k = view(arena, to, int32), view(arena, fro, int32), at
        while k < nbytes // 4:
            y[k] = x[k]
            k = uint32(k + step)
        done = nbytes // 4 * 4
    y1, x1, i = view(arena, to, uint8), view(arena, fro, uint8), done + at
    while i < nbytes:
        y1[i] = x1[i]
        i += step


@grid("square_blocks", threads=THREADS, wide=True)
def square_blocks(arena, words, size):
    """A block of threads per block of 4096 elements; what a thread reads at once is added pair by pair."""
    out, x, room = view(arena, words[0], float64), view(arena, words[1], real), cuda.shared.array(32, real)
    for unit in range(cuda.blockIdx.x, size, cuda.gridDim.x):
        first = int64(unit) * 4096
        count = min(words[2] - first, 4096)
        fours = count // 4 if words[1] & 15 == 0 else 0
        total = real(0)
        for k in range(cuda.threadIdx.x, fours, cuda.blockDim.x):
            a, b, c, d = four_of(x, first + 4 * k)
            total += (a * a + b * b) + (c * c + d * d)
        for i in range(4 * fours + cuda.threadIdx.x, count, cuda.blockDim.x):
            total += x[first + i] * x[first + i]
        total = block_sum(total, room)
        if cuda.threadIdx.x == 0:
            out[unit] = float64(total)


@grid("guard", threads=THREADS, uses=(sum_of,), wide=True)
def guard(arena, words, size):
    """One block adds the partial sums; its first thread decides, as on the CPU."""
    whole, number, room = view(arena, 0, int64), view(arena, 64, float64), cuda.shared.array(32, float64)
    if cuda.blockIdx.x == 0:
        total = sum_of(view(arena, words[0], float64), words[1], room)
        if cuda.threadIdx.x == 0:
            loss = float64(view(arena, words[2], real)[0])
            number[0] = loss
            number[1] = sqrt(total)
            finite = (loss - loss == float64(0.0)) and (total - total == float64(0.0))
            if not finite:
                whole[4] = 3 if whole[6] == 1 else 2
            elif loss > number[3]:
                whole[4] = 1
            else:
                whole[4] = 0
            if finite:
                number[4] += number[1]
                number[5] += float64(1.0)


@grid("clip_factor", threads=THREADS, uses=(sum_of,), wide=True)
def clip_factor(arena, words, size):
    """One block adds the partial sums; words as on the CPU (out, partial sums, how many, limit)."""
    room = cuda.shared.array(32, float64)
    if cuda.blockIdx.x == 0:
        total = sum_of(view(arena, words[1], float64), words[2], room)
        if cuda.threadIdx.x == 0:
            norm, limit = sqrt(total), view(arena, words[3], float64)[0]
            view(arena, words[0], float64)[0] = limit / norm if norm > limit else float64(1.0)


@grid("scale_by", threads=THREADS, units=UNITS)
def scale_by(arena, words, size):
    """x *= factor, where the factor is not 1. Words: x, factor (float64)."""
    factor, x = real(view(arena, words[1], float64)[0]), view(arena, words[0], real)
    at = uint32(cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x)
    step = uint32(cuda.gridDim.x * cuda.blockDim.x)
    fours = uint32(size // 4 if words[0] & 15 == 0 else 0)
    rest = uint32(4 * fours + at)
    if factor != 1.0:
        while at < fours:
            a, b, c, d = four_of(x, uint32(4 * at))
            put_four(x, uint32(4 * at), a * factor, b * factor, c * factor, d * factor)
            at = uint32(at + step)
        while rest < size:
            x[rest] = x[rest] * factor
            rest = uint32(rest + step)


@grid("copy_bytes", threads=THREADS, units=UNITS, uses=(copy_all,))
def copy_bytes(arena, words, size):
    """out[i] = in[i] for elements of `words[2]` bytes."""
    copy_all(arena, words[0], words[1], size * words[2])


@grid("keep_rows", threads=THREADS, uses=(copy_all,))
def keep_rows(arena, words, size):
    """Rows of a batch, put behind those of the batches before it; words as on the CPU (out, in, bytes of a row, rows of a full batch)."""
    copy_all(arena, words[0] + view(arena, 24, int64)[0] * words[3] * words[2], words[1], size * words[2])
