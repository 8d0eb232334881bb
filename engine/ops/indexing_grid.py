"""Rows chosen by numbers, on a GPU. Rows are added up without atomics: first the places of each row's numbers are listed, in their order, then each
row adds up its own.
"""

# pyright: reportUndefinedVariable=false
from __future__ import annotations

from engine.core import Launch, Node, Scratch
from engine.kernels.grid import grid
from engine.ops.teams import THREADS, tile_sum

LISTS, BLOCKS = 128, 128      # rows of a table that a block lists at most, a thread each; blocks that list, where there are as many rows


def reach_of(n):
    """How many neighbouring threads take a row of n numbers, one number each at a time: 1 to 32."""
    reach = 1
    while reach < 32 and reach < n:
        reach *= 2
    return int32(reach)


@grid("gather", threads=THREADS, uses=(reach_of,))
def gather_grid(arena, words, size):
    """out[i] = table[index[i]]. Words: out, table, rows of the table, indices, their bytes, elements of a row; first element of out, from row to
    row."""
    rows, width = words[2], int32(words[5])
    reach = reach_of(width)
    teams, lane = cuda.blockDim.x // reach, cuda.threadIdx.x % reach
    for i in range(cuda.blockIdx.x * teams + cuda.threadIdx.x // reach, size, cuda.gridDim.x * teams):
        k = whole_number(arena, words[3], words[4], i)
        known = 0 <= k < rows
        x = view(arena, words[1] + (k if known else 0) * width * WIDTH, real)
        y = view(arena, words[0] + (words[6] + i * words[7]) * WIDTH, real)
        for c in range(lane, width, reach):
            store(y, c, load(x, c) if known else NAN)


@grid("one_hot", threads=THREADS, uses=(reach_of,))
def one_hot_grid(arena, words, size):
    """Rows of zeros with a 1 at the class. Words: out, indices, their bytes, classes."""
    classes = int32(words[3])
    reach = reach_of(classes)
    teams, lane = cuda.blockDim.x // reach, cuda.threadIdx.x % reach
    for i in range(cuda.blockIdx.x * teams + cuda.threadIdx.x // reach, size, cuda.gridDim.x * teams):
        k = whole_number(arena, words[1], words[2], i)
        y = view(arena, words[0] + i * classes * WIDTH, real)
        for c in range(lane, classes, reach):
            store(y, c, select(c == k, 1.0, 0.0))


# ---------------------------------------------------------------- scatter_add

@grid("scatter_order", threads=THREADS)
def scatter_order_grid(arena, words, size):
    """order[starts[k] : starts[k + 1]] are the places i, ascending, where index[i] = k. Words: order, starts, indices, their bytes, how many, rows,
    rows of a block.

    Each block goes through all indices and picks out those of its own rows, in their order: once to count them and those of the rows before, once
    to list them. From what it picked each thread takes what is its row's; where the block has one row, all of it is.
    """
    order, starts = view(arena, words[0], int32), view(arena, words[1], int32)
    count, rows, own = int32(words[4]), int32(words[5]), int32(words[6])
    picked = cuda.shared.array(512, int32)
    rows_of_picked = cuda.shared.array(512, int32)
    sums = cuda.shared.array(256, int32)
    thread, threads = int32(cuda.threadIdx.x), int32(cuda.blockDim.x)
    for block in range(cuda.blockIdx.x, size, cuda.gridDim.x):
        first, before, at = int32(block * own), int32(0), int32(0)
        last = min(first + own, rows)
        for listing in range(2):
            held = int32(0)
            for base in range(0, count, threads):
                i = base + thread
                k = whole_number(arena, words[2], words[3], i) if i < count else -1
                before += int32(1 if 0 <= k < first else 0)
                hit = int32(1 if first <= k < last else 0)
                hits = cuda.syncthreads_count(hit)
                if hits > 0:
                    place, whole, apart = held, hit, 1      # hits of the threads before this one; of ever more of its warp
                    while apart < 32:
                        other = cuda.shfl_xor_sync(-1, whole, int32(apart))
                        place += other if thread & apart != 0 else int32(0)
                        whole += other
                        apart *= 2
                    if thread % 32 == 0:
                        sums[thread // 32] = whole
                    cuda.syncthreads()
                    for warp in range(thread // 32):
                        place += sums[warp]
                    if hit == 1:
                        picked[place] = i
                        rows_of_picked[place] = int32(k - first)
                    held += int32(hits)
                    cuda.syncthreads()
                if held + threads > 512 or base + threads >= count:
                    if own == 1:
                        for h in range(thread, held if listing == 1 else 0, threads):
                            order[at + h] = picked[h]
                        at += held
                    else:
                        for h in range(held):
                            if rows_of_picked[h] == thread:
                                if listing == 1:
                                    order[at] = picked[h]
                                at += int32(1)
                    held = int32(0)
            if listing == 0:
                cuda.syncthreads()
                before = int32(block_sum(before, sums))
                sums[thread] = at
                cuda.syncthreads()
                at = before
                for other in range(thread if own > 1 else 0):
                    at += sums[other]
                if first + thread < last:
                    starts[first + thread] = at
                cuda.syncthreads()
        if last == rows and first + thread == rows - 1:
            starts[rows] = at


@grid("scatter_sums", threads=THREADS, uses=(reach_of, tile_sum))
def scatter_sums_grid(arena, words, size):
    """Each row adds up what its list names: a few threads for each row, the whole block for a long list. Words: out, updates, order, starts,
    elements of a row; first element of updates, from row to row."""
    order, starts = view(arena, words[2], int32), view(arena, words[3], int32)
    width, step, room = int32(words[4]), words[6], cuda.shared.array(256, real)
    x = view(arena, words[1] + words[5] * WIDTH, real)
    reach = reach_of(width)
    lanes, lane, low = cuda.blockDim.x // reach, cuda.threadIdx.x // reach, cuda.threadIdx.x % reach
    teams = max(1, min(lanes, size // 256))
    for first in range(cuda.blockIdx.x * teams, size, cuda.gridDim.x * teams):
        row = first + lane
        mine = lane < teams and row < size
        begin, end = starts[row if mine else 0], starts[row + 1 if mine else 0]
        if mine and end - begin <= 32:
            y = view(arena, words[0] + row * width * WIDTH, real)
            for c in range(low, width, reach):
                total = 0.0
                for j in range(begin, end):
                    total += load(x, order[j] * step + c)
                store(y, c, total)
        if cuda.syncthreads_or(int32(1 if mine and end - begin > 32 else 0)):
            for row in range(first, min(first + teams, size)):
                begin, end = starts[row], starts[row + 1]
                y = view(arena, words[0] + row * width * WIDTH, real)
                for left in range(0, width if end - begin > 32 else 0, reach):
                    c = left + low
                    total = 0.0
                    for j in range(begin + lane, end if c < width else 0, lanes):
                        total += load(x, order[j] * step + c)
                    total = tile_sum(total, reach, room)
                    if lane == 0 and c < width:
                        store(y, c, total)


def scattering(node: Node, indices: Node, index_bytes: int, width: int, updates: Node, start: int, step: int) -> list[Launch]:
    """The launches that list the places of each row's indices, then add up the rows of updates that stand there."""
    rows = node.shape[0]
    own = max(1, min(LISTS, -(-rows // BLOCKS)))
    order, starts = Scratch(4 * indices.size), Scratch(4 * (rows + 1))
    return [Launch("scatter_order", node.dtype, (order, starts, indices, index_bytes, indices.size, rows, own), -(-rows // own)),
            Launch("scatter_sums", node.dtype, (node, updates, order, starts, width, start, step), rows)]
