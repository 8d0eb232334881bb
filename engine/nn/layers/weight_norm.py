"""A layer whose weights are learned as length and direction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from engine.core import Node, Shape, apply
from engine.errors import Problem, ShapeError, SpecError
from engine.nn.initialisers import Draw, Initialiser, Zeros
from engine.nn.layer import Layer, Scope, layers

if TYPE_CHECKING:
    AnyLayer = Layer


class _Lengths(Initialiser):
    """The lengths of the initial weights beside it, one for each output: so the layer begins as it would without weight_norm."""

    weight: Initialiser
    shape: Shape
    kind: Literal["lengths"] = "lengths"

    def array(self, shape: Shape, *, seed: int = 0, path: str = "", dtype: str = "float32") -> np.ndarray:
        weight = self.weight.array(self.shape, seed=seed, path=path.removesuffix("gain") + "weight", dtype="float64")
        return np.sqrt(np.square(weight).sum(tuple(range(weight.ndim - 1)))).astype(dtype)

    def draw(self, draw: Draw) -> np.ndarray:
        return self.array(draw.shape)


@layers.add
class WeightNorm(Layer):
    """A layer with a weight, of which the directions and the lengths, one for each output, are learned apart (Salimans and Kingma, 2016)."""

    equation: ClassVar[str] = "layer(x) with gain * weight / sqrt(sum(weight ** 2)) as its weight, the sum over all axes but the last"
    layer: AnyLayer
    kind: Literal["weight_norm"] = "weight_norm"

    def forward(self, scope: Scope, *x: Any) -> Any:
        made: list[Node] = []

        def normalised(inside: Scope, weight: Node, init: Initialiser) -> Node:
            if isinstance(init, Zeros):
                raise ShapeError("weights that begin as zeros have no direction; take another init")
            gain = inside.parameter("gain", weight.shape[-1:], _Lengths(weight=init, shape=weight.shape))
            squares = apply("square", weight).sum(tuple(range(weight.ndim - 1)))
            made.append(weight * (gain * apply("rsqrt", squares + float(np.finfo(weight.dtype).eps))))
            return made[0]

        output = scope.run(self.layer, "layer", *x, made={"weight": normalised})
        if not made:
            raise SpecError([Problem("/layer", "no_weight", f"{self.layer.kind_name()} has no weight whose lengths could be learned")])
        return output

    def last_activation(self) -> str | None:
        return self.layer.last_activation()
