"""Convolutions: the same small kernel of weights at every place of a sequence, an image or a volume, channels last."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from engine.core import Node, Shape, apply
from engine.errors import ShapeError
from engine.nn.activation import ActivationField, activate, name_of
from engine.nn.initialisers import GlorotUniform, Init, Zeros
from engine.nn.layer import Layer, Scope, Size, layers
from engine.nn.spatial import Dimensions, Ints, Lengths, Padding, around, each, grid, rank_of


class _Convolution(Layer):
    """A kernel that slides over the axes between batch and channels."""

    filters: Size = Field(description="channels of the output")
    kernel_size: Lengths = Field(description="lengths of the kernel; one number means two axes, unless `dimensions` is given")
    stride: Lengths = Field(1, description="from one place of the kernel to the next")
    padding: Padding = Field("valid", description='"valid" (none), "same", or numbers of zeros around each axis')
    dilation: Lengths = Field(1, description="from one tap of the kernel to the next")
    activation: ActivationField = "identity"
    bias: bool = True
    flip_kernel: bool = Field(False, description="true convolution, whose kernel runs backwards, as Flux has it")
    dimensions: Dimensions | None = Field(None, description="how many axes the kernel slides over")

    @classmethod
    def renamed(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """An alias that ends in 1d, 2d or 3d says how many dimensions there are."""
        rank = str(given["kind"])[-2:-1]
        return super().renamed({"dimensions": int(rank), **given} if rank.isdigit() else given)

    @property
    def rank(self) -> int:
        return rank_of(self.kernel_size, self.dimensions)

    def slide(self) -> dict[str, Ints]:
        """Kernel, stride and dilation, a number for each axis."""
        return {name: each(name, getattr(self, name), self.rank) for name in ("kernel_size", "stride", "dilation")}

    def check_groups(self, node: Node, groups: int) -> None:
        if node.shape[-1] % groups or self.filters % groups:
            raise ShapeError(f"{self.kind_name()} in {groups} groups: the channels of {list(node.shape[1:])} and the {self.filters} filters must "
                             "both be multiples of that")

    def weight(self, scope: Scope, shape: Shape) -> Node:
        weight = scope.parameter("weight", shape, self.initial("weight", GlorotUniform()))
        return apply("flip", weight, axis=tuple(range(self.rank))) if self.flip_kernel else weight

    def biases(self, scope: Scope) -> list[Node]:
        return [scope.parameter("bias", (self.filters,), self.initial("bias", Zeros()))] if self.bias else []

    def last_activation(self) -> str | None:
        return name_of(self.activation)


def _spans(slide: Mapping[str, Ints]) -> list[int]:
    """How many elements the kernel reaches over on each axis."""
    return [(k - 1) * d + 1 for k, d in zip(slide["kernel_size"], slide["dilation"], strict=True)]


class _Sliding(_Convolution):
    """A convolution in `groups` groups of channels."""

    def convolve(self, scope: Scope, node: Node, groups: int) -> Node:
        channels, slide = node.shape[-1], self.slide()
        self.check_groups(node, groups)
        low, high = around(self.padding, _spans(slide))
        weight = self.weight(scope, (*slide["kernel_size"], channels // groups, self.filters))
        y = apply("conv", node, weight, *self.biases(scope), stride=slide["stride"], dilation=slide["dilation"], low=low, high=high, groups=groups)
        return activate(self.activation, y)


@layers.add
class Conv(_Sliding):
    """Weighted sums of what a kernel covers, at each of its places (LeCun et al., 1989); cross-correlation, unless `flip_kernel`."""

    equation: ClassVar[str] = "activation(sum over taps t of x[i * stride + t * dilation] @ weight[t] + bias)"
    aliases: ClassVar[tuple[str, ...]] = ("conv1d", "conv2d", "conv3d", "convolution")
    groups: Size = Field(1, description="groups of channels, each seen by its own filters only")
    init: Init = Field(default=GlorotUniform(), description="weight is [*kernel_size, in / groups, filters]; bias starts at zero")
    kind: Literal["conv"] = "conv"

    def forward(self, scope: Scope, *x: Any) -> Node:
        return self.convolve(scope, grid("conv", x, self.rank, scope.dtype), self.groups)


@layers.add
class DepthwiseConv(_Sliding):
    """A convolution of each channel by itself; `filters` is a multiple of the channels."""

    equation: ClassVar[str] = "activation(sum over taps t of x[i * stride + t * dilation] * weight[t] + bias)"
    aliases: ClassVar[tuple[str, ...]] = ("depthwise_conv1d", "depthwise_conv2d", "depthwise_conv3d")
    init: Init = Field(default=GlorotUniform(), description="weight is [*kernel_size, 1, filters]; bias starts at zero")
    kind: Literal["depthwise_conv"] = "depthwise_conv"

    def forward(self, scope: Scope, *x: Any) -> Node:
        node = grid("depthwise_conv", x, self.rank, scope.dtype)
        return self.convolve(scope, node, node.shape[-1])


@layers.add
class ConvTranspose(_Convolution):
    """The transpose of a convolution: every element of the input spreads a kernel over the output, which is larger by the stride."""

    equation: ClassVar[str] = "activation(y + bias), y[i * stride + t * dilation] = sum of x[i] @ weight[t]ᵀ"
    aliases: ClassVar[tuple[str, ...]] = ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
    groups: Size = Field(1, description="groups of channels, each of which makes its own filters only")
    init: Init = Field(default=GlorotUniform(), description="weight is [*kernel_size, filters / groups, in]; bias starts at zero")
    kind: Literal["conv_transpose"] = "conv_transpose"

    def forward(self, scope: Scope, *x: Any) -> Node:
        node, slide = grid("conv_transpose", x, self.rank, scope.dtype), self.slide()
        channels, spans = node.shape[-1], _spans(slide)
        self.check_groups(node, self.groups)
        # "same" makes the output `stride` times as long as the input: that much less than the whole spread is cut away
        low, high = around(self.padding, [max(span - s + 1, 1) if self.padding == "same" else span
                                          for span, s in zip(spans, slide["stride"], strict=True)])
        lengths = tuple(max((n - 1) * s + span, n * s if self.padding == "same" else 0) - a - b for n, s, span, a, b in
                        zip(node.shape[1:-1], slide["stride"], spans, low, high, strict=True))
        if min(lengths) < 1:
            raise ShapeError(f"conv_transpose of {list(node.shape[1:])} cuts away more than there is: its output would be {list(lengths)}; pad less")
        weight = self.weight(scope, (*slide["kernel_size"], self.filters // self.groups, channels))
        y = apply("conv_input_grad", node, weight, lengths=lengths, stride=slide["stride"], dilation=slide["dilation"], low=low, high=high,
                  groups=self.groups)
        for bias in self.biases(scope):
            y = y + bias
        return activate(self.activation, y)
