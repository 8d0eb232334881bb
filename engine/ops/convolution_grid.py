"""Convolutions on a GPU: products of tiles in which what output elements see is read where it is, never copied together.

A row of the product is an output element, k counts what it sees: taps, and within each the channels of its group. An index of the input is a sum of
two numbers, one for the element and one for k; so is the place along each axis, which must be inside the input. Both are kept in tables, made once
for a tile (`here`, of elements) and for every 64 k (`there`). For the gradient with respect to weights the two change places: rows are k.

A block is always 64 threads, DOWN x ACROSS of them, each of which makes TALL x WIDE numbers; 16 k at a time lie in shared memory, and while they are
multiplied the next are read.

Words of all kernels: 0 output, 1 input, 2 weights or cotangent; 3 to 20 three axes, as in convolution_kernels; 21 channels, 22 channels of a group,
23 groups, 24 columns of a group, 25 output elements in all.
"""

# pyright: reportUndefinedVariable=false
from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from engine.kernels.grid import define_grid

THREADS = 64


class Tile(NamedTuple):
    """How the threads of a block share a tile: `across` of them beside each other, each with `tall` rows of `wide` numbers."""

    name: str
    across: int
    tall: int
    wide: int

    @property
    def rows(self) -> int:
        return THREADS // self.across * self.tall

    @property
    def columns(self) -> int:
        return self.across * self.wide

    def count(self, rows: int, columns: int) -> int:
        """Tiles of a product."""
        return -(-rows // self.rows) * -(-columns // self.columns)


THIN, NARROW, SMALL, LARGE = Tile("thin", 2, 2, 4), Tile("narrow", 4, 4, 4), Tile("small", 8, 4, 4), Tile("large", 8, 8, 8)


# ---------------------------------------------------------------- where things are

def quotient(a, b):
    """a // b of numbers that are not negative and below 2^31."""
    return int32(uint32(a) // uint32(b))


def parts_of(m, deep, high, wide):
    """(image, z, y, x) of number m of images so deep, high and wide."""
    row = quotient(m, wide)
    plane = quotient(row, high)
    image = quotient(plane, deep)
    return image, plane - image * deep, row - plane * high, m - row * wide


def look(numbers, here, slot, m, stop, group):
    """Enter output element m: where its first tap looks along each axis, which is nowhere from element `stop` on, and as an index."""
    image, z, y, x = parts_of(m, numbers[3], numbers[9], numbers[15])
    z, y, x = z * numbers[5] + numbers[6], y * numbers[11] + numbers[12], x * numbers[17] + numbers[18]
    here[0, slot] = z if m < stop else -536870912
    here[1, slot] = y
    here[2, slot] = x
    here[3, slot] = (((image * numbers[4] + z) * numbers[10] + y) * numbers[16] + x) * numbers[21] + group * numbers[22]


def enter(numbers, there, slot, k):
    """Enter k: how far its tap is from the first along each axis, which is nowhere after the last, and as an index."""
    tz, ty, tx, channel = parts_of(k, numbers[13], numbers[19], numbers[22])
    z, y, x = tz * numbers[8], ty * numbers[14], tx * numbers[20]
    there[0, slot] = z if tz < numbers[7] else -536870912
    there[1, slot] = y
    there[2, slot] = x
    there[3, slot] = ((z * numbers[10] + y) * numbers[16] + x) * numbers[21] + channel


def place(numbers, here, slot, m, group):
    """Enter where output element m begins."""
    image, z, y, x = parts_of(m, numbers[3], numbers[9], numbers[15])
    here[4, slot] = numbers[26] + image * numbers[27] + z * numbers[28] + y * numbers[29] + x * numbers[30] + group * numbers[24]


def inside(here, there, i, k, deep, high, wide):
    """Whether element i of a table sees an element of the input by k of the other."""
    z, y, x = int32(here[0, i] + there[0, k]), int32(here[1, i] + there[1, k]), int32(here[2, i] + there[2, k])
    return (z >= 0) & (z < deep) & (y >= 0) & (y < high) & (x >= 0) & (x < wide)


def seen(source, here, there, i, k, deep, high, wide):
    """What element i sees by k; zero outside."""
    if inside(here, there, i, k, deep, high, wide):
        return source[here[3, i] + there[3, k]]
    return real(0.0)


def four_seen(source, here, there, i, k, deep, high, wide, together):
    """What element i sees by k to k + 3, which may be neighbours in memory."""
    if together:
        if inside(here, there, i, k, deep, high, wide):
            return four_of(source, here[3, i] + there[3, k])
        return real(0.0), real(0.0), real(0.0), real(0.0)
    return (seen(source, here, there, i, k, deep, high, wide), seen(source, here, there, i, k + 1, deep, high, wide),
            seen(source, here, there, i, k + 2, deep, high, wide), seen(source, here, there, i, k + 3, deep, high, wide))


USES = (quotient, parts_of, look, enter, place, inside, seen, four_seen)


# ---------------------------------------------------------------- kernels

def tiles(arena, words, size):
    """Tiles of output elements by columns, for each group; the weights are [k, group, column]. Further words: 26 to 30 the place of the output's
    first element, and from one to the next along batch and axes; 31 whether there is a bias, 32 the bias.
    """
    here = cuda.shared.array((5, DOWN * TALL), int32)
    there = cuda.shared.array((4, 64), int32)
    left = cuda.shared.array((16, DOWN * TALL + 2), real)
    right = cuda.shared.array((16, ACROSS * WIDE), real)
    a = cuda.local.array(DOWN * TALL // 4, real)
    b = cuda.local.array(ACROSS * WIDE // 4, real)
    c = cuda.local.array(TALL * WIDE, real)
    p = cuda.local.array(TALL, real)
    numbers = cuda.shared.array(32, int32)
    thread = cuda.threadIdx.x & 63      # which the compiler then knows to be small
    if thread < 29:
        numbers[3 + thread] = words[3 + thread]
    cuda.syncthreads()
    x, y = thread % ACROSS, thread // ACROSS
    deep, high, wide = int32(numbers[4]), int32(numbers[10]), int32(numbers[16])
    elements, columns = int32(numbers[25]), int32(numbers[24])
    depth, ldb = int32(numbers[7] * numbers[13] * numbers[19] * numbers[22]), int32(numbers[23] * numbers[24])
    source, weights = view(arena, words[1], real), view(arena, words[2], real)
    together = (numbers[22] % 4 == 0) & (numbers[21] % 4 == 0) & (words[1] % 16 == 0)
    over = quotient(columns + ACROSS * WIDE - 1, ACROSS * WIDE)
    strips = quotient(elements + DOWN * TALL - 1, DOWN * TALL)
    for unit in range(cuda.blockIdx.x, size, cuda.gridDim.x):
        strip = quotient(unit, over)
        group = quotient(strip, strips)
        first, start = (strip - group * strips) * (DOWN * TALL), (unit - strip * over) * (ACROSS * WIDE)
        mine = start + thread % (ACROSS * WIDE)         # the column of weights that this thread reads
        cuda.syncthreads()
        for slot in range(thread, DOWN * TALL, 64):
            look(numbers, here, slot, first + slot, elements, group)
            place(numbers, here, slot, first + slot, group)
        for i in range(TALL * WIDE):
            c[i] = 0.0
        for k in range(-16, depth, 16):
            cuda.syncthreads()
            if k >= 0:
                for i in range(DOWN * TALL // 16):
                    for j in range(4):
                        left[thread % 4 * 4 + j, thread // 4 + 16 * i] = a[4 * i + j]
                for i in range(ACROSS * WIDE // 4):
                    right[(thread + 64 * i) // (ACROSS * WIDE), thread % (ACROSS * WIDE)] = b[i]
            if (k + 16) & 63 == 0:
                enter(numbers, there, thread, k + 16 + thread)
            cuda.syncthreads()
            if k + 16 < depth:
                for i in range(DOWN * TALL // 16):
                    a[4 * i], a[4 * i + 1], a[4 * i + 2], a[4 * i + 3] = four_seen(
                        source, here, there, thread // 4 + 16 * i, ((k + 16) & 63) + thread % 4 * 4, deep, high, wide, together)
                for i in range(ACROSS * WIDE // 4):
                    row = k + 16 + (thread + 64 * i) // (ACROSS * WIDE)
                    b[i] = weights[row * ldb + group * columns + mine] if (row < depth) & (mine < columns) else 0.0
            if (k >= 0) & (first + y < elements) & (start + x < columns):
                n = 0
                while n < 16:
                    for i in range(TALL):
                        p[i] = left[n, y + DOWN * i]
                    for j in range(WIDE):
                        q = right[n, x + ACROSS * j]
                        for i in range(TALL):
                            c[i * WIDE + j] += p[i] * q
                    n += 1
        out, bias = view(arena, words[0], real), view(arena, words[32], real)
        for j in range(WIDE):
            column = start + x + ACROSS * j
            if column < columns:
                more = bias[group * columns + column] if numbers[31] == 1 else 0.0
                for i in range(TALL):
                    if first + y + DOWN * i < elements:
                        out[here[4, y + DOWN * i] + column] = c[i * WIDE + j] + more


def weight_tiles(arena, words, size):
    """Tiles of k by columns, for each group and each part of the output elements. Further word: 26 elements of a part."""
    here = cuda.shared.array((4, 64), int32)
    there = cuda.shared.array((4, DOWN * TALL), int32)
    left = cuda.shared.array((16, DOWN * TALL + 2), real)
    right = cuda.shared.array((16, ACROSS * WIDE), real)
    a = cuda.local.array(DOWN * TALL // 4, real)
    b = cuda.local.array(ACROSS * WIDE // 4, real)
    c = cuda.local.array(TALL * WIDE, real)
    p = cuda.local.array(TALL, real)
    numbers = cuda.shared.array(27, int32)
    thread = cuda.threadIdx.x & 63      # which the compiler then knows to be small
    if thread < 24:
        numbers[3 + thread] = words[3 + thread]
    cuda.syncthreads()
    x, y = thread % ACROSS, thread // ACROSS
    deep, high, wide = int32(numbers[4]), int32(numbers[10]), int32(numbers[16])
    elements, columns, groups, part_size = int32(numbers[25]), int32(numbers[24]), int32(numbers[23]), int32(numbers[26])
    depth, ldc = int32(numbers[7] * numbers[13] * numbers[19] * numbers[22]), numbers[24] * numbers[23]
    source, ct = view(arena, words[1], real), view(arena, words[2], real)
    together = (numbers[22] % 4 == 0) & (numbers[21] % 4 == 0) & (words[1] % 16 == 0)
    over = quotient(columns + ACROSS * WIDE - 1, ACROSS * WIDE)
    strips = quotient(depth + DOWN * TALL - 1, DOWN * TALL)
    for unit in range(cuda.blockIdx.x, size, cuda.gridDim.x):
        strip = quotient(unit, over)
        batch = quotient(strip, strips)
        part = quotient(batch, groups)
        group = batch - part * groups
        first, start = (strip - batch * strips) * (DOWN * TALL), (unit - strip * over) * (ACROSS * WIDE)
        begin, end = part * part_size, min((part + 1) * part_size, elements)
        mine = start + thread % (ACROSS * WIDE)         # the column of the cotangent that this thread reads
        cuda.syncthreads()
        for slot in range(thread, DOWN * TALL, 64):
            enter(numbers, there, slot, first + slot)
        for i in range(TALL * WIDE):
            c[i] = 0.0
        for done in range(-16, end - begin, 16):
            cuda.syncthreads()
            if done >= 0:
                for i in range(DOWN * TALL // 16):
                    at = thread + 64 * i
                    for j in range(4):
                        left[at // (DOWN * TALL // 4), at % (DOWN * TALL // 4) * 4 + j] = a[4 * i + j]
                for i in range(ACROSS * WIDE // 4):
                    right[(thread + 64 * i) // (ACROSS * WIDE), thread % (ACROSS * WIDE)] = b[i]
            if (done + 16) & 63 == 0:
                look(numbers, here, thread, begin + done + 16 + thread, end, group)
            cuda.syncthreads()
            if done + 16 < end - begin:
                for i in range(DOWN * TALL // 16):
                    at = thread + 64 * i
                    a[4 * i], a[4 * i + 1], a[4 * i + 2], a[4 * i + 3] = four_seen(
                        source, here, there, ((done + 16) & 63) + at // (DOWN * TALL // 4), at % (DOWN * TALL // 4) * 4, deep, high, wide, together)
                for i in range(ACROSS * WIDE // 4):
                    m = begin + done + 16 + (thread + 64 * i) // (ACROSS * WIDE)
                    b[i] = ct[m * ldc + group * columns + mine] if (m < end) & (mine < columns) else 0.0
            if (done >= 0) & (first + y < depth) & (start + x < columns):
                n = 0
                while n < 16:
                    for i in range(TALL):
                        p[i] = left[n, y + DOWN * i]
                    for j in range(WIDE):
                        q = right[n, x + ACROSS * j]
                        for i in range(TALL):
                            c[i * WIDE + j] += p[i] * q
                    n += 1
        out = view(arena, words[0] + part * depth * ldc * WIDTH, real)
        for j in range(WIDE):
            column = start + x + ACROSS * j
            for i in range(TALL):
                row = first + y + DOWN * i
                if (row < depth) & (column < columns):
                    out[row * ldc + group * columns + column] = c[i * WIDE + j]


def _text(function: Callable[..., None], tile: Tile) -> str:
    """The text of a kernel with the numbers of a tile in it."""
    numbers = {"DOWN": THREADS // tile.across, "ACROSS": tile.across, "TALL": tile.tall, "WIDE": tile.wide}
    return re.sub(r"\b(DOWN|ACROSS|TALL|WIDE)\b", lambda found: str(numbers[found[0]]), inspect.getsource(function))


for _tile in (THIN, NARROW, SMALL, LARGE):
    define_grid(f"conv_{_tile.name}", partial(_text, tiles, _tile), THREADS, uses=USES)
    define_grid(f"conv_weights_{_tile.name}", partial(_text, weight_tiles, _tile), THREADS, uses=USES)
