"""The control block: the few numbers at the start of every program's arena that change from step to step, and the kernels that look after them.

All slots are 8 bytes wide. `SEED` and `STEP` stand together: they are the key of the random ops.
"""

# pyright: reportUndefinedVariable=false
from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.core import Launch, Scratch
from engine.kernels.library import kernel
from engine.plan import control_grid  # noqa: F401
from engine.plan.plan import Part, Place

# int64
SEED, STEP, EPOCH, POSITION, VERDICT, UPDATES, POLICY, ROWS = (8 * i for i in range(8))
# float64
LOSS, NORM, FACTOR, SKIP_ABOVE, NORM_SUM, NORM_COUNT = (64 + 8 * i for i in range(6))
NBYTES = 192

# verdicts
UPDATE, SKIP, STOP, SKIP_NONFINITE = range(4)
# policies for a value that is not finite
POLICY_STOP, POLICY_SKIP = range(2)

BLOCK = 4096   # elements whose squares are summed together, whatever the number of threads


@kernel("square_blocks", fastmath=("contract", "reassoc", "nsz"))
def square_blocks(arena, words, begin, end):
    """out[b] = sum of squares of block b, as float64. Words: out, in, elements."""
    out = view(arena, words[0], float64)
    for b in range(begin, end):
        first = b * 4096
        size = min(4096, words[2] - first)
        x = view(arena, words[1] + first * WIDTH, real)
        total = real(0.0)     # by lanes, so that no sum has more than a few dozen terms: fast, and accurate to 1e-6
        for i in range(size):
            total += x[i] * x[i]
        out[b] = float64(total)


@kernel("guard")
def guard(arena, words, begin, end):
    """Decide what becomes of the step. Words: partial sums of squares, how many, loss."""
    whole = view(arena, 0, int64)
    number = view(arena, 64, float64)
    partial = view(arena, words[0], float64)
    total = float64(0.0)
    for i in range(words[1]):
        total += partial[i]
    loss = float64(view(arena, words[2], real)[0])
    number[0] = loss
    number[1] = total ** float64(0.5)
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


@kernel("refresh_scalars")
def refresh_scalars(arena, words, begin, end):
    """Put the schedule's factor, and which time of theirs this is, into scalar tables. Words: where their pace is or 0, how many, then the offset of
    each and how many updates its arrays were not part of.
    """
    pace = 1
    if words[0] != 0:
        pace = view(arena, words[0], int64)[0]
    for i in range(words[1]):
        table = view(arena, words[2 + 2 * i], float64)
        table[0] = view(arena, 80, float64)[0]
        table[1] = float64((view(arena, 40, int64)[0] - words[3 + 2 * i]) // pace + 1)


@kernel("open_gate")
def open_gate(arena, words, begin, end):
    """At every how many-th update a step acts, and whether this is one: the product of some counts. Words: out (two int64), how many, offsets."""
    pace = 1
    for i in range(words[1]):
        pace *= int64(view(arena, words[2 + i], float64)[0])
    out = view(arena, words[0], int64)
    out[0] = pace
    out[1] = 1 if (view(arena, 40, int64)[0] + 1) % pace == 0 else 0


@kernel("noise_key")
def noise_key(arena, words, begin, end):
    """The key of an update's random numbers: seed, and which time it is. Words: out (two int64), a scalar table."""
    out = view(arena, words[0], int64)
    out[0] = view(arena, 0, int64)[0]
    out[1] = int64(view(arena, words[1], float64)[1])


@kernel("clip_factor")
def clip_factor(arena, words, begin, end):
    """out = min(1, limit / norm). Words: out (float64), partial sums of squares, how many, offset of the limit (float64)."""
    partial = view(arena, words[1], float64)
    total = float64(0.0)
    for i in range(words[2]):
        total += partial[i]
    norm, limit = total ** float64(0.5), view(arena, words[3], float64)[0]
    view(arena, words[0], float64)[0] = limit / norm if norm > limit else float64(1.0)


@kernel("scale_by")
def scale_by(arena, words, begin, end):
    """x *= factor, where the factor is not 1. Words: x, factor (float64)."""
    factor = real(view(arena, words[1], float64)[0])
    x = view(arena, words[0] + begin * WIDTH, real)
    if factor != 1.0:
        for i in range(end - begin):
            x[i] = x[i] * factor


@kernel("add_up")
def add_up(arena, words, begin, end):
    """total[i] += x[i], in float64. Words: total, x."""
    total = view(arena, words[0] + begin * 8, float64)
    x = view(arena, words[1] + begin * WIDTH, real)
    for i in range(end - begin):
        total[i] += float64(x[i])


@kernel("keep_rows")
def keep_rows(arena, words, begin, end):
    """Rows of a batch, put behind those of the batches before it. Words: out, in, bytes of a row, rows of a full batch."""
    width = words[2]
    out = view(arena, words[0] + (view(arena, 24, int64)[0] * words[3] + begin) * width, uint8)
    x = view(arena, words[1] + begin * width, uint8)
    for i in range((end - begin) * width):
        out[i] = x[i]


@kernel("copy_bytes")
def copy_bytes(arena, words, begin, end):
    """out[i] = in[i] for elements of `words[2]` bytes."""
    width = words[2]
    out = view(arena, words[0] + begin * width, uint8)
    x = view(arena, words[1] + begin * width, uint8)
    for i in range((end - begin) * width):
        out[i] = x[i]


@kernel("count_steps")
def count_steps(arena, words, begin, end):
    """The counters that expressions may read, as real numbers: steps and epochs from 1. Words: step, epoch."""
    view(arena, words[0], real)[0] = real(view(arena, 8, int64)[0] + 1)
    view(arena, words[1], real)[0] = real(view(arena, 16, int64)[0] + 1)


def squares(offset: int, size: int, dtype: str) -> tuple[Launch, Scratch, int]:
    """A launch that sums squares of `size` elements at `offset` by blocks: (launch, partial sums, how many)."""
    blocks = -(-size // BLOCK)
    partial = Scratch(8 * max(blocks, 1))
    return Launch("square_blocks", dtype, (partial, Place(offset), size), blocks, cost=BLOCK * 0.06), partial, blocks


def clip(regions: Sequence[tuple[int, int]], limit: int, dtype: str) -> list[Launch]:
    """Launches that scale the regions (offset, size) so that their joint norm is at most the float64 at offset `limit`."""
    launches: list[Launch] = []
    partials = Scratch(8 * max(1, sum(-(-size // BLOCK) for _, size in regions)))
    done = 0
    for offset, size in regions:
        blocks = -(-size // BLOCK)
        launches.append(Launch("square_blocks", dtype, (Part(partials, 8 * done), Place(offset), size), blocks, cost=BLOCK * 0.06))
        done += blocks
    factor = Scratch(8)
    launches.append(Launch("clip_factor", dtype, (factor, partials, done, Place(limit)), 1))
    launches += [Launch("scale_by", dtype, (Place(offset), factor), size, cost=0.1) for offset, size in regions]
    return launches


def fresh(seed: int) -> np.ndarray:
    """A control block at the beginning of a run, as bytes."""
    block = np.zeros(NBYTES, np.uint8)
    whole, number = block[:64].view(np.int64), block[64:128].view(np.float64)
    whole[SEED // 8] = np.uint64(seed & (2**64 - 1)).astype(np.int64)
    number[(FACTOR - 64) // 8] = 1.0
    number[(SKIP_ABOVE - 64) // 8] = np.inf
    return block


