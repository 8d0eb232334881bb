"""How the three convolutions become launches on a GPU: products of tiles, and what few output elements or weights leave idle cut into parts.

As on the CPU, the gradient with respect to the input is a convolution of the cotangent with turned weights, several where the stride is more than 1.
Where each output element sees one element of the input, and each of these is seen once, all three are matrix products as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np

from engine.core import Launch, Node, Scratch, constant, count
from engine.ops import depthwise_grid  # noqa: F401  defines the kernels of single channels
from engine.ops.convolution_grid import LARGE, NARROW, SMALL, THIN, Tile
from engine.ops.convolution_launches import Axis, Phase, Slide, place_of, rows_of, words_of
from engine.ops.matmul_grid import ROW, product_launches
from engine.ops.movement import move, strides

ENOUGH = 512            # blocks that keep a GPU busy
PART = 256, 8192        # the fewest output elements worth a part of their own, for gradients of weights, and the most that are added up at once
MOST = 1 << 26          # bytes of the parts' sums


def tile_for(rows: int, columns: int, groups: int) -> Tile:
    """The tile for products of so many rows and columns: the largest of which there are enough."""
    if columns <= NARROW.columns:
        return THIN if columns <= THIN.columns else NARROW
    many = rows > SMALL.rows and columns > SMALL.columns and groups * LARGE.count(rows, columns) >= ENOUGH
    return LARGE if many else SMALL


def parts_for(size: int, units: int, nbytes: int) -> int:
    """Parts in which `size` output elements are added up, where each part has `units` blocks and `nbytes` of sums."""
    few, many = PART
    wanted = max(-(-ENOUGH // units), -(-size // many))
    return max(1, min(wanted, -(-size // few), MOST // max(nbytes, 1)))


# ---------------------------------------------------------------- convolution

def conv(node: Node, slide: Slide) -> Sequence[Launch]:
    x, w, *rest = node.inputs
    if _sees_points(w.shape[:-2], slide):
        return product_launches(node.dtype, node, x, w, count(x.shape[:-1]), w.shape[-1], x.shape[-1], finish=ROW if rest else 0, more=(*rest, 0)[0])
    axes = slide.axes(x.shape, w.shape[:-2], node.shape)
    place = place_of(node.shape, [Phase(axis, 0, 1, 0, 1) for axis in axes])
    bias = rest[0] if rest else None
    if w.shape[-2] == 1 and slide.groups > 1:
        share = w.shape[-1] // slide.groups
        return [_each(node, x, w, bias, axes, (1, share), node.shape[-1], place, (0, strides(w.shape)))]
    return [_product(node, x, w, bias, axes, slide.groups, w.shape[-1] // slide.groups, place)]


def conv_input_grad(node: Node, slide: Slide) -> Sequence[Launch]:
    ct, w = node.inputs
    if _sees_points(w.shape[:-2], slide):
        return product_launches(node.dtype, node, ct, w, count(ct.shape[:-1]), node.shape[-1], ct.shape[-1], turned_b=True)
    own, columns, groups = w.shape[-2], w.shape[-1] // slide.groups, slide.groups
    phases = slide.phases(node.shape, w.shape[:-2], ct.shape)
    reached = all(sum(phase.axis.out for phase in axis) == n for axis, n in zip(phases, node.shape[1:-1], strict=True))
    found = [] if reached else [move(node.dtype, node, constant(0.0, node.dtype), node.shape, in_steps=(0,) * node.ndim)]
    steps = strides(w.shape)
    for some in product(*phases):
        lengths = [phase.axis.taps for phase in some]
        along = [-phase.every * step for phase, step in zip(some, steps, strict=False)]
        start = sum(phase.last * step for phase, step in zip(some, steps, strict=False))
        axes, place = [phase.axis for phase in some], place_of(node.shape, some)
        if own == 1 and groups > 1:
            found.append(_each(node, ct, w, None, axes, (columns, 1), groups, place, (start, along)))
            continue
        turned = Scratch(count(lengths) * w.shape[-1] * own * np.dtype(w.dtype).itemsize)
        found.append(move(w.dtype, turned, w, (*lengths, columns, groups, own), in_steps=(*along, 1, columns, w.shape[-1]), in_start=start))
        found.append(_product(node, ct, turned, None, axes, groups, own, place))
    return found


def _sees_points(kernel: Sequence[int], slide: Slide) -> bool:
    """Whether output elements are rows of a matrix product with what is in their place."""
    return max(*kernel, *slide.stride, slide.groups) == 1 and not any((*slide.low, *slide.high))


def _product(node: Node, source: Node, weights: Node | Scratch, bias: Node | None, axes: Sequence[Axis], groups: int, columns: int,
             place: Sequence[int]) -> Launch:
    """What elements see of `source` times weights [taps, channels of a group, groups, columns of a group]."""
    elements = source.shape[0] * count(axis.out for axis in axes)
    tile = tile_for(elements, columns, groups)
    words = (*words_of(node, source, weights, axes, source.shape[-1], groups), columns, elements, *place,
             int(bias is not None), weights if bias is None else bias)
    return Launch(f"conv_{tile.name}", node.dtype, words, groups * tile.count(elements, columns))


def _each(node: Node, source: Node, weights: Node, bias: Node | None, axes: Sequence[Axis], fan_share: tuple[int, int], channels: int,
          place: Sequence[int], steps: tuple[int, Sequence[int]]) -> Launch:
    """Each channel by itself: how many of the source are added up, how many of the output see the same; steps are those of the weights' taps."""
    along = (*(0,) * (3 - len(axes)), *steps[1][:len(axes)])
    words = (*words_of(node, source, weights, axes, source.shape[-1], 1)[:22], *fan_share, channels, *place,
             int(bias is not None), weights if bias is None else bias, steps[0], *along)
    return Launch("conv_each", node.dtype, words, source.shape[0] * count(axis.out for axis in axes) * channels)


