"""How the three convolutions become rows of a plan: panels of weights, strips of patches, blocks of the batch.

The gradient with respect to the input is a convolution of the cotangent with turned weights. Where the stride is more than 1 it is several: element
i of the input sees only every so many taps, the same for all i that leave the same rest when divided by the stride (a phase).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import gcd
from typing import Any, NamedTuple

import numpy as np

from engine.core import Launch, Node, Scratch, Shape, constant, count
from engine.ops import convolution_kernels  # noqa: F401  defines the kernels
from engine.ops.movement import move, strides

STRIP = 1 << 16         # bytes of patches that are kept in a near cache,
ELEMENTS = 96           # but no fewer than of so many output elements
BLOCKS = 16             # of the batch, for gradients of weights
MOST = 1 << 24          # bytes of their partial sums
MANY = 1 << 17          # weights that do not stay in a near cache
LANES = 16              # columns of a panel

Ints = Sequence[int]


class Axis(NamedTuple):
    """Where along one axis output element i and tap t look: i * step + start + t * tap_step, in an input of some length."""

    out: int
    length: int
    step: int
    start: int
    taps: int
    tap_step: int


class Phase(NamedTuple):
    """Every `step`-th element of the input from `first` on, as a convolution of the cotangent with every `every`-th tap, the `last` one first."""

    axis: Axis
    first: int
    step: int
    last: int
    every: int


class Slide(NamedTuple):
    """How a kernel slides over an input: one number for each axis between batch and channels; groups of channels."""

    stride: Ints
    low: Ints
    high: Ints
    dilation: Ints
    groups: int

    def axes(self, x: Shape, kernel: Ints, y: Shape) -> list[Axis]:
        """Those of the convolution itself, for the shapes of its input and output."""
        return [Axis(out, n, s, -low, k, d) for out, n, s, low, k, d in
                zip(y[1:-1], x[1:-1], self.stride, self.low, kernel, self.dilation, strict=True)]

    def phases(self, x: Shape, kernel: Ints, y: Shape) -> list[tuple[Phase, ...]]:
        """Those of the gradient with respect to the input, for each axis; elements that no tap reaches are in none."""
        found = []
        for n, out, s, low, k, d in zip(x[1:-1], y[1:-1], self.stride, self.low, kernel, self.dilation, strict=True):
            shared = gcd(s, d)
            every, phases = s // shared, []
            for first in range(min(s, n)):
                taps = [t for t in range(min(every, k)) if (first + low - t * d) % s == 0]
                if taps:
                    seen = range(taps[0], k, every)
                    axis = Axis((n - first + s - 1) // s, out, 1, (first + low - seen[-1] * d) // s, len(seen), d // shared)
                    phases.append(Phase(axis, first, s, seen[-1], every))
            found.append(tuple(phases))
        return found


# ---------------------------------------------------------------- what launches share

def words_of(out: Node | Scratch, source: Node | Scratch, other: Node | Scratch, axes: Sequence[Axis], channels: int, groups: int) -> tuple[Any, ...]:
    three = [*[Axis(1, 1, 1, 0, 1, 1)] * (3 - len(axes)), *axes]
    return (out, source, other, *(n for axis in three for n in axis), channels, channels // groups, groups)


def rows_of(batch: int, axes: Sequence[Axis]) -> int:
    return batch * count(axis.out for axis in axes[:-1])


COLUMNS, END_TO_END, SIDE_BY_SIDE = 0, 1, 2     # how what elements see lies in its room


def _lying(channels: int, width: int, weights: int) -> int:
    """Blocks of a short row are too low, and many weights are better read for several rows at once."""
    return SIDE_BY_SIDE if channels == 1 else END_TO_END if width < 8 or weights > MANY else COLUMNS


def _room(axes: Sequence[Axis], own: int, rows: int, lies: int, itemsize: int) -> tuple[int, int]:
    """Rows at a time, and bytes for what they see."""
    last, pitch = axes[-1], own * count(axis.taps for axis in axes[:-1])
    columns = ((last.out - 1) * last.step + (last.taps - 1) * last.tap_step + 1) * pitch * itemsize
    patches = last.out * last.taps * pitch * itemsize
    strip = 1 if lies == COLUMNS else max(1, min(max(STRIP // patches, ELEMENTS // last.out), -(-rows // BLOCKS)))
    return strip, {COLUMNS: columns, END_TO_END: columns + strip * patches, SIDE_BY_SIDE: strip * patches}[lies]


def _panels(panels: Scratch, w: Node, groups: int, columns: int, rows: Sequence[tuple[int, int]], steps: tuple[int, int], start: int) -> list[Launch]:
    """Weights as [group, panel, row, 16], from (length, step) of the axes that make rows, and steps from group to group and column to column."""
    lengths, row_steps = zip(*rows, strict=True)
    size, whole, rest = count(lengths), columns // LANES, columns % LANES
    across, group, column = -(-columns // LANES), *steps
    to = tuple(n * LANES for n in strides(lengths))
    found = []
    if whole:
        found.append(move(w.dtype, panels, w, (groups, whole, *lengths, LANES), out_steps=(across * size * LANES, size * LANES, *to, 1),
                          in_steps=(group, LANES * column, *row_steps, column), in_start=start))
    if rest:
        found.append(move(w.dtype, panels, w, (groups, *lengths, rest), out_steps=(across * size * LANES, *to, 1),
                          in_steps=(group, *row_steps, column), out_start=whole * size * LANES, in_start=start + whole * LANES * column))
    return found


def _product(node: Node | Scratch, source: Node, panels: Scratch, bias: Node | None, axes: Sequence[Axis], groups: int, columns: int, place: Ints,
             end_to_end: bool) -> Launch:
    """The kernel that multiplies what elements see of `source` with panels; `columns` are those of a group."""
    channels, width, size = source.shape[-1], axes[-1].out, count(axis.taps for axis in axes) * source.shape[-1] // groups
    rows = rows_of(source.shape[0], axes)
    lies = _lying(channels, width, size * columns) if end_to_end else COLUMNS
    strip, nbytes = _room(axes, channels // groups, rows, lies, np.dtype(source.dtype).itemsize)
    chunk = max(1, -(-rows // (BLOCKS * strip)) * strip)
    words = (*words_of(node, source, panels, axes, channels, groups), strip, Scratch(-(-rows // chunk) * nbytes), nbytes, lies, columns,
             panels if bias is None else bias, -1 if bias is None else 0, chunk, *place)
    return Launch("conv", source.dtype, words, rows, grain=chunk, cost=width * size * groups * -(-columns // LANES) * LANES / 45)


def _tap_first(axes: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The axes of a kernel but the columns in the order of patches: taps of the last axis, those of the others, channels."""
    return [axes[-2], *axes[:-2], axes[-1]]


