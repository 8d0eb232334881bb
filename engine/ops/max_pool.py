"""max_pool: the greatest element of each window, NaN where there is one; its derivative goes to the first of equals in row-major order."""

# pyright: reportUndefinedVariable=false
from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np

from engine.core import Case, Launch, Node, Op, Sample, Scratch, Shape, apply, count, leaf, register
from engine.kernels.library import kernel
from engine.ops.pooling import CASES, DEFAULTS, Windows, pooled_shape, reach, windows_of
from engine.ops.pooling_grid import pool


@kernel("max_pool", uses=(reach,))
def max_pool_kernel(arena, words, begin, end):
    """Rows of the output: [batch, D, H] are counted as one."""
    high, width, wide, channels = words[5], words[6], words[9], words[19]
    for row in range(begin, end):
        plane = row // words[8]
        image = plane // words[7]
        d0, d1 = reach(plane - image * words[7], words[13], words[16], words[10], words[4])
        h0, h1 = reach(row - plane * words[8], words[14], words[17], words[11], high)
        for ow in range(wide):
            w0, w1 = reach(ow, words[15], words[18], words[12], width)
            y = view(arena, words[0] + (row * wide + ow) * channels * WIDTH, real)
            for c in range(channels):
                store(y, c, -INFINITY)
            for d in range(d0, d1):
                for h in range(h0, h1):
                    for w in range(w0, w1):
                        x = view(arena, words[1] + (((image * words[4] + d) * high + h) * width + w) * channels * WIDTH, real)
                        for c in range(channels):
                            best, value = y[c], load(x, c)
                            store(y, c, select((value > best) | (value != value), value, best))


