"""Layers that leave things out in training, so that nothing is relied on alone."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from engine.core import Node, apply
from engine.errors import ShapeError
from engine.nn.layer import Layer, Scope, layers, one, real
from engine.ops.activations import ALPHA, LAMBDA

LOWEST = -LAMBDA * ALPHA    # where selu ends


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
        keep = 1 - self.rate
        return node * apply("bernoulli", scope.key, shape=self._mask(node), place=scope.place(), rate=keep, value=1 / keep, dtype=scope.dtype)

    def _mask(self, node: Node) -> tuple[int, ...]:
        if self.axes is None:
            return node.shape
        wrong = [a for a in self.axes if not -node.ndim <= a < node.ndim]
        if wrong:
            raise ShapeError(f"dropout over axis {wrong[0]} of an array {list(node.shape)}: there are axes 0 (the batch) to {node.ndim - 1}")
        own = {a % node.ndim for a in self.axes}
        return tuple(n if a in own else 1 for a, n in enumerate(node.shape))


@layers.add
class AlphaDropout(Layer):
    """Dropout for selu networks: what is dropped becomes selu's lowest value, then mean and variance are put back (Klambauer et al., 2017)."""

    equation: ClassVar[str] = "a * (x if u > rate else -1.7581) + b, u uniform in [0, 1)"
    rate: float = Field(0.5, ge=0, le=1, description="the share that is dropped")
    kind: Literal["alpha_dropout"] = "alpha_dropout"

    def forward(self, scope: Scope, *x: Any) -> Node:
        node = real(one("alpha_dropout", x), scope.dtype)
        if not scope.training or self.rate == 0:
            return node
        if self.rate == 1:
            return node * 0.0
        keep = apply("bernoulli", scope.key, shape=node.shape, place=scope.place(), rate=1 - self.rate, dtype=scope.dtype)
        scale, shift = self.correction()
        return apply("where", keep, node, LOWEST) * scale + shift

    def correction(self) -> tuple[float, float]:
        """The scale and shift that bring standard normal numbers back to mean 0 and variance 1."""
        scale = 1 / ((1 - self.rate) * (1 + self.rate * LOWEST**2)) ** 0.5
        return scale, -scale * LOWEST * self.rate
