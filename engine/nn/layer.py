"""What a layer is: a spec with one method, `forward`.

Axes, everywhere: batch first; images N, H, W, C; sequences N, T, C; features last. Shapes that people see leave the batch axis out.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

from pydantic import Field

from engine.core import FLOATS, Node, apply
from engine.errors import ShapeError, TrainyardError
from engine.nn.activation import OVER_FEATURES
from engine.nn.initialisers import Init, Initialiser
from engine.nn.model import InputShape, Model, build, output_size
from engine.nn.trace import LayerInfo, Parameter, Scope, Traced, Value, shape_of, trace
from engine.ops.activations import ACTIVATIONS
from engine.spec import Family, Spec

layers = Family("layer", dict.fromkeys((*ACTIVATIONS, *OVER_FEATURES), "activation"))

Size = Annotated[int, Field(strict=True, ge=1)]


class Layer(Spec):
    """One step of a model."""

    named_only: ClassVar[tuple[str, ...]] = ("kind", "name", "init")
    equation: ClassVar[str] = ""
    name: str | None = Field(None, pattern=r"^[A-Za-z_][A-Za-z0-9_-]{0,63}$", description="used in paths instead of the layer's place")

    @classmethod
    def advice(cls, args: Sequence[Any]) -> str:
        """Layers of other libraries take the size of their input before that of their output."""
        units_first = next(name for name in cls.model_fields if name not in cls.named_only) == "units"
        if not units_first or len(args) < 2 or not all(isinstance(size, int) for size in args[:2]):
            return ""
        return f"the size of the input is inferred: write {cls.__name__}({', '.join(map(repr, args[1:]))})"

    @abstractmethod
    def forward(self, scope: Scope, *x: Any) -> Any:
        """The layer's output for nodes `x`, whose first axis is the batch. Raises ShapeError where the input does not fit."""

    def initial(self, parameter: str, default: Initialiser) -> Initialiser:
        """The initialiser of one parameter: what `init` says, where it says something about it."""
        init = getattr(self, "init", None)
        if isinstance(init, Mapping):
            return init.get(parameter, default)
        return init if init is not None and parameter == "weight" else default

    def last_activation(self) -> str | None:
        """The activation that the output went through last, if the layer knows."""
        return None

    def __call__(self, *x: Any) -> Any:
        raise TrainyardError(f"{type(self).__name__} describes a layer and has no arrays yet: make a model of it first, with "
                             "model = layer.build(input_shape=...), and call model(x)")

    def build(self, input_shape: InputShape = (1,), seed: int = 0, dtype: str = "float32") -> Model:
        """The layer with its arrays, ready to be called. `input_shape` is without the batch axis; for several inputs a list, or a dict by name."""
        return build(self, input_shape, seed, dtype)


def one(kind: str, x: Sequence[Any], rank: int | None = None, axes: str = "") -> Node:
    """The one array that a layer works on, checked. `rank` counts the axes after the batch axis, which `axes` names."""
    if len(x) != 1 or not isinstance(x[0], Node):
        found = f"the named inputs {', '.join(x[0])}" if x and isinstance(x[0], Mapping) else f"{len(x)} arrays"
        raise ShapeError(f"{kind} works on one array, found {found}; put a parallel layer before it")
    node = x[0]
    if rank is not None and node.ndim != rank + 1:
        raise ShapeError(f"{kind} expects {axes} for each row, found {list(node.shape[1:])}")
    return node


def real(node: Node, dtype: str) -> Node:
    """The node as floats: whole numbers are converted without a word, as Flux does."""
    return node if node.dtype in FLOATS else apply("cast", node, dtype=dtype)


__all__ = ["Init", "Layer", "LayerInfo", "Model", "Parameter", "Scope", "Size", "Traced", "Value", "layers", "one",
           "output_size", "real", "shape_of", "trace"]
