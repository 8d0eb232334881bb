"""Pooling: what windows over one, two or three axes of [batch, axes..., channels] are, and mean_pool.

A mean is over the whole window, padding counted, as in Flux. Kernels see three axes, the missing ones of length 1, and go over channels in their
innermost loops.
"""

# pyright: reportUndefinedVariable=false
from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import index
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from engine.core import FLOATS, Case, Launch, Node, Op, Sample, Shape, apply, count, leaf, register
from engine.errors import DtypeError, ShapeError
from engine.kernels.library import kernel
from engine.ops.pooling_grid import pool

Ints = Sequence[int]


# ---------------------------------------------------------------- windows

class Windows(NamedTuple):
    """How windows lie over the axes between batch and channels: one number for each axis. Without `stride` they lie side by side."""

    window: Ints
    stride: Ints
    low: Ints
    high: Ints

    @classmethod
    def of(cls, window: Ints, stride: Ints | None = None, low: Ints | None = None, high: Ints | None = None) -> Windows:
        none = (0,) * len(window)
        return cls(*(tuple(index(n) for n in numbers) for numbers in (window, stride or window, low or none, high or none)))

    def words(self, whole: Shape, pooled: Shape) -> tuple[int, ...]:
        """For a kernel, which finds them from word 4 on: D H W of the input, the output, the window, the stride and the padding before; channels."""
        rows = (whole[1:-1], pooled[1:-1], self.window, self.stride, self.low)
        missing = 3 - len(self.window)
        return (*(n for row, one in zip(rows, (1, 1, 1, 1, 0), strict=True) for n in (*(one,) * missing, *row)), whole[-1])

    def size(self) -> int:
        return count(self.window)


def windows_of(x: np.ndarray, pad: float, windows: Windows) -> np.ndarray:
    """All windows of an array; their elements are the last axis."""
    padded = np.pad(x, [(0, 0), *zip(windows.low, windows.high, strict=True), (0, 0)], constant_values=pad)
    found = sliding_window_view(padded, tuple(windows.window), tuple(range(1, x.ndim - 1)))  # type: ignore[call-overload]
    found = found[(slice(None), *(slice(None, None, s) for s in windows.stride))]
    return found.reshape(*found.shape[:x.ndim], windows.size())


