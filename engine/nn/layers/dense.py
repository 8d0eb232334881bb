"""Layers of features: every output is a weighted sum of the inputs, or a row of a table."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag

from engine.core import Node, apply, count
from engine.errors import Problem, ShapeError, SpecError, TrainyardError
from engine.nn.activation import ActivationField, activate, name_of
from engine.nn.initialisers import GlorotUniform, Init, Normal, Zeros
from engine.nn.layer import Layer, Scope, Size, layers, one, real
from engine.ops.indexing import outside

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
class Embedding(Layer):
    """A row of a table for each number of the input: categories and words as vectors."""

    equation: ClassVar[str] = "weight[x]"
    vocabulary: Size | None = Field(None, description="how many rows the table has; taken from category and text data where left out")
    units: Size = Field(description="length of a row")
    padding_index: int | None = Field(None, strict=True, ge=0, description="this number gives zeros and learns nothing")
    init: Init = Field(default=Normal(std=1.0))
    kind: Literal["embedding"] = "embedding"

    def forward(self, scope: Scope, *x: Any) -> Node:
        indices = one("embedding", x)
        if self.vocabulary is None:
            raise SpecError([Problem("/vocabulary", "missing_field", "how many different numbers there are must be said: the data does not tell")])
        if self.padding_index is not None and self.padding_index >= self.vocabulary:
            raise SpecError([Problem("/padding_index", "out_of_range", f"must be below vocabulary, found {self.padding_index}")])
        if (wrong := outside(indices, self.vocabulary)) is not None:
            raise TrainyardError(f"embedding has rows for the numbers 0 to {self.vocabulary - 1}, found {wrong}")
        indices = indices if indices.dtype == "int32" else indices.astype("int32")
        y = apply("gather", scope.parameter("weight", (self.vocabulary, self.units), self.initial("weight", Normal(std=1.0))), indices)
        if self.padding_index is None:
            return y
        kept = apply("not_equal", indices.astype(scope.dtype), float(self.padding_index))
        return y * kept.reshape(*indices.shape, 1)
