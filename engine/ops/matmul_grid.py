"""Matrix products on a GPU: C = op(A) op(B) by blocks of threads, and what goes with it done before numbers are written.

A block of 64 threads makes a square tile of C, eight by eight threads with a square of numbers each, in registers. It reads A and B tile by tile into
shared memory; the next tiles are on their way while it computes with the last. Tiles are 64, 32 or 16 wide: smaller ones where larger ones would
leave most of a GPU idle. Where C is small and the sums are long, sums are cut in parts, which a second launch adds up. Shapes alone decide all that,
so a product has the same bits on any GPU.
"""

# pyright: reportUndefinedVariable=false
from __future__ import annotations

import ast
import copy
import inspect
import re
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np

from engine.core import Launch, Node, Scratch, count
from engine.kernels.grid import define_grid, grid

ROW, RELU, GATE = 1, 2, 3      # how to finish: plus a row, relu of that, times (M > 0)
PRECISIONS = {"full": 0, "tf32": 1, "bf16": 2}
"""How the operands of a float32 product are rounded before they are multiplied; sums are of float32 always. bf16 has float32's range of exponents,
so no gradient is lost to zero and no loss needs scaling. Only products that a library may make are rounded: it has units for that. Tiles of
convolutions and squares of attention are multiplied by those for float32, where rounding would cost bits and win nothing."""
PRECISION = 12                 # the word that says which
WIDTHS = (64, 32, 16)          # of a tile of C
ENOUGH = 128                   # tiles that give a GPU something to do
LONG, PART = 1024, 256         # sums beyond the first are cut in parts of at least the second
MOST_PARTS = 512               # of all tiles together
WORTH_A_PASS = 1 << 26         # multiply-adds beyond which a pass over C costs less than a library saves that leaves relu and gates to us


# Words of all kernels here: C, A, B, m, n, k, whether A and B are turned, how many products, how to finish, what with and its row stride, precision,
# the length of a part of the sums, and where parts of C go (0 where the sums are whole).

def finished(value, finish, more, row, column, ldm):
    """A number of C, finished."""
    if finish == 3:
        return value * select(more[row * ldm + column] > real(0), real(1), real(0))
    if finish != 0:
        value += more[column]
        return select(finish == 2 and value < real(0), real(0), value)
    return value


def rounded(value, precision):
    """A float32 with the fraction of TF32 (10 bits; half away from zero) or bfloat16 (7 bits; half to even)."""
    bits = int32(bits_of(value))
    if precision == 1:
        near = int32(int32(bits + int32(4096)) & int32(-8192))
    else:
        near = int32(int32(bits + int32(32767) + (int32(bits >> int32(16)) & int32(1))) & int32(-65536))
    return select(value == value, real(number_of(near)), value)