def place_of(shape: Shape, phases: Sequence[Phase]) -> tuple[int, ...]:
    """Where a phase's first element is in an array of `shape`, and how far it is from one to the next along batch and three axes."""
    steps = strides(shape)
    along = [phase.step * step for phase, step in zip(phases, steps[1:-1], strict=True)]
    return (sum(phase.first * step for phase, step in zip(phases, steps[1:-1], strict=True)), steps[0], *(0,) * (3 - len(along)), *along)


# ---------------------------------------------------------------- convolution

def conv(node: Node, slide: Slide) -> Sequence[Launch]:
    x, w, *rest = node.inputs
    bias = rest[0] if rest else None
    kernel, columns, groups = w.shape[:-2], w.shape[-1], slide.groups
    axes = slide.axes(x.shape, kernel, node.shape)
    whole = [Phase(axis, 0, 1, 0, 1) for axis in axes]
    if w.shape[-2] == 1 and groups > 1:
        source, before = _repeated(x, columns)
        return [*before, _depthwise(node, source, w, bias, axes, columns, x.shape[0], place_of(node.shape, whole))]
    panels = Scratch(-(-columns // groups // LANES) * LANES * count(w.shape[:-1]) * groups * np.dtype(w.dtype).itemsize)
    packing = _panels(panels, w, groups, columns // groups, _tap_first([*zip(w.shape[:-1], strides(w.shape)[:-1], strict=True)]),
                      (columns // groups, 1), 0)
    return [*packing, _product(node, x, panels, bias, axes, groups, columns // groups, place_of(node.shape, whole), True)]


def conv_input_grad(node: Node, slide: Slide) -> Sequence[Launch]:
    ct, w = node.inputs
    kernel, own, columns, groups = w.shape[:-2], w.shape[-2], w.shape[-1], slide.groups
    phases = slide.phases(node.shape, kernel, ct.shape)
    reached = all(sum(phase.axis.out for phase in axis) == n for axis, n in zip(phases, node.shape[1:-1], strict=True))
    alone = own == 1 and groups > 1
    wide = (*node.shape[:-1], columns) if alone else node.shape
    out: Any = Scratch(count(wide) * np.dtype(node.dtype).itemsize) if wide != node.shape else node
    found = [] if reached else [move(node.dtype, out, constant(0.0, node.dtype), wide, in_steps=(0,) * len(wide))]
    steps = strides(w.shape)
    for some in product(*phases):
        taps = [(phase.axis.taps, -phase.every * step) for phase, step in zip(some, steps, strict=False)]
        start = sum(phase.last * step for phase, step in zip(some, steps, strict=False))
        axes, place, size = [phase.axis for phase in some], place_of(wide, some), count(n for n, _ in taps)
        if alone:
            turned = Scratch(size * columns * np.dtype(w.dtype).itemsize)
            found.append(move(w.dtype, turned, w, (*(n for n, _ in taps), columns), in_steps=(*(step for _, step in taps), 1), in_start=start))
            found.append(_depthwise(out, ct, turned, None, axes, columns, ct.shape[0], place))
            continue
        panels = Scratch(-(-own // LANES) * LANES * size * columns * np.dtype(w.dtype).itemsize)
        found += _panels(panels, w, groups, own, _tap_first([*taps, (columns // groups, 1)]), (columns // groups, columns), start)
        end_to_end = all(phase.step == 1 for phase in some)
        found.append(_product(out, ct, panels, None, axes, groups, own, place, end_to_end))
    if out is not node:
        m = columns // groups
        found.append(Launch("sum_along", node.dtype, (node, out, m, m, 1, 1.0), node.size, cost=1 + 0.2 * m))
    return found


def conv_weight_grad(node: Node, slide: Slide) -> Sequence[Launch]:
    x, ct = node.inputs
    nbytes = node.size * np.dtype(node.dtype).itemsize
    axes = slide.axes(x.shape, node.shape[:-2], ct.shape)
    rows, alone = rows_of(x.shape[0], axes), node.shape[-2] == 1 and slide.groups > 1
    # many weights are cut by columns, few are added up by blocks of rows
    share = max(2, ct.shape[-1] // 128) if node.size > MANY and slide.groups == 1 else 0
    blocks = 1 if share else max(1, min(BLOCKS, rows, MOST // max(nbytes, 1)))
    turned = not alone and count(node.shape[:-3]) > 1 and node.shape[-3] > 1      # patches have the taps of the last axis first
    total: Any = Scratch(nbytes) if turned else node
    out: Any = Scratch(blocks * nbytes) if blocks > 1 else total
    make = _depthwise_weights if alone else _weights
    found = make(out, node, axes, slide.groups, rows, blocks, share)
    if out is not total:
        found.append(Launch("sum_across", node.dtype, (total, out, blocks, blocks, 1, 1.0, node.size), node.size, grain=16, cost=0.2 + 0.1 * blocks))
    if turned:
        planes, taps, last = count(node.shape[:-3]), node.shape[-3], count(node.shape[-2:])
        found.append(move(node.dtype, node, total, (planes, taps, last), in_steps=(last, planes * last, 1)))
    return found


def _weights(out: Any, node: Node, axes: Sequence[Axis], groups: int, rows: int, blocks: int, share: int) -> list[Launch]:
    x, ct = node.inputs
    columns, channels, block, width = ct.shape[-1], x.shape[-1], -(-rows // blocks), axes[-1].out
    lies = _lying(channels, width, node.size)
    strip, nbytes = _room(axes, channels // groups, rows * BLOCKS if share else rows, lies, np.dtype(node.dtype).itemsize)
    size = -(-columns // LANES) if share else blocks
    words = (*words_of(out, x, ct, axes, channels, groups), strip, Scratch(-(-size // max(share, 1)) * nbytes), nbytes, lies, columns // groups,
             block, rows, share)
    return [Launch("conv_weights", node.dtype, words, size, grain=max(share, 1), cost=rows * width * node.size / size / 40)]


# ---------------------------------------------------------------- each channel by itself

def _repeated(x: Node, columns: int) -> tuple[Node | Scratch, list[Launch]]:
    """The input with each channel as often as it has columns of its own."""
    channels = x.shape[-1]
    if channels == columns:
        return x, []
    room = Scratch(x.size // channels * columns * np.dtype(x.dtype).itemsize)
    return room, [move(x.dtype, room, x, (x.size // channels, channels, columns // channels), in_steps=(channels, 1, 0))]


def _depthwise_weights(out: Any, node: Node, axes: Sequence[Axis], groups: int, rows: int, blocks: int, share: int) -> list[Launch]:
    x, ct = node.inputs
    columns, block = ct.shape[-1], -(-rows // blocks)
    source, found = _repeated(x, columns)
    words = (*words_of(out, source, ct, axes, columns, columns), *(0,) * 4, block, rows)
    return [*found, Launch("depthwise_weights", node.dtype, words, blocks, cost=block * axes[-1].out * node.size * 0.1)]


def _depthwise(out: Node | Scratch, source: Node | Scratch, w: Node | Scratch, bias: Node | None, axes: Sequence[Axis], channels: int, batch: int,
               place: Ints) -> Launch:
    dtype = next(item.dtype for item in (out, source, w) if isinstance(item, Node))
    words = (*words_of(out, source, w, axes, channels, channels), *(0,) * 4, w if bias is None else bias, int(bias is not None), 0, 0, *place)
    cost = axes[-1].out * channels * (0.2 + 0.1 * count(axis.taps for axis in axes))
    return Launch("depthwise", dtype, words, rows_of(batch, axes), cost=cost)
