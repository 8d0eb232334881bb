"""Kernels of convolutions: products in registers of what output elements see with weights, a few output rows at a time.

Kernels see three axes, the missing ones of length 1. A row is a run of output elements along the last of them; rows are counted over batch and the
other axes. All that a row sees is first copied together as columns, [element of the last axis, plane of taps, channel], zeros outside the input:
so what one output element sees, its patch, is a run of numbers, and the next one's begins some columns further on. Where blocks of one row would be
too short, patches of several rows are copied end to end; those of a single channel side by side. Each stays in a near cache.

Words of every kernel: 0 output, 1 input, 2 weights or cotangent; from 3 on for each axis: output length, input length, and where output element i
and tap t look, i * step + start + t * tap_step: step, start, taps, tap_step; 21 channels, 22 channels of a group, 23 groups, 24 rows at a time,
25 room, 26 bytes of it that a chunk has, 27 how what is seen lies there: 0 as columns, 1 as patches end to end, 2 as patches side by side.
"""

# pyright: reportUndefinedVariable=false
from __future__ import annotations

from engine.kernels.library import kernel


def block(arena, y, ldy, x, ldx, rows, columns):
    """Copy rows of numbers, or zeros where `ldx` is -1. Rows are so many elements apart."""
    down = max(ldx, 0)
    for j in range(0, columns, 16):
        whole = rows // 6 * 6 if columns - j >= 16 else 0
        for i in range(0, whole, 6):
            to, source = view(arena, y + (i * ldy + j) * WIDTH, real), view(arena, x + (i * down + j) * WIDTH, real)
            tile(16, to, ldy, source, ldx, source, 0, 0, source, 0, 6, 0, 16)
        for i in range(whole, rows):
            to, source = view(arena, y + (i * ldy + j) * WIDTH, real), view(arena, x + (i * down + j) * WIDTH, real)
            tile(16, to, ldy, source, ldx, source, 0, 0, source, 0, 1, 0, min(columns - j, 16))


def clear(arena, y, n):
    """Zeros."""
    to = view(arena, y, real)
    for i in range(n):
        to[i] = 0.0


def see(arena, words, room, row, group):
    """Copy the columns of one row: [element, plane, channel]. What is always outside the input stays as it was made: zero."""
    own, channels, start = words[22], words[21], words[18]
    pitch = words[7] * words[13] * own
    span = (words[15] - 1) * words[17] + (words[19] - 1) * words[20] + 1
    low = min(max(-start, 0), span)
    high = max(min(words[16] - start, span), low)
    plane = row // words[9]
    image = plane // words[3]
    z = (plane - image * words[3]) * words[5] + words[6]
    y = (row - plane * words[9]) * words[11] + words[12]
    to = room + low * pitch * WIDTH
    for tz in range(words[7]):
        iz = z + tz * words[8]
        for ty in range(words[13]):
            iy = y + ty * words[14]
            step = channels if 0 <= iz < words[4] and 0 <= iy < words[10] else -1
            source = words[1] + ((((image * words[4] + iz) * words[10] + iy) * words[16] + start + low) * channels + group * own) * WIDTH
            block(arena, to, pitch, source, step, high - low, own)
            to += own * WIDTH