def read_tile(arena, found, at, ld, long, first, last, following, end, row, column, apart, fours):
    """What a thread reads of a tile: four columns of several rows, `apart` from each other. The tile goes from `first` on in the one direction, which
    ends at `last`, and from `following` on along k, which ends at `end`; `long` where rows of memory go along k. Nought where nothing is.
    """
    row, column, rows, columns = (first + row, following + column, last, end) if long else (following + row, first + column, end, last)
    rows, columns = int32(rows - row), int32(columns - column)
    x = view(arena, at + (row * ld + column) * WIDTH, real)
    for q in range(16 // WIDTH):
        if fours and columns > 3 and q * apart < rows:
            found[4 * q], found[4 * q + 1], found[4 * q + 2], found[4 * q + 3] = four_of(x, q * apart * ld)
        else:
            for e in range(4):
                found[4 * q + e] = x[q * apart * ld + e] if e < columns and q * apart < rows else real(0)


def write_tile(side, found, long, at, width, depth, stride):
    """Put what a thread has read of a tile into shared memory, from `at` on."""
    if long:
        for e in range(64 // WIDTH):
            side[uint64(at + e // 4 * (256 // depth) + e % 4 * stride)] = found[e]
    else:
        for e in range(64 // WIDTH):
            side[uint64(at + e // 4 * (256 // width) * stride + e % 4)] = found[e]


def product(arena, words, size):
    """The kernel's text, for tiles SIDE wide and DEPTH deep; `size` counts tiles, times parts, times products."""
    m, n, k, turned_a, turned_b, finish, precision, part = words[3], words[4], words[5], words[6], words[7], words[9], words[12], words[13]
    across, down, parts = (n + SIDE - 1) // SIDE, (m + SIDE - 1) // SIDE, max(1, (k + part - 1) // part)
    thread = cuda.threadIdx.x
    y, x = thread // 8, thread % 8
    # A tile of A or B lies in memory in rows along k, or else along m or n. A thread takes the same four columns of several rows. Places in shared
    # memory are uint64, because numba takes a negative index for one from the end and would look.
    a_long, b_long = turned_a == 0, turned_b != 0
    a_ld, b_ld = (k if a_long else m), (k if b_long else n)
    a_quads, b_quads = (DEPTH // 4 if a_long else SIDE // 4), (DEPTH // 4 if b_long else SIDE // 4)      # of a row
    a_row, a_column, a_rows = thread // a_quads, thread % a_quads * 4, 64 // a_quads
    b_row, b_column, b_rows = thread // b_quads, thread % b_quads * 4, 64 // b_quads
    a_put = a_column * STRIDE + a_row if a_long else a_row * STRIDE + a_column
    b_put = b_column * STRIDE + b_row if b_long else b_row * STRIDE + b_column
    left = cuda.shared.array(ROOM, real)
    right = cuda.shared.array(ROOM, real)
    next_a = cuda.local.array(16, real)
    next_b = cuda.local.array(16, real)
    sums = cuda.local.array(EACH * EACH, real)
    lefts = cuda.local.array(EACH, real)
    rights = cuda.local.array(EACH, real)
    for unit in range(cuda.blockIdx.x, size, cuda.gridDim.x):
        tile, rest = unit % (across * down), unit // (across * down)
        i, j, piece, s = tile // across * SIDE, tile % across * SIDE, rest % parts, rest // parts
        begin = piece * part
        end = min(k, begin + part)
        a_at, b_at = words[1] + s * m * k * WIDTH, words[2] + s * k * n * WIDTH
        a_fours, b_fours = a_at % 16 == 0 and a_ld % 4 == 0, b_at % 16 == 0 and b_ld % 4 == 0
        for e in range(EACH):
            for f in range(EACH):
                sums[e * EACH + f] = 0.0
        p = begin - DEPTH
        while p < end:
            following = p + DEPTH
            if following < end:
                read_tile(arena, next_a, a_at, a_ld, a_long, i, m, following, end, a_row, a_column, a_rows, a_fours)
                read_tile(arena, next_b, b_at, b_ld, b_long, j, n, following, end, b_row, b_column, b_rows, b_fours)
            if p >= begin:
                for d in range(min(DEPTH, end - p)):
                    for e in range(EACH):
                        lefts[e] = left[uint64(d * STRIDE + y + 8 * e)]
                        rights[e] = right[uint64(d * STRIDE + x + 8 * e)]
                    for e in range(EACH):
                        for f in range(EACH):
                            sums[e * EACH + f] += lefts[e] * rights[f]
            cuda.syncthreads()
            if following < end:
                if precision != 0:
                    for e in range(64 // WIDTH):
                        next_a[e] = rounded(next_a[e], precision)
                        next_b[e] = rounded(next_b[e], precision)
                write_tile(left, next_a, a_long, a_put, SIDE, DEPTH, STRIDE)
                write_tile(right, next_b, b_long, b_put, SIDE, DEPTH, STRIDE)
                cuda.syncthreads()
            p = following
        at, ldm = (i + y) * n + j + x, words[11]
        rows, columns = int32(m - i - y), int32(n - j - x)
        c, more = view(arena, words[0] + (s * m * n + at) * WIDTH, real), view(arena, words[10] + ((i + y) * ldm + j + x) * WIDTH, real)
        if parts > 1:
            c = view(arena, words[14] + ((piece * words[8] + s) * m * n + at) * WIDTH, real)
        elif finish == 3:
            for e in range(EACH):
                for f in range(EACH):
                    if 8 * e < rows and 8 * f < columns:
                        sums[e * EACH + f] *= select(more[8 * e * ldm + 8 * f] > 0.0, 1.0, 0.0)
        elif finish != 0:
            for f in range(EACH):
                rights[f] = more[8 * f] if 8 * f < columns else 0.0
            least = 0.0 if finish == 2 else -INFINITY
            for e in range(EACH):
                for f in range(EACH):
                    sums[e * EACH + f] += rights[f]
                    sums[e * EACH + f] = select(sums[e * EACH + f] < least, least, sums[e * EACH + f])
        for e in range(EACH):
            for f in range(EACH):
                if 8 * e < rows and 8 * f < columns:
                    c[8 * e * n + 8 * f] = sums[e * EACH + f]


class WriteOut(ast.NodeTransformer):
    """Write out loops over loops over EACH, so that each number of a square has a name of its own: a compiler that leaves a loop would put the whole
    square into memory.
    """

    def __init__(self, each: int):
        self.each = each

    def visit_For(self, node: ast.For) -> Any:
        self.generic_visit(node)
        if ast.unparse(node.iter) != "range(EACH)" or not any(isinstance(line, ast.For) for line in node.body):
            return node
        name = ast.unparse(node.target)
        return [_Put(name, number).visit(copy.deepcopy(line)) for number in range(self.each) for line in node.body]


class _Put(ast.NodeTransformer):
    """Put a number in place of a name."""

    def __init__(self, name: str, number: int):
        self.name, self.number = name, number

    def visit_Name(self, node: ast.Name) -> Any:
        return ast.Constant(self.number) if node.id == self.name else node


def _text(width: int) -> str:
    """The kernel for tiles of one width, which are as deep as 4 KiB of each operand make them."""
    stride = width + (2 if width == 64 else 1)      # so that the rows of a tile that a warp writes at once lie in different banks
    numbers = {"SIDE": width, "EACH": width // 8, "STRIDE": stride, "ROOM": 1024 // width * stride, "DEPTH": f"({4096 // width} // WIDTH)"}
    text = ast.unparse(WriteOut(width // 8).visit(ast.parse(inspect.getsource(product))))
    return re.sub(r"\b(" + "|".join(numbers) + r")\b", lambda word: str(numbers[word[0]]), text)


for _width in WIDTHS:
    define_grid(f"product_{_width}", partial(_text, _width), threads=64, uses=(rounded, read_tile, write_tile))


@grid("product_sum", threads=256, units=256, uses=(finished,))
def product_sum(arena, words, size):
    """Parts of C added up, from the first to the last, and finished; words as above, `size` numbers of C."""
    n, parts = words[4], (words[5] + words[13] - 1) // words[13]
    c, room, more = view(arena, words[0], real), view(arena, words[14], real), view(arena, words[10], real)
    for index in range(cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x, size, cuda.gridDim.x * cuda.blockDim.x):
        total = room[index]
        for part in range(1, parts):
            total += room[part * size + index]
        row = int32(index) // int32(n)
        c[index] = finished(total, words[9], more, row, index - row * n, words[11])


@grid("product_finish", threads=256, units=256, uses=(finished,))
def product_finish(arena, words, size):
    """C finished where it is; words as above, `size` numbers of C."""
    n = words[4]
    c, more = view(arena, words[0], real), view(arena, words[10], real)
    for index in range(cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x, size, cuda.gridDim.x * cuda.blockDim.x):
        row = int32(index) // int32(n)
        c[index] = finished(c[index], words[9], more, row, index - row * n, words[11])


# ---------------------------------------------------------------- launches

def launches(node: Node, finish: int = 0) -> Sequence[Launch]:
    """Launches of the product of the first two inputs of a node, finished with the third."""
    (a, b, *more), turned_a, turned_b = node.inputs, node.attrs["transpose_a"], node.attrs["transpose_b"]
    m, n, k = *node.shape[-2:], a.shape[-2] if turned_a else a.shape[-1]
    return product_launches(node.dtype, node, a, b, m, n, k, turned_a, turned_b, count(node.shape[:-2]), finish, *more)


def product_launches(dtype: str, c: Any, a: Any, b: Any, m: int, n: int, k: int, turned_a: bool = False, turned_b: bool = False, batch: int = 1,
                     finish: int = 0, more: Any = 0) -> Sequence[Launch]:
    """Launches of `batch` products of m by k and k by n numbers; `c`, `a`, `b` and `more` are words that say where they are."""
    width = width_of(m, n, batch)
    tiles = batch * -(-m // width) * -(-n // width)
    part = part_of(k, tiles)
    parts, how = max(1, -(-k // part)), (finish, more, n if finish == GATE else 0)
    room = Scratch(parts * batch * m * n * np.dtype(dtype).itemsize) if parts > 1 else 0
    late = finish in (RELU, GATE) and parts == 1 and batch * m * n * k >= WORTH_A_PASS
    words = (c, a, b, m, n, k, int(turned_a), int(turned_b), batch, *((0, 0, 0) if late else how), 0, part, room)
    made = Launch(f"product_{width}", dtype, words, tiles * parts, cost=width * width * part / 40)
    if parts > 1:
        return made, Launch("product_sum", dtype, words, batch * m * n)
    return (made, Launch("product_finish", dtype, (*words[:9], *how, *words[12:]), batch * m * n)) if late else (made,)


def width_of(m: int, n: int, batch: int) -> int:
    """The widest tile with which there are enough of them and no more than half of one is left empty by a small C."""
    fits = [width for width in WIDTHS if batch * -(-m // width) * -(-n // width) >= ENOUGH and 2 * min(m, n) >= width]
    return fits[0] if fits else WIDTHS[-1]


def part_of(k: int, tiles: int) -> int:
    """The length of the parts of a sum of `k`: whole, unless it is long and `tiles` alone leave most of a GPU idle."""
    if not 0 < tiles <= MOST_PARTS // 2 or k <= LONG:
        return max(k, 1)
    return max(PART, -(-k // (MOST_PARTS // tiles * 64)) * 64)


def round_operands(rows: Iterable[Row], precision: str) -> None:
    """Let the products of float32 among the rows of a plan round their operands: `precision` is one of PRECISIONS."""
    for row in rows:
        if _rounds(row):
            row.words[PRECISION] = PRECISIONS[precision]


def precision_of(row: Row) -> str:
    """How a row rounds its operands."""
    return list(PRECISIONS)[row.words[PRECISION]] if _rounds(row) else "full"


def _rounds(row: Row) -> bool:
    return row.kernel.startswith("product_") and row.dtype == "float32"


class Row(Protocol):
    """A row of a plan."""

    kernel: str
    dtype: str
    words: list[Any]
