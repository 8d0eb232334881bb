"""The control area, by which a GPU steers the steps of a run, and the kernels that set it.

It is behind the program in the arena: GO, UPDATE, METRICS (gates, 0 while shut), DONE (steps finished), then float64 factors[MOST] and
float64 series[MOST, 2].
"""

# pyright: reportUndefinedVariable=false
from __future__ import annotations

from engine.kernels.grid import grid
from engine.kernels.library import kernel
from engine.ops.elementwise_grid import THREADS
from engine.plan.control_grid import copy_all

GO, UPDATE, METRICS, DONE = (8 * i for i in range(4))
FACTORS = 64
MOST = 4096                     # steps between two times that factors are written and series are read
SERIES = FACTORS + 8 * MOST
NBYTES = SERIES + 16 * MOST


@kernel("decide_step")
def decide_step(arena, words, begin, end):
    """Set the gates by the guard's verdict, and the schedule's factor for this step. Words: area, factors (float64).

    Read from the control block: verdict (32). Written: factor (80). Numbers are moved as they are, in whole words.
    """
    area, verdict = view(arena, words[0], int64), view(arena, 32, int64)[0]
    view(arena, 80, int64)[0] = view(arena, words[1], int64)[area[3]]
    area[0] = 0 if verdict == 2 else 1
    area[1] = 1 if verdict == 0 else 0
    area[2] = 1 if verdict < 2 else 0


@kernel("end_step")
def end_step(arena, words, begin, end):
    """Count a step that is finished. Words: area, series (float64 [steps, 2]), whether it trains.

    In the control block: step (8), position (24), updates (40); loss (64) and gradient norm (72) become the step's entry of the series.
    """
    area, whole, training = view(arena, words[0], int64), view(arena, 0, int64), words[2]
    if training == 1:
        log, number = view(arena, words[1] + 16 * area[3], int64), view(arena, 64, int64)
        log[0] = number[0]
        log[1] = number[1]
        whole[1] += 1
        if area[1] == 1:
            whole[5] += 1
    whole[3] += 1
    area[3] += 1


@kernel("take_batch")
def take_batch(arena, words, begin, end):
    """Put the batch that was sent for this step into its place, 16 bytes a number. Words: out, ring of batches, bytes from one to the next, how many,
    area.
    """
    out = view(arena, words[0], int64)
    x = view(arena, words[1] + view(arena, words[4], int64)[3] % words[3] * words[2], int64)
    for i in range(2 * begin, 2 * end):
        out[i] = x[i]


@grid("take_batch", threads=THREADS, units=THREADS, uses=(copy_all,))
def take_batch_grid(arena, words, size):
    """A thread per 16 bytes; words as on the CPU."""
    copy_all(arena, words[0], words[1] + view(arena, words[4], int64)[3] % words[3] * words[2], 16 * size)
