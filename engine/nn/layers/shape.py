"""Layers that change the form of an array, not its numbers; and activations by themselves."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from engine.core import Node, count
from engine.errors import ShapeError
from engine.nn.activation import ActivationField, activate, name_of
from engine.nn.layer import Layer, Scope, layers, one, real


@layers.add
class Flatten(Layer):
    """All axes after the batch axis as one."""

    equation: ClassVar[str] = "reshape(x, [batch, features])"
    kind: Literal["flatten"] = "flatten"

    def forward(self, scope: Scope, *x: Any) -> Node:
        node = one("flatten", x)
        return node.reshape(node.shape[0], count(node.shape[1:]))


@layers.add
class Reshape(Layer):
    """The numbers of each row in another shape; one axis may be -1, which takes what is left."""

    equation: ClassVar[str] = "reshape(x, [batch, *shape])"
    shape: list[int] = Field(description="without the batch axis")
    kind: Literal["reshape"] = "reshape"

    def forward(self, scope: Scope, *x: Any) -> Node:
        node = one("reshape", x)
        have, fixed, open_axes = count(node.shape[1:]), count(n for n in self.shape if n != -1), self.shape.count(-1)
        fits = have == fixed if not open_axes else open_axes == 1 and fixed > 0 and have % fixed == 0
        if not fits or any(n < -1 for n in self.shape):
            raise ShapeError(f"reshape cannot make {self.shape} of {list(node.shape[1:])}, which has {have} numbers")
        return node.reshape(node.shape[0], *(have // fixed if n == -1 else n for n in self.shape))


@layers.add
class Activation(Layer):
    """A function of each number, or softmax over the last axis."""

    equation: ClassVar[str] = "activation(x)"
    activation: ActivationField
    kind: Literal["activation"] = "activation"

    def forward(self, scope: Scope, *x: Any) -> Node:
        return activate(self.activation, real(one("activation", x), scope.dtype))

    def last_activation(self) -> str | None:
        return name_of(self.activation)