def stand(arena, words, room, first, rows):
    """Copy the patches of rows of one plane, for a single channel: [tap, plane, row, element]."""
    n, step, length = words[15], words[17], words[16]
    plane = first // words[9]
    image = plane // words[3]
    z = (plane - image * words[3]) * words[5] + words[6]
    y = (first - plane * words[9]) * words[11] + words[12]
    to = room
    for tap in range(words[19]):
        shift = words[18] + tap * words[20]
        low = min(max((step - 1 - shift) // step, 0), n)
        high = max(min((length - shift + step - 1) // step, n), low)
        for tz in range(words[7]):
            iz = z + tz * words[8]
            for ty in range(words[13]):
                iy = y + ty * words[14]
                top = min(max((words[11] - 1 - iy) // words[11], 0), rows)
                bottom = max(min((words[10] - iy + words[11] - 1) // words[11], rows), top) if 0 <= iz < words[4] else top
                source = words[1] + (((image * words[4] + iz) * words[10] + iy + top * words[11]) * length + shift + low * step) * WIDTH
                if bottom - top < rows or high - low < n:
                    clear(arena, to, rows * n)
                if step == 1:
                    block(arena, to + (top * n + low) * WIDTH, n, source, words[11] * length, bottom - top, high - low)
                else:
                    for r in range(bottom - top):
                        x = view(arena, source + r * words[11] * length * WIDTH, real)
                        y_row = view(arena, to + ((top + r) * n + low) * WIDTH, real)
                        for i in range(high - low):
                            store(y_row, i, load(x, i * step))
                to += rows * n * WIDTH


def look(arena, words, room, first, rows, group):
    """Make what rows see ready in a chunk's room. Where it starts; elements from one patch to the next, from tap to tap, from number to number."""
    pitch, n, step = words[7] * words[13] * words[22], words[15], words[20]
    if words[27] == 2:
        stand(arena, words, room, first, rows)
        return room, 1, pitch * rows * n, rows * n
    patches = room + ((n - 1) * words[17] + (words[19] - 1) * step + 1) * pitch * WIDTH
    pieces, size = (1, words[19] * pitch) if step == 1 else (words[19], pitch)
    for r in range(rows):
        see(arena, words, room, first + r, group)
        for piece in range(pieces if words[27] == 1 else 0):
            to = patches + (r * n * words[19] + piece) * pitch * WIDTH
            block(arena, to, words[19] * pitch, room + piece * step * pitch * WIDTH, words[17] * pitch, n, size)
    if words[27] == 1:
        return patches, words[19] * pitch, pitch, 1
    return room, words[17] * pitch, step * pitch, 1


def upto(words, first, stop):
    """Rows that are done together from `first` on."""
    return min(words[24], stop - first, words[9] - first % words[9] if words[27] == 2 else stop - first)


def product(arena, c, ldc, s, lds, a, a_row, a_step, b, ldb, rows, k, columns):
    """C = S + A B for up to 16 columns, from byte offsets, in blocks of about equal height; strides as those of `tile`.

    It is up to a sixth faster where a height, and one of the strides of A, are known when this is compiled.
    """
    right = view(arena, b, real)
    way = 0 if columns < 16 else 1 if a_step == 1 else 2 if a_row == 1 else 0
    i = 0
    while i < rows:
        rest = rows - i
        tall = 6 if rest > 9 or rest == 6 else (rest + 1) // 2 if rest > 6 else rest
        tall = tall if tall == 6 or (way == 1 and tall > 3) else 3 if tall > 2 else 1
        out, start = view(arena, c + i * ldc * WIDTH, real), view(arena, s + i * max(lds, 0) * WIDTH, real)
        left = view(arena, a + i * a_row * WIDTH, real)
        if way == 1 and tall == 6:
            tile(16, out, ldc, start, lds, left, a_row, 1, right, ldb, 6, k, 16)
        elif way == 2 and tall == 6:
            tile(16, out, ldc, start, lds, left, 1, a_step, right, ldb, 6, k, 16)
        elif tall == 6:
            tile(16, out, ldc, start, lds, left, a_row, a_step, right, ldb, 6, k, min(columns, 16))
        elif tall == 5:
            tile(16, out, ldc, start, lds, left, a_row, 1, right, ldb, 5, k, 16)
        elif tall == 4:
            tile(16, out, ldc, start, lds, left, a_row, 1, right, ldb, 4, k, 16)
        elif tall == 3:
            tile(16, out, ldc, start, lds, left, a_row, a_step, right, ldb, 3, k, min(columns, 16))
        else:
            tile(16, out, ldc, start, lds, left, a_row, a_step, right, ldb, 1, k, min(columns, 16))
        i += tall


LOOK = (block, clear, see, stand, look, upto, product)


@kernel("conv", uses=LOOK)
def conv_kernel(arena, words, begin, end):
    """Rows of the output. The weights are panels of 16 columns: [group, panel, tap, plane and channel, 16].

    Further words: 28 columns of a group, 29 bias, 30 its row stride (-1: none), 31 rows of a chunk; 32 to 36 the place of the output's first
    element, and from one to the next along batch and axes.
    """
    n, own, pitch, taps = words[15], words[28], words[7] * words[13] * words[22], words[19]
    room = words[25] + begin // words[31] * words[26]
    clear(arena, room, words[26] // WIDTH)
    first = begin
    while first < end:
        rows = upto(words, first, end)
        plane = first // words[9]
        image = plane // words[3]
        at = words[32] + image * words[33] + (plane - image * words[3]) * words[34] + (first - plane * words[9]) * words[35]
        for group in range(words[23]):
            seen, a_row, a_tap, a_step = look(arena, words, room, first, rows, group)
            pieces, k = (1, taps * pitch) if a_tap == pitch * a_step else (taps, pitch)
            for j in range((own + 15) // 16):
                b = words[2] + (group * ((own + 15) // 16) + j) * taps * pitch * 16 * WIDTH
                c, bias = words[0] + (at + group * own + 16 * j) * WIDTH, words[29] + (group * own + 16 * j) * WIDTH
                for piece in range(pieces):
                    s, lds = (bias, words[30]) if piece == 0 else (c, words[36])
                    product(arena, c, words[36], s, lds, seen + piece * a_tap * WIDTH, a_row, a_step, b + piece * k * 16 * WIDTH, 16, rows * n, k,
                            own - 16 * j)
        first += rows


@kernel("conv_weights", uses=LOOK)
def conv_weights_kernel(arena, words, begin, end):
    """The sum of patch times cotangent, [tap, plane and channel, column], over blocks of rows; or over all rows, for panels of 16 columns.

    Further words: 28 columns of a group, 29 rows of a block, 30 rows in all; 31 how many panels share what is seen, 0 for blocks of rows.
    """
    n, own, pitch, taps, columns, share = words[15], words[28], words[7] * words[13] * words[22], words[19], words[28] * words[23], words[31]
    room = words[25] + begin // max(share, 1) * words[26]
    clear(arena, room, words[26] // WIDTH)
    for part in range(begin, begin + 1 if share > 0 else end):
        out = words[0] + (0 if share > 0 else part * taps * pitch * columns) * WIDTH
        first, stop, low, high = part * words[29], min((part + 1) * words[29], words[30]), 0, columns
        if share > 0:
            first, stop, low, high = 0, words[30], 16 * begin, min(16 * end, columns)
        block(arena, out + low * WIDTH, columns, out, -1, taps * pitch, high - low)
        while first < stop:
            rows = upto(words, first, stop)
            for group in range(words[23]):
                seen, a_step, a_tap, a_row = look(arena, words, room, first, rows, group)
                pieces, size = (1, taps * pitch) if a_tap == pitch * a_row else (taps, pitch)
                for piece in range(pieces):
                    for j in range(max(group * own, low), min((group + 1) * own, high), 16):
                        c = out + (piece * pitch * columns + j) * WIDTH
                        product(arena, c, columns, c, columns, seen + piece * a_tap * WIDTH, a_row, a_step,
                                words[2] + (first * n * columns + j) * WIDTH, columns, size, rows * n, (group + 1) * own - j)
            first += rows


def between(words, shift):
    """The elements of an output row for which a tap is inside the input, given where the tap looks for the first one."""
    step = words[17]
    low = min(max((step - 1 - shift) // step, 0), words[15])
    return low, max(min((words[16] - shift + step - 1) // step, words[15]), low)


# ---------------------------------------------------------------- each channel by itself

@kernel("depthwise", uses=(between,))
def depthwise_kernel(arena, words, begin, end):
    """Rows of the output where each channel is a group of its own; the weights are [tap, channel].

    Further words: 28 bias, 29 whether there is one; 32 to 36 the place of the output's first element, and from one to the next along batch and axes.
    """
    n, channels = words[15], words[21]
    for row in range(begin, end):
        plane = row // words[9]
        image = plane // words[3]
        z, y = plane - image * words[3], row - plane * words[9]
        out = words[0] + (words[32] + image * words[33] + z * words[34] + y * words[35]) * WIDTH
        bias = view(arena, words[28], real)
        for i in range(n):
            to = view(arena, out + i * words[36] * WIDTH, real)
            for c in range(channels):
                store(to, c, load(bias, c) if words[29] == 1 else 0.0)
        for t in range(words[7] * words[13]):
            iz = z * words[5] + words[6] + t // words[13] * words[8]
            iy = y * words[11] + words[12] + t % words[13] * words[14]
            line = words[1] + ((image * words[4] + iz) * words[10] + iy) * words[16] * channels * WIDTH
            if 0 <= iz < words[4] and 0 <= iy < words[10]:
                for tap in range(words[19]):
                    shift = words[18] + tap * words[20]
                    low, high = between(words, shift)
                    w = view(arena, words[2] + (t * words[19] + tap) * channels * WIDTH, real)
                    for i in range(low, high):
                        to = view(arena, out + i * words[36] * WIDTH, real)
                        x = view(arena, line + (i * words[17] + shift) * channels * WIDTH, real)
                        for c in range(channels):
                            store(to, c, to[c] + load(x, c) * load(w, c))


@kernel("depthwise_weights", uses=(between,))
def depthwise_weights_kernel(arena, words, begin, end):
    """Blocks of rows: the sum of input times cotangent over each, [tap, channel]. Further words: 28 rows of a block, 29 rows in all."""
    n, channels = words[15], words[21]
    size = words[7] * words[13] * words[19] * channels
    for part in range(begin, end):
        out = words[0] + part * size * WIDTH
        to = view(arena, out, real)
        for i in range(size):
            to[i] = 0.0
        for row in range(part * words[28], min((part + 1) * words[28], words[29])):
            plane = row // words[9]
            image = plane // words[3]
            z = (plane - image * words[3]) * words[5] + words[6]
            y = (row - plane * words[9]) * words[11] + words[12]
            for t in range(words[7] * words[13]):
                iz, iy = z + t // words[13] * words[8], y + t % words[13] * words[14]
                line = words[1] + ((image * words[4] + iz) * words[10] + iy) * words[16] * channels * WIDTH
                if 0 <= iz < words[4] and 0 <= iy < words[10]:
                    for tap in range(words[19]):
                        shift = words[18] + tap * words[20]
                        low, high = between(words, shift)
                        to = view(arena, out + (t * words[19] + tap) * channels * WIDTH, real)
                        for i in range(low, high):
                            ct = view(arena, words[2] + (row * n + i) * channels * WIDTH, real)
                            x = view(arena, line + (i * words[17] + shift) * channels * WIDTH, real)
                            for c in range(channels):
                                store(to, c, to[c] + load(x, c) * load(ct, c))
