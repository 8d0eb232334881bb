"""Layers of features: every output is a weighted sum of the inputs, of their products, or of one alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag

from engine.core import Node, apply, count
from engine.errors import Problem, ShapeError, SpecError
from engine.nn.activation import ActivationField, activate, name_of
from engine.nn.initialisers import GlorotUniform, Init, Ones, Zeros
from engine.nn.layer import Layer, Scope, Size, layers, one, real

UnitsOrTarget = Annotated[Annotated[Size, Tag("number")] | Annotated[Literal["target"], Tag("target")],
                          Discriminator(lambda value: "target" if value == "target" else "number")]


@layers.add
class Dense(Layer):
    """Weighted sums of the last axis, then an activation; other axes are kept."""

    equation: ClassVar[str] = "activation(x @ weight + bias)"
    aliases: ClassVar[tuple[str, ...]] = ("linear", "fully_connected")
    units: UnitsOrTarget = Field(description='size of the output; "target": one for each class or target column')
    activation: ActivationField = "identity"
    bias: bool = True
    init: Init = Field(default=GlorotUniform(), description="weight is [in, out]; bias starts at zero")
    kind: Literal["dense"] = "dense"

    def forward(self, scope: Scope, *x: Any) -> Node:
        node = real(one("dense", x), scope.dtype)
        if node.ndim < 2:
            raise ShapeError(f"dense expects rows of features [batch, features], found {list(node.shape)}; reshape the input to (-1, 1)")
        if self.units == "target":
            raise SpecError([Problem("/units", "needs_target", 'units "target" takes its number from data with a target; there is none here')])
        width = node.shape[-1]
        weight = scope.parameter("weight", (width, self.units), self.initial("weight", GlorotUniform()))
        y = apply("matmul", node if node.ndim == 2 else node.reshape(count(node.shape[:-1]), width), weight)
        if self.bias:
            y = y + scope.parameter("bias", (self.units,), self.initial("bias", Zeros()))
        y = y if node.ndim == 2 else y.reshape(*node.shape[:-1], self.units)
        return activate(self.activation, y)

    def last_activation(self) -> str | None:
        return name_of(self.activation)


@layers.add
class Scale(Layer):
    """Each feature times a number of its own, plus another, then an activation."""

    equation: ClassVar[str] = "activation(x * weight + bias)"
    units: Size | None = Field(None, description="how many features; those of the input where left out, and an input of one feature is repeated")
    activation: ActivationField = "identity"
    bias: bool = True
    init: Init = Field(default=Ones(), description="weight and bias are [features]; bias starts at zero")
    kind: Literal["scale"] = "scale"

    def forward(self, scope: Scope, *x: Any) -> Node:
        node = real(one("scale", x), scope.dtype)
        if node.ndim < 2:
            raise ShapeError(f"scale expects rows of features [batch, features], found {list(node.shape)}; reshape the input to (-1, 1)")
        width = self.units or node.shape[-1]
        if node.shape[-1] not in (1, width):
            raise ShapeError(f"scale has units {width}, found {node.shape[-1]} features")
        y = node * scope.parameter("weight", (width,), self.initial("weight", Ones()))
        if self.bias:
            y = y + scope.parameter("bias", (width,), self.initial("bias", Zeros()))
        return activate(self.activation, y)

    def last_activation(self) -> str | None:
        return name_of(self.activation)


@layers.add
class Bilinear(Layer):
    """Weighted sums of all products of a feature of one input and one of another; of a single input with itself."""

    equation: ClassVar[str] = "activation(x[0]ᵀ weight[unit] x[1] + bias), for each unit"
    units: Size = Field(description="size of the output")
    activation: ActivationField = "identity"
    bias: bool = True
    init: Init = Field(default=GlorotUniform(), description="weight is [units, first in, second in]; bias starts at zero")
    kind: Literal["bilinear"] = "bilinear"

    def forward(self, scope: Scope, *x: Any) -> Node:
        a, b = (real(node, scope.dtype) for node in _pair(x))
        if a.ndim < 2 or a.shape[:-1] != b.shape[:-1]:
            raise ShapeError(f"bilinear expects rows of features, equally many from both inputs, found {list(a.shape[1:])} and {list(b.shape[1:])}")
        rows, m, n = count(a.shape[:-1]), a.shape[-1], b.shape[-1]
        weight = scope.parameter("weight", (self.units, m, n), self.initial("weight", GlorotUniform()))
        products = (a.reshape(rows, m, 1) * b.reshape(rows, 1, n)).reshape(rows, m * n)
        y = apply("matmul", products, weight.reshape(self.units, m * n), transpose_b=True)
        if self.bias:
            y = y + scope.parameter("bias", (self.units,), self.initial("bias", Zeros()))
        return activate(self.activation, y.reshape(*a.shape[:-1], self.units))

    def last_activation(self) -> str | None:
        return name_of(self.activation)


def _pair(x: Sequence[Any]) -> tuple[Node, Node]:
    """Two inputs, in order or by name, or one twice."""
    nodes = list(x[0].values()) if len(x) == 1 and isinstance(x[0], Mapping) else list(x)
    if len(nodes) not in (1, 2) or not all(isinstance(node, Node) for node in nodes):
        raise ShapeError(f"bilinear works on two arrays, or on one with itself; found {len(nodes)}")
    return nodes[0], nodes[-1]
