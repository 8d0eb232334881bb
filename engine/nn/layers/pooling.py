"""Layers that keep the greatest element of each window, or the mean. Windows move over the axes between batch and channels."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from engine.core import Node, apply
from engine.errors import ShapeError
from engine.nn.layer import Layer, Scope, layers, one, real
from engine.nn.spatial import AXES, Dimensions, Lengths, Padding, around, each, grid, rank_of


class _Pool(Layer):
    """Windows of a fixed size."""

    pool_size: Lengths = Field(description="lengths of a window; one number means two axes, unless `dimensions` is given")
    stride: Lengths | None = Field(None, description="from one window to the next; the window's own lengths where left out")
    padding: Padding = Field("valid", description='"valid" (none), "same", or numbers of elements around each axis')
    dimensions: Dimensions | None = Field(None, description="how many axes windows move over")

    def forward(self, scope: Scope, *x: Any) -> Node:
        rank = rank_of(self.pool_size, self.dimensions)
        node = grid(self.kind_name(), x, rank, scope.dtype)
        window = each("pool_size", self.pool_size, rank)
        stride = each("stride", self.stride or window, rank)
        low, high = around(self.padding, window)
        return apply(self.kind_name(), node, window=window, stride=stride, low=low, high=high)


@layers.add
class MaxPool(_Pool):
    """The greatest element of each window, channel by channel; padding is never greatest."""

    equation: ClassVar[str] = "max(window of x)"
    kind: Literal["max_pool"] = "max_pool"

    def forward(self, scope: Scope, *x: Any) -> Node:
        node = one("max_pool", x)
        if node.op.name == "relu" and node.value is None:     # relu keeps order: it has less to do afterwards
            return apply("relu", super().forward(scope, *node.inputs))
        return super().forward(scope, node)


@layers.add
class MeanPool(_Pool):
    """The mean of each window, channel by channel; padding counts as zeros."""

    equation: ClassVar[str] = "mean(window of x)"
    aliases: ClassVar[tuple[str, ...]] = ("avg_pool",)
    kind: Literal["mean_pool"] = "mean_pool"


class _AdaptivePool(Layer):
    """Windows of equal size, chosen so that as many as asked for fit: stride = in // out, window = in - (out - 1) * stride, as in Flux."""

    op: ClassVar[str]
    output_size: Lengths = Field(description="lengths of the output; one number means two axes, unless `dimensions` is given")
    dimensions: Dimensions | None = Field(None, description="how many axes windows move over")

    def forward(self, scope: Scope, *x: Any) -> Node:
        rank = rank_of(self.output_size, self.dimensions)
        node = grid(self.kind_name(), x, rank, scope.dtype)
        wanted, have = each("output_size", self.output_size, rank), node.shape[1:-1]
        if any(out > n for out, n in zip(wanted, have, strict=True)):
            raise ShapeError(f"{self.kind_name()} cannot make {list(wanted)} of the smaller {list(have)}")
        stride = tuple(n // out for n, out in zip(have, wanted, strict=True))
        window = tuple(n - (out - 1) * s for n, out, s in zip(have, wanted, stride, strict=True))
        return apply(self.op, node, window=window, stride=stride)


@layers.add
class AdaptiveMaxPool(_AdaptivePool):
    """The greatest element of each window, of which there are `output_size`, whatever the size of the input."""

    equation: ClassVar[str] = "max(window of x)"
    op: ClassVar[str] = "max_pool"
    kind: Literal["adaptive_max_pool"] = "adaptive_max_pool"


@layers.add
class AdaptiveMeanPool(_AdaptivePool):
    """The mean of each window, of which there are `output_size`, whatever the size of the input."""

    equation: ClassVar[str] = "mean(window of x)"
    aliases: ClassVar[tuple[str, ...]] = ("adaptive_avg_pool",)
    op: ClassVar[str] = "mean_pool"
    kind: Literal["adaptive_mean_pool"] = "adaptive_mean_pool"


class _GlobalPool(Layer):
    """One window: everything between batch and channels. The axes stay, with length 1."""

    op: ClassVar[str]

    def forward(self, scope: Scope, *x: Any) -> Node:
        node = real(one(self.kind_name(), x), scope.dtype)
        if not 3 <= node.ndim <= 5:
            raise ShapeError(f"{self.kind_name()} expects {', '.join(AXES.values())} for each row, found {list(node.shape[1:])}")
        return apply(self.op, node, window=node.shape[1:-1])


@layers.add
class GlobalMaxPool(_GlobalPool):
    """The greatest element of each channel; the other axes stay, with length 1."""

    equation: ClassVar[str] = "max(x)"
    op: ClassVar[str] = "max_pool"
    kind: Literal["global_max_pool"] = "global_max_pool"


@layers.add
class GlobalMeanPool(_GlobalPool):
    """The mean of each channel; the other axes stay, with length 1."""

    equation: ClassVar[str] = "mean(x)"
    aliases: ClassVar[tuple[str, ...]] = ("global_avg_pool",)
    op: ClassVar[str] = "mean_pool"
    kind: Literal["global_mean_pool"] = "global_mean_pool"