def pooled_shape(x: Node, window: Ints, stride: Ints | None = None, low: Ints | None = None, high: Ints | None = None) -> tuple[Shape, str]:
    if x.dtype not in FLOATS:
        raise DtypeError(f"pooling takes floats, found {x.dtype}; cast first")
    if not 1 <= len(window) <= 3 or x.ndim != len(window) + 2:
        raise ShapeError(f"pooling by windows of {len(window)} axes takes [batch, {len(window)} axes, channels], found {list(x.shape)}")
    window, step, before, after = Windows.of(window, stride, low, high)
    if not len(step) == len(before) == len(after) == len(window) or min(*window, *step) < 1 or min(*before, *after) < 0:
        raise ShapeError(f"pooling by windows {list(window)} takes as many strides of 1 or more and paddings of 0 or more, found "
                         f"{list(step)}, {list(before)} and {list(after)}")
    if any(max(a, b) >= k for a, b, k in zip(before, after, window, strict=True)):
        raise ShapeError(f"padding of {list(before)} and {list(after)} must be less than the window {list(window)}, or one has nothing but padding")
    lengths = [n + a + b for n, a, b in zip(x.shape[1:-1], before, after, strict=True)]
    if any(n < k for n, k in zip(lengths, window, strict=True)):
        raise ShapeError(f"a window {list(window)} is larger than the {lengths} that it slides over; take a smaller one, or pad")
    return (x.shape[0], *((n - k) // s + 1 for n, k, s in zip(lengths, window, step, strict=True)), x.shape[-1]), x.dtype


CASES = (("side by side", (2, 4, 6, 3), {"window": (2, 2)}), ("ragged", (2, 5, 7, 3), {"window": (2, 2)}),
         ("overlapping", (2, 6, 5, 2), {"window": (3, 2), "stride": (2, 1), "low": (1, 1), "high": (1, 0)}),
         ("sequence", (3, 5, 2), {"window": (2,), "stride": (3,)}),
         ("volume", (1, 4, 3, 5, 2), {"window": (2, 3, 2), "low": (1, 0, 0), "high": (0, 0, 1)}),
         ("empty batch", (0, 4, 4, 2), {"window": (2, 2)}), ("one", (1, 1, 1), {"window": (1,)}))
"""Name, shape of the input, windows."""


# ---------------------------------------------------------------- mean_pool: kernels. Words: out, input, 0, 0, then those of the windows

def reach(at, stride, low, window, length):
    """The elements of an axis that window number `at` covers."""
    return max(at * stride - low, 0), min(at * stride - low + window, length)


@kernel("mean_pool", uses=(reach,))
def mean_pool_kernel(arena, words, begin, end):
    """Rows of the output, as in max_pool."""
    high, width, wide, channels = words[5], words[6], words[9], words[19]
    share = 1.0 / real(words[10] * words[11] * words[12])
    for row in range(begin, end):
        plane = row // words[8]
        image = plane // words[7]
        d0, d1 = reach(plane - image * words[7], words[13], words[16], words[10], words[4])
        h0, h1 = reach(row - plane * words[8], words[14], words[17], words[11], high)
        for ow in range(wide):
            w0, w1 = reach(ow, words[15], words[18], words[12], width)
            y = view(arena, words[0] + (row * wide + ow) * channels * WIDTH, real)
            for c in range(channels):
                store(y, c, 0.0)
            for d in range(d0, d1):
                for h in range(h0, h1):
                    for w in range(w0, w1):
                        x = view(arena, words[1] + (((image * words[4] + d) * high + h) * width + w) * channels * WIDTH, real)
                        for c in range(channels):
                            store(y, c, y[c] + load(x, c))
            for c in range(channels):
                store(y, c, y[c] * share)


def covering(at, stride, low, window, windows):
    """The numbers of the windows that cover an element of an axis."""
    return max(at + low - window + stride, 0) // stride, min((at + low) // stride + 1, windows)


@kernel("mean_pool_grad", uses=(covering,))
def mean_pool_grad_kernel(arena, words, begin, end):
    """Rows of the input: each element is given a share by every window that covers it. Input: ct."""
    width, tall, wide, channels = words[6], words[8], words[9], words[19]
    share = 1.0 / real(words[10] * words[11] * words[12])
    for row in range(begin, end):
        plane = row // words[5]
        image = plane // words[4]
        d0, d1 = covering(plane - image * words[4], words[13], words[16], words[10], words[7])
        h0, h1 = covering(row - plane * words[5], words[14], words[17], words[11], tall)
        for w in range(width):
            w0, w1 = covering(w, words[15], words[18], words[12], wide)
            y = view(arena, words[0] + (row * width + w) * channels * WIDTH, real)
            for c in range(channels):
                store(y, c, 0.0)
            for od in range(d0, d1):
                for oh in range(h0, h1):
                    for ow in range(w0, w1):
                        ct = view(arena, words[1] + (((image * words[7] + od) * tall + oh) * wide + ow) * channels * WIDTH, real)
                        for c in range(channels):
                            store(y, c, y[c] + load(ct, c) * share)


# ---------------------------------------------------------------- mean_pool: meaning

def _oracle(x: np.ndarray, **attrs: Any) -> np.ndarray:
    return windows_of(x, 0.0, Windows.of(**attrs)).mean(-1)


def _grad_oracle(ct: np.ndarray, shape: Shape, **attrs: Any) -> np.ndarray:
    places = windows_of(np.arange(count(shape)).reshape(shape), -1, Windows.of(**attrs))
    out = np.zeros(count(shape) + 1)     # the last place is the padding's
    np.add.at(out, places, ct[..., None] / places.shape[-1])
    return out[:-1].reshape(shape)


def _grad_shape(ct: Node, shape: Shape, **attrs: Any) -> tuple[Shape, str]:
    return tuple(shape), ct.dtype


def _grad(node: Node, ct: Node) -> list[Node]:
    return [apply("mean_pool_grad", ct, shape=node.inputs[0].shape, **node.attrs)]


def _pool_again(node: Node, ct: Node) -> list[Node]:
    return [apply("mean_pool", ct, **{name: value for name, value in node.attrs.items() if name != "shape"})]


def _linear(node: Node, tangents: Sequence[Node | None]) -> Node | None:
    return None if tangents[0] is None else apply(node.op, tangents[0], **node.attrs)


def _launch(node: Node) -> list[Launch]:
    windows = Windows.of(**node.attrs)
    words = (node, node.inputs[0], 0, 0, *windows.words(node.inputs[0].shape, node.shape))
    return [Launch("mean_pool", node.dtype, words, count(node.shape[:-2]), cost=count(node.shape[-2:]) * (0.5 + 0.4 * windows.size()))]


def _grad_launch(node: Node) -> list[Launch]:
    windows = Windows.of(**{name: value for name, value in node.attrs.items() if name != "shape"})
    words = (node, node.inputs[0], 0, 0, *windows.words(node.shape, node.inputs[0].shape))
    overlap = count(node.inputs[0].shape) * windows.size() / max(node.size, 1)
    return [Launch("mean_pool_grad", node.dtype, words, count(node.shape[:-2]), cost=count(node.shape[-2:]) * (0.5 + 0.4 * overlap))]


def _cuda(node: Node) -> list[Launch]:
    return pool("mean_pool_each", node, Windows.of(**node.attrs).words(node.inputs[0].shape, node.shape))


def _grad_cuda(node: Node) -> list[Launch]:
    windows = Windows.of(**{name: value for name, value in node.attrs.items() if name != "shape"})
    return pool("mean_pool_each_grad", node, windows.words(node.shape, node.inputs[0].shape))


def _grad_case(name: str, shape: Shape, attrs: Mapping[str, Ints]) -> Case:
    return Case(name, (Sample(pooled_shape(leaf(shape), **attrs)[0]),), {"shape": shape, **attrs})


DEFAULTS = {"stride": None, "low": None, "high": None}
register(Op("mean_pool_grad", shape=_grad_shape, oracle=_grad_oracle, launch=_grad_launch, cuda=_grad_cuda, vjp=_pool_again, jvp=_linear,
            defaults=DEFAULTS, public=False, cases=tuple(_grad_case(*case) for case in CASES),
            description="The cotangent shared out to the elements of each window."))
register(Op("mean_pool", shape=pooled_shape, oracle=_oracle, launch=_launch, cuda=_cuda, vjp=_grad, jvp=_linear, defaults=DEFAULTS,
            cases=tuple(Case(name, (Sample(shape),), attrs) for name, shape, attrs in CASES),
            description="The mean of each window over the axes between batch and channels, padding counted as zeros."))