@kernel("max_pool_grad", uses=(reach,))
def max_pool_grad_kernel(arena, words, begin, end):
    """Whole images, because windows may overlap: for each window where its greatest elements are, then their shares. Inputs: ct, x."""
    deep, high, width, wide, channels = words[4], words[5], words[6], words[9], words[19]
    best = view(arena, words[3] + 2 * begin * channels * WIDTH, real)
    place = view(arena, words[3] + (2 * begin + 1) * channels * WIDTH, real)
    for image in range(begin, end):
        out = view(arena, words[0] + image * deep * high * width * channels * WIDTH, real)
        x = view(arena, words[2] + image * deep * high * width * channels * WIDTH, real)
        for i in range(deep * high * width * channels):
            out[i] = 0.0
        for row in range(words[7] * words[8]):
            d0, d1 = reach(row // words[8], words[13], words[16], words[10], deep)
            h0, h1 = reach(row % words[8], words[14], words[17], words[11], high)
            for ow in range(wide):
                w0, w1 = reach(ow, words[15], words[18], words[12], width)
                ct = view(arena, words[1] + ((image * words[7] * words[8] + row) * wide + ow) * channels * WIDTH, real)
                for c in range(channels):
                    place[c] = 0.0
                tap = 0.0
                for d in range(d0, d1):
                    for h in range(h0, h1):
                        for w in range(w0, w1):
                            at = ((d * high + h) * width + w) * channels
                            tap += 1.0
                            for c in range(channels):
                                top, value = best[c], load(x, at + c)
                                better = (place[c] == 0.0) | (value > top) | ((value != value) & (top == top))
                                store(best, c, select(better, value, top))
                                store(place, c, select(better, tap, place[c]))
                tap = 0.0
                for d in range(d0, d1):
                    for h in range(h0, h1):
                        for w in range(w0, w1):
                            at = ((d * high + h) * width + w) * channels
                            tap += 1.0
                            for c in range(channels):
                                store(out, at + c, out[at + c] + select(place[c] == tap, load(ct, c), 0.0))


@kernel("max_pool_quads")
def max_pool_quads_kernel(arena, words, begin, end):
    """Rows of the output where windows of 2 by 2 lie side by side without padding."""
    high, width, tall, wide, channels = words[5], words[6], words[8], words[9], words[19]
    for row in range(begin, end):
        image = row // tall
        first = (image * high + 2 * (row - image * tall)) * width
        for ow in range(wide):
            y = view(arena, words[0] + (row * wide + ow) * channels * WIDTH, real)
            a = view(arena, words[1] + (first + 2 * ow) * channels * WIDTH, real)
            b = view(arena, words[1] + (first + width + 2 * ow) * channels * WIDTH, real)
            for c in range(channels):
                best, value = load(a, c), load(a, channels + c)
                best = select((value > best) | (value != value), value, best)
                value = load(b, c)
                best = select((value > best) | (value != value), value, best)
                value = load(b, channels + c)
                store(y, c, select((value > best) | (value != value), value, best))


@kernel("max_pool_quads_grad")
def max_pool_quads_grad_kernel(arena, words, begin, end):
    """Two rows of the input for each of the output, and what is left over behind and below. Inputs: ct, x."""
    high, width, tall, wide, channels = words[5], words[6], words[8], words[9], words[19]
    for row in range(begin, end):
        image = row // tall
        oh = row - image * tall
        first = (image * high + 2 * oh) * width
        for ow in range(wide):
            ct = view(arena, words[1] + (row * wide + ow) * channels * WIDTH, real)
            a = view(arena, words[2] + (first + 2 * ow) * channels * WIDTH, real)
            b = view(arena, words[2] + (first + width + 2 * ow) * channels * WIDTH, real)
            y = view(arena, words[0] + (first + 2 * ow) * channels * WIDTH, real)
            z = view(arena, words[0] + (first + width + 2 * ow) * channels * WIDTH, real)
            for c in range(channels):
                top, value = load(a, c), load(a, channels + c)
                better = (value > top) | ((value != value) & (top == top))
                top, place = select(better, value, top), select(better, 1.0, 0.0)
                value = load(b, c)
                better = (value > top) | ((value != value) & (top == top))
                top, place = select(better, value, top), select(better, 2.0, place)
                value = load(b, channels + c)
                place = select((value > top) | ((value != value) & (top == top)), 3.0, place)
                store(y, c, select(place == 0.0, load(ct, c), 0.0))
                store(y, channels + c, select(place == 1.0, load(ct, c), 0.0))
                store(z, c, select(place == 2.0, load(ct, c), 0.0))
                store(z, channels + c, select(place == 3.0, load(ct, c), 0.0))
        rest = high - 2 * oh if oh == tall - 1 else 2
        for r in range(rest):
            behind = 2 * wide if r < 2 else 0
            y = view(arena, words[0] + (first + r * width + behind) * channels * WIDTH, real)
            for i in range((width - behind) * channels):
                y[i] = 0.0



# ---------------------------------------------------------------- meaning

def _oracle(x: np.ndarray, **attrs: Any) -> np.ndarray:
    return windows_of(x, -np.inf, Windows.of(**attrs)).max(-1)


def _grad_shape(ct: Node, x: Node, **attrs: Any) -> tuple[Shape, str]:
    return x.shape, x.dtype


def _grad_oracle(ct: np.ndarray, x: np.ndarray, **attrs: Any) -> np.ndarray:
    windows = Windows.of(**attrs)
    places = windows_of(np.arange(x.size).reshape(x.shape), -1, windows)
    chosen = np.take_along_axis(places, windows_of(x, -np.inf, windows).argmax(-1)[..., None], -1)
    out = np.zeros(x.size)
    np.add.at(out, chosen[..., 0], ct)
    return out.reshape(x.shape)


def _taps(x: Node, pooled: Shape, windows: Windows) -> tuple[Node, list[dict[str, Any]]]:
    """Elements of each window as a last axis, and the slices of a padded input that they are."""
    padded = apply("pad", x, low=(0, *windows.low, 0), high=(0, *windows.high, 0), value=-np.inf)
    step = (1, *windows.stride, 1)
    spread = [(n - 1) * s + 1 for n, s in zip(pooled, step, strict=True)]
    starts = [(0, *at, 0) for at in product(*(range(k) for k in windows.window))]
    slices = [{"start": at, "stop": tuple(a + n for a, n in zip(at, spread, strict=True)), "step": step} for at in starts]
    return apply("stack", *(apply("slice", padded, **s) for s in slices), axis=-1), slices


def _first(taps: Node) -> Node:
    """1 at the first greatest element of each window, else 0."""
    return apply("one_hot", apply("argmax", taps, axis=-1), classes=taps.shape[-1], dtype=taps.dtype)


def _compose(node: Node) -> Node:
    taps, _ = _taps(node.inputs[0], node.shape, Windows.of(**node.attrs))
    return apply("where", _first(taps), taps, 0.0).sum(-1)


def _grad_compose(node: Node) -> Node:
    (ct, x), windows = node.inputs, Windows.of(**node.attrs)
    taps, slices = _taps(x, ct.shape, windows)
    shares = _first(taps) * ct.reshape(*ct.shape, 1)
    padded = tuple(n + a + b for n, a, b in zip(x.shape, (0, *windows.low, 0), (0, *windows.high, 0), strict=True))
    parts = [apply("place", shares[..., k], shape=padded, start=s["start"], step=s["step"]) for k, s in enumerate(slices)]
    total = sum(parts[1:], start=parts[0])
    return total[tuple(slice(a, a + n) for a, n in zip((0, *windows.low, 0), x.shape, strict=True))]


def _vjp(node: Node, ct: Node) -> list[Node]:
    return [apply("max_pool_grad", ct, node.inputs[0], **node.attrs)]


# ---------------------------------------------------------------- launches

def _quads(windows: Windows) -> bool:
    """Whether windows are 2 by 2, side by side, without padding: most are."""
    return tuple(windows.window) == tuple(windows.stride) == (2, 2) and not any((*windows.low, *windows.high))


def _launch(node: Node) -> list[Launch]:
    x, windows = node.inputs[0], Windows.of(**node.attrs)
    words = (node, x, 0, 0, *windows.words(x.shape, node.shape))
    rows, row = count(node.shape[:-2]), count(node.shape[-2:])
    if _quads(windows):
        return [Launch("max_pool_quads", node.dtype, words, rows, cost=row * 0.4)]
    return [Launch("max_pool", node.dtype, words, rows, cost=row * (0.5 + 0.4 * windows.size()))]


def _grad_launch(node: Node) -> list[Launch]:
    (ct, x), windows = node.inputs, Windows.of(**node.attrs)
    place = windows.words(x.shape, ct.shape)
    if _quads(windows):
        return [Launch("max_pool_quads_grad", node.dtype, (node, ct, x, 0, *place), count(ct.shape[:-2]), cost=count(ct.shape[-2:]) * 0.9)]
    images = node.shape[0]
    room = Scratch(2 * images * node.shape[-1] * np.dtype(node.dtype).itemsize)
    cost = (node.size * 0.2 + ct.size * windows.size()) / max(images, 1)
    return [Launch("max_pool_grad", node.dtype, (node, ct, x, room, *place), images, cost=cost)]


def _cuda(node: Node) -> list[Launch]:
    return pool("max_pool_each", node, Windows.of(**node.attrs).words(node.inputs[0].shape, node.shape))


def _grad_cuda(node: Node) -> list[Launch]:
    ct, x = node.inputs
    return pool("max_pool_each_grad", node, Windows.of(**node.attrs).words(x.shape, ct.shape))


def _sample(shape: Shape) -> Sample:
    return Sample(shape, distinct=True)


def _grad_case(name: str, shape: Shape, attrs: dict[str, Any]) -> Case:
    return Case(name, (Sample(pooled_shape(leaf(shape), **attrs)[0]), _sample(shape)), attrs)


register(Op("max_pool_grad", shape=_grad_shape, oracle=_grad_oracle, launch=_grad_launch, cuda=_grad_cuda, compose=_grad_compose, defaults=DEFAULTS,
            public=False, cases=tuple(_grad_case(*case) for case in CASES),
            description="The cotangent carried back to the first greatest element of each window."))
register(Op("max_pool", shape=pooled_shape, oracle=_oracle, launch=_launch, cuda=_cuda, vjp=_vjp, compose=_compose, defaults=DEFAULTS,
            cases=tuple(Case(name, (_sample(shape),), attrs) for name, shape, attrs in CASES),
            description="The greatest element of each window over the axes between batch and channels."))
