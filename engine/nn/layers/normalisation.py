"""Layers that keep activations in bounds: normalisation and dropout."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from engine.core import Node, apply
from engine.errors import ShapeError
from engine.nn.activation import ActivationField, activate, name_of
from engine.nn.initialisers import Init, Ones, Zeros
from engine.nn.layer import Layer, Scope, layers, one, real


@layers.add
class LayerNorm(Layer):
    """Each row's features brought to mean 0 and variance 1, then scaled and shifted (Ba et al., 2016)."""

    equation: ClassVar[str] = "activation((x - mean) / sqrt(variance + epsilon) * weight + bias), over the last axis"
    epsilon: float = Field(1e-5, gt=0)
    affine: bool = Field(True, description="whether there are a weight and a bias")
    activation: ActivationField = "identity"
    init: Init = Field(default=Ones())
    kind: Literal["layer_norm"] = "layer_norm"

    def forward(self, scope: Scope, *x: Any) -> Node:
        node = real(one("layer_norm", x), scope.dtype)
        if node.ndim < 2:
            raise ShapeError(f"layer_norm expects rows of features [batch, features], found {list(node.shape)}")
        y = apply("layer_norm", node, epsilon=self.epsilon)
        if self.affine:
            width = (node.shape[-1],)
            y = y * scope.parameter("weight", width, self.initial("weight", Ones())) + scope.parameter("bias", width, self.initial("bias", Zeros()))
        return activate(self.activation, y)

    def last_activation(self) -> str | None:
        return name_of(self.activation)


@layers.add
class Dropout(Layer):
    """In training, sets a share of the numbers to zero and scales the others up to keep the mean; otherwise nothing (Srivastava et al., 2014)."""

    equation: ClassVar[str] = "x * (u > rate) / (1 - rate), u uniform in [0, 1)"
    rate: float = Field(0.5, ge=0, le=1, description="the share that is dropped")
    axes: list[int] | None = Field(None, description="axes with draws of their own, the batch is 0 (all where left out); along the others numbers "
                                                     "are dropped together")
    kind: Literal["dropout"] = "dropout"

    def forward(self, scope: Scope, *x: Any) -> Node:
        node = real(one("dropout", x), scope.dtype)
        if not scope.training or self.rate == 0:
            return node
        if self.rate == 1:
            return node * 0.0
        keep = apply("bernoulli", scope.key, shape=self._mask(node), place=scope.place(), rate=1 - self.rate, dtype=scope.dtype)
        return node * (keep * (1 / (1 - self.rate)))

    def _mask(self, node: Node) -> tuple[int, ...]:
        if self.axes is None:
            return node.shape
        wrong = [a for a in self.axes if not -node.ndim <= a < node.ndim]
        if wrong:
            raise ShapeError(f"dropout over axis {wrong[0]} of an array {list(node.shape)}: there are axes 0 (the batch) to {node.ndim - 1}")
        own = {a % node.ndim for a in self.axes}
        return tuple(n if a in own else 1 for a, n in enumerate(node.shape))
