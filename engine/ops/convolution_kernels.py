"""Kernels of convolutions: products of patches of the input with weights, a strip of output rows at a time.

A patch is what one output element sees: (taps, channels) as a row of numbers. The patches of a strip are copied together, where they stay in a near
cache, and multiplied in registers; nothing of the size of all patches is ever made. Kernels see three axes, the missing ones of length 1; a row is a
run of output elements along the last of them, and rows are counted over batch and the other axes.

Words of every kernel: 0 output, 1 input, 2 weights or cotangent; from 3 on for each axis: output length, input length, and where output element i
and tap t look, i * step + start + t * tap_step: step, start, taps, tap_step; 21 channels, 22 channels of a group, 23 groups, 24 rows of a strip,
25 room for its patches.
"""

# pyright: reportUndefinedVariable=false
from __future__ import annotations

from engine.kernels.library import kernel


def copied(y, x, n):
    """Copy a run, whole vectors first."""
    for i in range(n // 16):
        for q in range(16):
            store(y, 16 * i + q, load(x, 16 * i + q))
    for i in range(n - n % 16, n):
        store(y, i, load(x, i))


def between(words, shift):
    """The elements of an output row for which a tap is inside the input, given where the tap looks for the first one."""
    step = words[17]
    low = min(max((step - 1 - shift) // step, 0), words[15])
    return low, max(min((words[16] - shift + step - 1) // step, words[15]), low)


def lying(arena, words, line, inside, room, first, n, stride):
    """One row's patches of one plane of taps, one after the other: each is a run over taps and channels, or over channels where those lie apart."""
    own, taps, tap_step, step, length, channels = words[22], words[19], words[20], words[17], words[16], words[21]
    joined = words[23] == 1 and (tap_step == 1 or taps == 1)
    pieces, span = (1, taps) if joined else (taps, 1)
    for piece in range(pieces):
        shift = words[18] + piece * tap_step
        low, high = between(words, shift)
        high = max(min(high, (length - shift - span) // step + 1), low)     # from here to there the whole run is inside
        for i in range(n):
            at = i * step + shift
            y = view(arena, room + ((first + i) * stride + piece * own) * WIDTH, real)
            x = view(arena, line + at * channels * WIDTH, real)
            if inside and low <= i < high:
                copied(y, x, span * own)
            else:
                start = min(max(-at, 0), span) if inside else span
                stop = max(min(length - at, span), start)
                for c in range(start * own):
                    y[c] = 0.0
                for c in range(start * own, stop * own):
                    y[c] = x[c]
                for c in range(stop * own, span * own):
                    y[c] = 0.0


def standing(arena, words, line, inside, room, n, stride):
    """One row's patches of one plane of taps, side by side: for each tap and channel a run over the row. For few channels."""
    own, step = words[22], words[17] * words[21]
    for tap in range(words[19]):
        shift = words[18] + tap * words[20]
        low, high = between(words, shift)
        low, high = (low, high) if inside else (0, 0)
        for c in range(own):
            y = view(arena, room + (tap * own + c) * stride * WIDTH, real)
            x = view(arena, line + (shift * words[21] + c) * WIDTH, real)
            for i in range(low):
                y[i] = 0.0
            if step == 1:
                for i in range(low, high):
                    store(y, i, load(x, i))
            else:
                for i in range(low, high):
                    store(y, i, load(x, i * step))
            for i in range(high, n):
                y[i] = 0.0


def patches(arena, words, room, first, rows, group, few):
    """Copy the patches of a strip into its room: [element, tap, channel], or with few channels [tap, channel, element]."""
    own, planes, n = words[22], words[7] * words[13], words[15]
    size = planes * words[19] * own
    for r in range(rows):
        plane = (first + r) // words[9]
        image = plane // words[3]
        z = (plane - image * words[3]) * words[5] + words[6]
        y = (first + r - plane * words[9]) * words[11] + words[12]
        for t in range(planes):
            iz, iy = z + t // words[13] * words[8], y + t % words[13] * words[14]
            inside = 0 <= iz < words[4] and 0 <= iy < words[10]
            line = words[1] + (((image * words[4] + iz) * words[10] + iy) * words[16] * words[21] + group * own) * WIDTH
            if few:
                standing(arena, words, line, inside, room + (t * words[19] * own * rows + r) * n * WIDTH, n, rows * n)
            else:
                lying(arena, words, line, inside, room + t * words[19] * own * WIDTH, r * n, n, size)


PATCHES = (copied, between, lying, standing, patches)


@kernel("conv", uses=PATCHES)
def conv_kernel(arena, words, begin, end):
    """Rows of the output. The weights are panels of 16 columns: [group, panel, tap and channel, 16].

    Further words: 26 whether channels are few, 27 whether patches are the input itself, 28 columns of a group, 29 bias, 30 its row stride (-1: none),
    31 rows of a chunk, 32 bytes of a strip; 33 to 37 the place of the output's first element, and from one to the next along batch and axes;
    38 whether rows of the output lie end to end.
    """
    n, own, few = words[15], words[28], words[26] == 1
    size = words[7] * words[13] * words[19] * words[22]
    panels = (own + 15) // 16
    for first in range(begin, end, words[24]):
        rows = min(words[24], end - first)
        room = words[25] + begin // words[31] * words[32]
        lines, length = (1, rows * n) if words[38] == 1 else (rows, n)
        a_row, a_step = (1, rows * n) if few else (size, 1)
        for group in range(words[23]):
            if words[27] == 1:
                room, a_row = words[1] + (first * n * words[21] + group * words[22]) * WIDTH, words[21]
            else:
                patches(arena, words, room, first, rows, group, few)
            for j in range(panels):
                b = view(arena, words[2] + (group * panels + j) * size * 16 * WIDTH, real)
                bias = view(arena, words[29] + (group * own + 16 * j) * WIDTH, real)
                for line in range(lines):
                    plane = (first + line) // words[9]
                    image = plane // words[3]
                    at = words[33] + image * words[34] + (plane - image * words[3]) * words[35] + (first + line - plane * words[9]) * words[36]
                    i = 0
                    while i < length:
                        rest = length - i
                        height = 6 if rest > 9 or rest == 6 else (rest + 1) // 2 if rest > 6 else rest
                        c = view(arena, words[0] + (at + i * words[37] + group * own + 16 * j) * WIDTH, real)
                        a = view(arena, room + (line * n + i) * a_row * WIDTH, real)
                        tile(16, c, words[37], bias, words[30], a, a_row, a_step, b, 16, height, size, min(16, own - 16 * j))
                        i += height


@kernel("conv_weights", uses=PATCHES)
def conv_weights_kernel(arena, words, begin, end):
    """Blocks of rows: the sum of patch times cotangent over each, [tap and channel, column].

    Further words: 26 whether channels are few, 27 columns of a group, 28 rows of a block, 29 rows in all, 30 bytes of a strip.
    """
    n, own, few = words[15], words[27], words[26] == 1
    size, columns = words[7] * words[13] * words[19] * words[22], words[27] * words[23]
    room = words[25] + begin * words[30]
    for block in range(begin, end):
        out = view(arena, words[0] + block * size * columns * WIDTH, real)
        for i in range(size * columns):
            out[i] = 0.0
        stop = min((block + 1) * words[28], words[29])
        for first in range(block * words[28], stop, words[24]):
            rows = min(words[24], stop - first)
            a_row, a_step = (rows * n, 1) if few else (1, size)
            for group in range(words[23]):
                patches(arena, words, room, first, rows, group, few)
                for j in range(group * own, (group + 1) * own, 16):
                    b = view(arena, words[2] + (first * n * columns + j) * WIDTH, real)
                    i = 0
                    while i < size:
                        rest = size - i
                        height = 6 if rest > 9 or rest == 6 else (rest + 1) // 2 if rest > 6 else rest
                        c = view(arena, words[0] + ((block * size + i) * columns + j) * WIDTH, real)
                        a = view(arena, room + i * a_row * WIDTH, real)
                        tile(16, c, columns, c, columns, a, a_row, a_step, b, columns, height, rows * n, min(16, (group + 1) * own - j))
                        i += height


# ---------------------------------------------------------------- each channel by itself

@kernel("depthwise", uses=(between,))
def depthwise_kernel(arena, words, begin, end):
    """Rows of the output where each channel is a group of its own; the weights are [tap, channel].

    Further words: 26 bias, 27 whether there is one; 28 to 32 the place of the output's first element, and from one to the next along batch and axes.
    """
    n, channels = words[15], words[21]
    for row in range(begin, end):
        plane = row // words[9]
        image = plane // words[3]
        z, y = plane - image * words[3], row - plane * words[9]
        out = words[0] + (words[28] + image * words[29] + z * words[30] + y * words[31]) * WIDTH
        bias = view(arena, words[26], real)
        for i in range(n):
            to = view(arena, out + i * words[32] * WIDTH, real)
            for c in range(channels):
                store(to, c, load(bias, c) if words[27] == 1 else 0.0)
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
                        to = view(arena, out + i * words[32] * WIDTH, real)
                        x = view(arena, line + (i * words[17] + shift) * channels * WIDTH, real)
                        for c in range(channels):
                            store(to, c, to[c] + load(x, c) * load(w, c))


@kernel("depthwise_weights", uses=(between,))
def depthwise_weights_kernel(arena, words, begin, end):
    """Blocks of rows: the sum of input times cotangent over each, [tap, channel]. Further words: 26 rows of a block, 27 rows in all."""
    n, channels = words[15], words[21]
    size = words[7] * words[13] * words[19] * channels
    for block in range(begin, end):
        out = words[0] + block * size * WIDTH
        to = view(arena, out, real)
        for i in range(size):
            to[i] = 0.0
        for row in range(block * words[26], min((block + 1) * words[26], words[27])):
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
