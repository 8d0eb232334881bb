"""Convolution on a GPU where each channel is a group of its own: a thread for each number, channels beside each other.

Words: 0 output, 1 input, 2 weights or cotangent; 3 to 20 three axes, as in convolution_kernels; 21 channels of the input, 22 how many of them each
number adds up, 23 how many channels of the output see the same, 24 channels of the output.
"""

# pyright: reportUndefinedVariable=false
from __future__ import annotations

from engine.kernels.grid import grid
from engine.ops.convolution_grid import quotient


@grid("conv_each", threads=128, units=128, uses=(quotient,))
def each(arena, words, size):
    """Numbers of the output. Further words: 25 to 29 the place of the output's first element, and from one to the next along batch and axes; 30
    whether there is a bias, 31 the bias; 32 the first weight, 33 to 35 from tap to tap along each axis: channels are neighbours.
    """
    numbers = cuda.shared.array(36, int32)
    for i in range(3 + cuda.threadIdx.x, 36, cuda.blockDim.x):
        numbers[i] = words[i]
    cuda.syncthreads()
    channels, fan, deep, high, wide = numbers[24], numbers[22], numbers[4], numbers[10], numbers[16]
    out, source, weights, bias = view(arena, words[0], real), view(arena, words[1], real), view(arena, words[2], real), view(arena, words[31], real)
    for at in range(cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x, size, cuda.gridDim.x * cuda.blockDim.x):
        m = quotient(at, channels)
        row = quotient(m, numbers[15])
        plane = quotient(row, numbers[9])
        image = quotient(plane, numbers[3])
        c, i, j, k = int32(at - m * channels), int32(plane - image * numbers[3]), int32(row - plane * numbers[9]), int32(m - row * numbers[15])
        first, start = int32(quotient(c, numbers[23]) * fan), int32(numbers[32] + c * fan)
        total = bias[c] if numbers[30] == 1 else 0.0
        for tz in range(numbers[7]):
            z = int32(i * numbers[5] + numbers[6] + tz * numbers[8])
            for ty in range(numbers[13] if 0 <= z < deep else int32(0)):
                y = int32(j * numbers[11] + numbers[12] + ty * numbers[14])
                for tx in range(numbers[19] if 0 <= y < high else int32(0)):
                    x = int32(k * numbers[17] + numbers[18] + tx * numbers[20])
                    if 0 <= x < wide:
                        seen = int32((((image * deep + z) * high + y) * wide + x) * numbers[21] + first)
                        w = int32(start + tz * numbers[33] + ty * numbers[34] + tx * numbers[35])
                        for n in range(fan):
                            total += source[seen + n] * weights[w + n]
        out[int32(numbers[25] + image * numbers[26] + i * numbers[27] + j * numbers[28] + k * numbers[29] + c)] = total


@grid("conv_each_weights", threads=256, uses=(quotient,))
def each_weights(arena, words, size):
    """The sum of input times cotangent over each part of the rows, [part, tap, channel]: a block for 32 channels of a tap, a warp for every so many
    rows. Further words: 25 rows in all, 26 rows of a part.
    """
    room = cuda.shared.array((32, 32), real)
    numbers = cuda.shared.array(27, int32)
    for i in range(3 + cuda.threadIdx.x, 27, cuda.blockDim.x):
        numbers[i] = words[i]
    cuda.syncthreads()
    lane, warp, warps = cuda.threadIdx.x % 32, cuda.threadIdx.x // 32, cuda.blockDim.x // 32
    channels, step, n = numbers[24], numbers[17], numbers[15]
    over, taps = quotient(channels + 31, 32), numbers[7] * numbers[13] * numbers[19]
    source, ct, out = view(arena, words[1], real), view(arena, words[2], real), view(arena, words[0], real)
    for unit in range(cuda.blockIdx.x, size, cuda.gridDim.x):
        strip = quotient(unit, over)
        part = quotient(strip, taps)
        tap, c = int32(strip - part * taps), int32((unit - strip * over) * 32 + lane)
        line = quotient(tap, numbers[19])
        tz = quotient(line, numbers[13])
        shift = int32(numbers[18] + (tap - line * numbers[19]) * numbers[20])
        begin, end = int32(part * numbers[26]), int32(min((part + 1) * numbers[26], numbers[25]))
        total = 0.0
        for row in range(int32(begin + warp), end if c < channels else begin, int32(warps)):
            plane = quotient(row, numbers[9])
            image = quotient(plane, numbers[3])
            z = int32((plane - image * numbers[3]) * numbers[5] + numbers[6] + tz * numbers[8])
            y = int32((row - plane * numbers[9]) * numbers[11] + numbers[12] + (line - tz * numbers[13]) * numbers[14])
            if 0 <= z < numbers[4] and 0 <= y < numbers[10]:
                seen = int32((((image * numbers[4] + z) * numbers[10] + y) * numbers[16] + shift) * numbers[21] + quotient(c, numbers[23]))
                for i in range(n):
                    if 0 <= i * step + shift < numbers[16]:
                        total += source[int32(seen + i * step * numbers[21])] * ct[int32((row * n + i) * channels + c)]
        room[warp, lane] = total
        cuda.syncthreads()
        if warp == 0 and c < channels:
            for w in range(1, warps):
                total += room[w, lane]
            out[strip * channels + c] = total
        cuda.syncthreads()
