"""Pooling on a GPU: a thread for each number, channels beside each other. In gradients each element asks the windows that cover it.

Words as on the CPU: 0 output, 1 and 2 inputs, 3 nothing; from 4 on D H W of the whole, of what is pooled, of the window, of the stride and of the
padding before; 19 channels.
"""

# pyright: reportUndefinedVariable=false
from __future__ import annotations

from engine.core import Launch, Node
from engine.kernels.grid import grid
from engine.ops.convolution_grid import parts_of, quotient


def window(numbers, at, axis):
    """(first, last + 1) of the elements of an axis that window number `at` covers."""
    start = at * numbers[13 + axis] - numbers[16 + axis]
    return int32(max(start, 0)), int32(min(start + numbers[10 + axis], numbers[4 + axis]))


def windows_over(numbers, at, axis):
    """(first, last + 1) of the windows that cover an element of an axis."""
    step, reach = numbers[13 + axis], at + numbers[16 + axis]
    return quotient(max(reach - numbers[10 + axis] + step, 0), step), int32(min(quotient(reach, step) + 1, numbers[7 + axis]))


def index(numbers, first, image, d, h, w, c):
    """Where a number is in an array whose axes are the words from `first` on."""
    return int32((((image * numbers[first] + d) * numbers[first + 1] + h) * numbers[first + 2] + w) * numbers[19] + c)


@grid("mean_pool_each", threads=128, units=128, uses=(quotient, parts_of, window, index))
def mean_pool_each(arena, words, size):
    """Numbers of the output."""
    numbers = cuda.shared.array(20, int32)
    if cuda.threadIdx.x < 16:
        numbers[4 + cuda.threadIdx.x] = words[4 + cuda.threadIdx.x]
    cuda.syncthreads()
    out, x, channels = view(arena, words[0], real), view(arena, words[1], real), numbers[19]
    share = 1.0 / real(numbers[10] * numbers[11] * numbers[12])
    for at in range(cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x, size, cuda.gridDim.x * cuda.blockDim.x):
        element = quotient(at, channels)
        c = int32(at - element * channels)
        image, d, h, w = parts_of(element, numbers[7], numbers[8], numbers[9])
        d0, d1 = window(numbers, d, 0)
        h0, h1 = window(numbers, h, 1)
        w0, w1 = window(numbers, w, 2)
        total = 0.0
        for d in range(d0, d1):
            for h in range(h0, h1):
                for w in range(w0, w1):
                    total += x[index(numbers, 4, image, d, h, w, c)]
        out[at] = total * share


@grid("mean_pool_each_grad", threads=128, units=128, uses=(quotient, parts_of, windows_over, index))
def mean_pool_each_grad(arena, words, size):
    """Numbers of the input: each element is given a share by every window that covers it. Input: ct."""
    numbers = cuda.shared.array(20, int32)
    if cuda.threadIdx.x < 16:
        numbers[4 + cuda.threadIdx.x] = words[4 + cuda.threadIdx.x]
    cuda.syncthreads()
    out, ct, channels = view(arena, words[0], real), view(arena, words[1], real), numbers[19]
    share = 1.0 / real(numbers[10] * numbers[11] * numbers[12])
    for at in range(cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x, size, cuda.gridDim.x * cuda.blockDim.x):
        element = quotient(at, channels)
        c = int32(at - element * channels)
        image, d, h, w = parts_of(element, numbers[4], numbers[5], numbers[6])
        d0, d1 = windows_over(numbers, d, 0)
        h0, h1 = windows_over(numbers, h, 1)
        w0, w1 = windows_over(numbers, w, 2)
        total = 0.0
        for d in range(d0, d1):
            for h in range(h0, h1):
                for w in range(w0, w1):
                    total += ct[index(numbers, 7, image, d, h, w, c)] * share
        out[at] = total


@grid("max_pool_each", threads=128, units=128, uses=(quotient, parts_of, window, index))
def max_pool_each(arena, words, size):
    """Numbers of the output."""
    numbers = cuda.shared.array(20, int32)
    if cuda.threadIdx.x < 16:
        numbers[4 + cuda.threadIdx.x] = words[4 + cuda.threadIdx.x]
    cuda.syncthreads()
    out, x, channels = view(arena, words[0], real), view(arena, words[1], real), numbers[19]
    for at in range(cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x, size, cuda.gridDim.x * cuda.blockDim.x):
        element = quotient(at, channels)
        c = int32(at - element * channels)
        image, d, h, w = parts_of(element, numbers[7], numbers[8], numbers[9])
        d0, d1 = window(numbers, d, 0)
        h0, h1 = window(numbers, h, 1)
        w0, w1 = window(numbers, w, 2)
        best = real(-INFINITY)
        for d in range(d0, d1):
            for h in range(h0, h1):
                for w in range(w0, w1):
                    value = x[index(numbers, 4, image, d, h, w, c)]
                    best = select((value > best) | (value != value), value, best)
        out[at] = best


@grid("max_pool_each_grad", threads=128, units=128, uses=(quotient, parts_of, window, windows_over, index))
def max_pool_each_grad(arena, words, size):
    """Numbers of the input: what the windows are given in which an element is the first greatest, or the first NaN. Inputs: ct, x."""
    numbers = cuda.shared.array(20, int32)
    if cuda.threadIdx.x < 16:
        numbers[4 + cuda.threadIdx.x] = words[4 + cuda.threadIdx.x]
    cuda.syncthreads()
    out, ct, x, channels = view(arena, words[0], real), view(arena, words[1], real), view(arena, words[2], real), numbers[19]
    for at in range(cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x, size, cuda.gridDim.x * cuda.blockDim.x):
        element = quotient(at, channels)
        c = int32(at - element * channels)
        image, d, h, w = parts_of(element, numbers[4], numbers[5], numbers[6])
        i0, i1 = windows_over(numbers, d, 0)
        j0, j1 = windows_over(numbers, h, 1)
        k0, k1 = windows_over(numbers, w, 2)
        mine, total = x[at], 0.0
        for i in range(i0, i1):
            for j in range(j0, j1):
                for k in range(k0, k1):
                    d0, d1 = window(numbers, i, 0)
                    h0, h1 = window(numbers, j, 1)
                    w0, w1 = window(numbers, k, 2)
                    lost = False
                    for d in range(d0, d1):
                        for h in range(h0, h1):
                            for w in range(w0, w1):
                                there = index(numbers, 4, image, d, h, w, c)
                                other = x[there]
                                lost |= (other > mine) | ((other == mine) & (there < at)) | ((other != other) & ((there < at) | (mine == mine)))
                    if not lost:
                        total += ct[index(numbers, 7, image, i, j, k, c)]
        out[at] = total


def pool(kernel: str, node: Node, place: tuple[int, ...]) -> list[Launch]:
    """The launch of one of these kernels, where `place` are the words of the windows."""
    first, *more = node.inputs
    return [Launch(kernel, node.dtype, (node, first, more[0] if more else 0, 0, *place), node.size)]
