"""batch_norm on a GPU: rows of the features' numbers by one block, tiles of 32 columns for sums, a thread for each number of the rest."""

# pyright: reportUndefinedVariable=false
from __future__ import annotations

from engine.kernels.grid import define_grid, grid
from engine.ops.teams import THREADS, tile_sum

_ROWS = """def run(arena, words, size):
    # as on the CPU
    features, lanes, epsilon = int32(words[2]), words[3], real(number_of(words[4]))
    columns = features * lanes
    out, moments = view(arena, words[0], real), view(arena, words[1], real)
    {names}
    for c in range(cuda.threadIdx.x, columns if cuda.blockIdx.x == 0 else 0, cuda.blockDim.x):
        i = c - int32(c) // features * features
        scale = 1.0 / sqrt(moments[features + i] + epsilon)
        {rows}
"""


def define_rows(name: str, names: str, rows: str) -> None:
    """The GPU kernel that makes rows of the features' numbers: what the CPU kernel of that name does."""
    define_grid(name, _ROWS.format(names=names, rows=rows), THREADS)


@grid("batch_norm", threads=THREADS, units=THREADS)
def batch_norm_grid(arena, words, size):
    """out = (x - mean) scale + bias. Words: out, x, rows of mean, scale and bias, columns."""
    columns, rows = int32(words[3]), view(arena, words[2], real)
    x, y = view(arena, words[1], real), view(arena, words[0], real)
    for i in range(cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x, size, cuda.gridDim.x * cuda.blockDim.x):
        c = i - int32(i) // columns * columns
        store(y, i, (load(x, i) - load(rows, c)) * load(rows, columns + c) + load(rows, 2 * columns + c))


@grid("batch_norm_grad", threads=THREADS, units=THREADS)
def batch_norm_grad_grid(arena, words, size):
    """out = scale (ct - level - (x - mean) slope). Words: out, ct, x, rows of mean, scale, level and slope, columns."""
    columns, rows = int32(words[4]), view(arena, words[3], real)
    ct, x, y = view(arena, words[1], real), view(arena, words[2], real), view(arena, words[0], real)
    for i in range(cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x, size, cuda.gridDim.x * cuda.blockDim.x):
        c = i - int32(i) // columns * columns
        slope = (load(x, i) - load(rows, c)) * load(rows, 3 * columns + c)
        store(y, i, load(rows, columns + c) * (load(ct, i) - load(rows, 2 * columns + c) - slope))


@grid("batch_norm_sums_tiles", threads=THREADS, uses=(tile_sum,))
def sums_tiles(arena, words, size):
    """As batch_norm_sums_blocks, a tile of 32 columns of a block for each number of the size. Words: the same."""
    numbers, block, columns = words[4], words[5], int32(words[6])
    room, rows = cuda.shared.array(256, real), view(arena, words[3], real)
    tiles, blocks = (columns + 31) // 32, (numbers + block - 1) // block
    line, lines = cuda.threadIdx.x // 32, cuda.blockDim.x // 32
    for unit in range(cuda.blockIdx.x, size, cuda.gridDim.x):
        b = int32(unit) // int32(tiles)
        c = (unit - b * tiles) * 32 + cuda.threadIdx.x % 32
        mine = (int32(min(block, numbers - b * block) - c) + columns - 1) // columns if c < columns else 0
        ct = view(arena, words[1] + (b * block + c) * WIDTH, real)
        x = view(arena, words[2] + (b * block + c) * WIDTH, real)
        mean, total, along = rows[min(c, columns - 1)], 0.0, 0.0
        for r in range(line, mine, lines):
            total += load(ct, r * columns)
            along += load(ct, r * columns) * (load(x, r * columns) - mean)
        total, along = tile_sum(total, 32, room), tile_sum(along, 32, room)
        if line == 0 and c < columns:
            out = view(arena, words[0] + (b * columns + c) * WIDTH, real)
            out[0] = total
            out[blocks * columns] = along * rows[columns + c]
