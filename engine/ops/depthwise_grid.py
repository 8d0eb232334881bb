"""Convolution on a GPU where each channel is a group of its own: a thread for each number, channels beside each other.

Words: 0 output, 1 input, 2 weights or cotangent; 3 to 20 three axes, as in convolution_kernels; 21 channels of the input, 22 how many of them each
number adds up, 23 how many channels of the output see the same, 24 channels of the output.
"""

# pyright: reportUndefinedVariable=false
from __future__ import annotations

from engine.kernels.grid import grid
from engine.ops.convolution_grid import quotient


@grid("conv_each", threads=256, units=256, uses=(quotient,))
def each(arena, words, size):
    """Numbers of the output. Further words: 25 to 29 the place of the output's first element, and from one to the next along batch and axes; 30
    whether there is a bias, 31 the bias; 32 the first weight, 33 to 35 from tap to tap along each axis: channels are neighbours.
    """
    channels, fan, wide = words[24], words[22], words[16]
    out, source, weights, bias = view(arena, words[0], real), view(arena, words[1], real), view(arena, words[2], real), view(arena, words[31], real)
    for at in range(cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x, size, cuda.gridDim.x * cuda.blockDim.x):
        m = quotient(at, channels)
        row = quotient(m, words[15])
        plane = quotient(row, words[9])
        image = quotient(plane, words[3])
        c, i, j, k = at - m * channels, plane - image * words[3], row - plane * words[9], m - row * words[15]
        first = quotient(c, words[23]) * fan
        total = bias[c] if words[30] == 1 else 0.0
        for tz in range(words[7]):
            z = i * words[5] + words[6] + tz * words[8]
            for ty in range(words[13] if 0 <= z < words[4] else 0):
                y = j * words[11] + words[12] + ty * words[14]
                for tx in range(words[19] if 0 <= y < words[10] else 0):
                    x = k * words[17] + words[18] + tx * words[20]
                    if 0 <= x < wide:
                        seen = (((image * words[4] + z) * words[10] + y) * wide + x) * words[21] + first
                        w = words[32] + tz * words[33] + ty * words[34] + tx * words[35] + c * fan
                        for n in range(fan):
                            total += source[seen + n] * weights[w + n]
        out[words[25] + image * words[26] + i * words[27] + j * words[28] + k * words[29] + c] = total


@grid("conv_each_weights", threads=256, uses=(quotient,))
def each_weights(arena, words, size):
    """The sum of input times cotangent over each part of the rows, [part, tap, channel]: a block for 32 channels of a tap, a warp for every so many
    rows. Further words: 25 rows in all, 26 rows of a part.
    """
    room = cuda.shared.array((32, 32), real)
    lane, warp, warps = cuda.threadIdx.x % 32, cuda.threadIdx.x // 32, cuda.blockDim.x // 32
    channels, step, n = words[24], words[17], words[15]
    over, taps = quotient(channels + 31, 32), words[7] * words[13] * words[19]
    source, ct, out = view(arena, words[1], real), view(arena, words[2], real), view(arena, words[0], real)
    for unit in range(cuda.blockIdx.x, size, cuda.gridDim.x):
        strip = quotient(unit, over)
        part = quotient(strip, taps)
        tap, c = strip - part * taps, (unit - strip * over) * 32 + lane
        line = quotient(tap, words[19])
        tz = quotient(line, words[13])
        shift = words[18] + (tap - line * words[19]) * words[20]
        begin, end = part * words[26], min((part + 1) * words[26], words[25])
        total = 0.0
        for row in range(begin + warp, end if c < channels else begin, warps):
            plane = quotient(row, words[9])
            image = quotient(plane, words[3])
            z = (plane - image * words[3]) * words[5] + words[6] + tz * words[8]
            y = (row - plane * words[9]) * words[11] + words[12] + (line - tz * words[13]) * words[14]
            if 0 <= z < words[4] and 0 <= y < words[10]:
                seen = (((image * words[4] + z) * words[10] + y) * words[16] + shift) * words[21] + quotient(c, words[23])
                for i in range(n):
                    if 0 <= i * step + shift < words[16]:
                        total += source[seen + i * step * words[21]] * ct[(row * n + i) * channels + c]
        room[warp, lane] = total
        cuda.syncthreads()
        if warp == 0 and c < channels:
            for w in range(1, warps):
                total += room[w, lane]
            out[strip * channels + c] = total
        cuda.syncthreads()
