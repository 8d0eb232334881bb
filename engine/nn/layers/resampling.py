"""Layers that change how long the axes between batch and channels are: padding, and more elements from those that are there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Discriminator, Field, Tag

from engine.core import Node, apply
from engine.errors import Problem, ShapeError, SpecError
from engine.nn.layer import Layer, Scope, Size, layers, one, real
from engine.nn.spatial import AXES, each, sides

_Amount = Annotated[int, Field(strict=True, ge=0)]
_Scale = Annotated[float, Field(gt=0)]
_by_form = Discriminator(lambda value: "list" if isinstance(value, list | tuple) else "number")
_PLACES: dict[str, Any] = {"repeat": "edge", "reflect": "reflect", "symmetric": "symmetric", "circular": "wrap"}


def _grid(kind: str, x: Sequence[Any], dtype: str) -> Node:
    """The one array that a layer works on, as floats: batch, one to three axes, channels."""
    node = real(one(kind, x), dtype)
    if not 3 <= node.ndim <= 5:
        raise ShapeError(f"{kind} expects {', '.join(AXES.values())} for each row, found {list(node.shape[1:])}")
    return node


def _picked(node: Node, axis: int, places: np.ndarray) -> Node:
    """The elements at `places` of an axis."""
    return node[(slice(None),) * axis + (places,)]


@layers.add
class Pad(Layer):
    """Elements put around the axes between batch and channels: a number, or what the array holds near its ends."""

    equation: ClassVar[str] = "x with elements before and after"
    amount: Annotated[Annotated[_Amount, Tag("number")] | Annotated[list[_Amount], Tag("list")], _by_form] = Field(
        description="how many on each side; a list has one for each axis, or two: before and after the first axis, and so on")
    mode: Literal["constant", "repeat", "reflect", "symmetric", "circular"] = Field(
        "constant", description="for 1 2 3 and two elements more: constant 0 0, repeat 3 3, reflect 2 1, symmetric 3 2, circular 1 2")
    value: float = Field(0.0, description="what constant puts there")
    kind: Literal["pad"] = "pad"

    def forward(self, scope: Scope, *x: Any) -> Node:
        node = _grid("pad", x, scope.dtype)
        low, high = sides("amount", self.amount, node.ndim - 2)
        if self.mode == "constant":
            return apply("pad", node, low=(0, *low, 0), high=(0, *high, 0), value=self.value)
        if self.value != 0:
            raise SpecError([Problem("/value", "invalid_value", f'a value is put there by the mode "constant", not by "{self.mode}"')])
        for axis, (before, after) in enumerate(zip(low, high, strict=True), start=1):
            n = node.shape[axis]
            most = {"repeat": max(before, after), "reflect": n - 1}.get(self.mode, n)
            if max(before, after) > most or not n:
                raise ShapeError(f"pad finds at most {most} elements to {self.mode} in an axis of {n}, asked for {max(before, after)}")
            if before or after:
                node = _picked(node, axis, np.pad(np.arange(n), (before, after), _PLACES[self.mode]))
        return node


@layers.add
class Upsample(Layer):
    """Longer axes between batch and channels: each element repeated, or straight lines from one to the next, the corners kept."""

    equation: ClassVar[str] = "x at points between its elements"
    scale: Annotated[Annotated[_Scale, Tag("number")] | Annotated[list[_Scale], Tag("list")], _by_form] = Field(
        description="how many times longer, for all axes or each; whole for nearest, the length is rounded down for linear")
    mode: Literal["nearest", "linear"] = "nearest"
    kind: Literal["upsample"] = "upsample"

    def forward(self, scope: Scope, *x: Any) -> Node:
        node = _grid("upsample", x, scope.dtype)
        scales = each("scale", self.scale, node.ndim - 2)
        if self.mode == "nearest":
            return self._repeated(node, scales)
        for axis, scale in enumerate(scales, start=1):
            node = _stretched(node, axis, int(scale * node.shape[axis]))
        return node

    def _repeated(self, node: Node, scales: Sequence[float]) -> Node:
        if any(scale != int(scale) for scale in scales):
            raise SpecError([Problem("/scale", "invalid_value", f"nearest repeats a whole number of times, found {self.scale}; take mode linear")])
        wide = [n for pair in zip(node.shape[1:-1], map(int, scales), strict=True) for n in pair]
        single = [n for length in node.shape[1:-1] for n in (length, 1)]
        spread = apply("broadcast", node.reshape(node.shape[0], *single, node.shape[-1]), shape=(node.shape[0], *wide, node.shape[-1]))
        return spread.reshape(node.shape[0], *(a * b for a, b in zip(wide[::2], wide[1::2], strict=True)), node.shape[-1])


def _stretched(node: Node, axis: int, length: int) -> Node:
    """An axis at `length` points evenly from its first element to its last."""
    n = node.shape[axis]
    if length < 1 or not n:
        raise ShapeError(f"upsample leaves nothing of an axis of {n}")
    if length == n:
        return node
    at = np.linspace(0, n - 1, length)
    left = np.minimum(at.astype(np.int64), max(n - 2, 0))
    share = (at - left).astype(node.dtype).reshape(-1, *(1,) * (node.ndim - axis - 1))
    return _picked(node, axis, left) * (1 - share) + _picked(node, axis, np.minimum(left + 1, n - 1)) * share


@layers.add
class PixelShuffle(Layer):
    """Channels laid out as neighbours: every axis becomes `factor` times longer (Shi et al., 2016). The last axis changes fastest, as in PyTorch."""

    equation: ClassVar[str] = "[height, width, factor² channels] -> [factor height, factor width, channels]"
    factor: Size
    kind: Literal["pixel_shuffle"] = "pixel_shuffle"

    def forward(self, scope: Scope, *x: Any) -> Node:
        node = _grid("pixel_shuffle", x, scope.dtype)
        batch, *lengths, channels = node.shape
        rank, share = len(lengths), self.factor ** len(lengths)
        if channels % share:
            raise ShapeError(f"pixel_shuffle by {self.factor} takes channels in groups of {share}, found {channels}")
        apart = node.reshape(batch, *lengths, channels // share, *(self.factor,) * rank)
        pairs = [axis for i in range(rank) for axis in (1 + i, 2 + rank + i)]
        return apart.transpose(0, *pairs, 1 + rank).reshape(batch, *(n * self.factor for n in lengths), channels // share)