# ---------------------------------------------------------------- gradients of weights

def conv_weight_grad(node: Node, slide: Slide) -> Sequence[Launch]:
    x, ct = node.inputs
    if _sees_points(node.shape[:-2], slide):
        return product_launches(node.dtype, node, x, ct, x.shape[-1], ct.shape[-1], count(ct.shape[:-1]), turned_a=True)
    nbytes = node.size * np.dtype(node.dtype).itemsize
    axes = slide.axes(x.shape, node.shape[:-2], ct.shape)
    make = _each_weights if node.shape[-2] == 1 and slide.groups > 1 else _weights
    parts, launch = make(node, axes, slide.groups, nbytes)
    if parts == 1:
        return [launch(node)]
    sums = Scratch(parts * nbytes)
    return [launch(sums), Launch("sum_across", node.dtype, (node, sums, parts, parts, 1, 1.0, node.size), node.size)]


def _weights(node: Node, axes: Sequence[Axis], groups: int, nbytes: int) -> tuple[int, Any]:
    """(parts, sums -> the launch that makes them)."""
    x, ct = node.inputs
    columns, depth, elements = ct.shape[-1] // groups, count(node.shape[:-1]), count(ct.shape[:-1])
    tile = tile_for(depth, columns, ENOUGH)     # parts make as many blocks as are wanted
    units = groups * tile.count(depth, columns)
    part = -(-elements // parts_for(elements, units, nbytes))
    parts = max(1, -(-elements // max(part, 1)))

    def launch(out: Node | Scratch) -> Launch:
        words = (*words_of(out, x, ct, axes, x.shape[-1], groups), columns, elements, part)
        return Launch(f"conv_weights_{tile.name}", node.dtype, words, parts * units)

    return parts, launch


def _each_weights(node: Node, axes: Sequence[Axis], groups: int, nbytes: int) -> tuple[int, Any]:
    x, ct = node.inputs
    channels, rows, width = ct.shape[-1], rows_of(x.shape[0], axes), max(axes[-1].out, 1)
    units = count(node.shape[:-2]) * -(-channels // 32)
    part = -(-rows // min(max(rows, 1), parts_for(rows * width, units, nbytes)))
    parts = max(1, -(-rows // max(part, 1)))

    def launch(out: Node | Scratch) -> Launch:
        words = (*words_of(out, x, ct, axes, x.shape[-1], 1)[:22], 1, channels // x.shape[-1], channels, rows, part)
        return Launch("conv_each_weights", node.dtype, words, parts * units)

    return parts, launch
