"""Layers made of layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from engine.core import Node, apply
from engine.errors import ShapeError
from engine.nn.layer import Layer, Scope, layers, real

if TYPE_CHECKING:
    AnyLayer = Layer

Joined = Literal["add", "concat", "multiply", "mean", "max"]
Connection = Literal[Joined, "separate"]
_JOIN = {"add": "add", "mean": "add", "multiply": "multiply", "max": "maximum"}


def connect(scope: Scope, connection: str, outputs: Mapping[str, Node]) -> Any:
    """Several outputs as one. "concat" is along the last axis; "separate" leaves them apart, by name."""
    nodes = list(outputs.values())
    if connection == "separate":
        return dict(outputs)
    if any(not isinstance(n, Node) for n in nodes):
        raise ShapeError(f"only single arrays can be joined by {connection!r}; one of the layers {', '.join(outputs)} gives several")
    like = [n.shape[:-1] for n in nodes] if connection == "concat" else [n.shape for n in nodes]
    nodes = [real(node, scope.dtype) for node in nodes]
    if any(shape != like[0] for shape in like):
        shown = ", ".join(f"{scope.maker(n) or name} {list(n.shape[1:])}" for name, n in outputs.items())
        must = "equal axes but the last" if connection == "concat" else "one shape"
        raise ShapeError(f"outputs joined by {connection!r} must have {must}, found {shown}")
    if connection == "concat":
        return apply("concat", *nodes, axis=-1) if len(nodes) > 1 else nodes[0]
    total = reduce(lambda a, b: apply(_JOIN[connection], a, b), nodes)
    return total * (1 / len(nodes)) if connection == "mean" else total


def _by_position(args: Sequence[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """`Chain(a, b)`, each a layer in any of its forms, as well as `Chain([a, b])` and `Chain(layers=[a, b])`."""
    if args and "layers" not in kwargs:
        one = isinstance(args[0], Mapping) and isinstance(args[0].get("kind"), str)
        several = isinstance(args[0], str) or one or callable(args[0])     # layers are; so is what was taken for one
        kwargs["layers"] = list(args) if several else args[0]
        args = () if several else args[1:]
    if args:
        kwargs["connection"] = args[0]
    return kwargs


def _check_names(found: Sequence[Layer]) -> None:
    names = [layer.name for layer in found if layer.name]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise PydanticCustomError("duplicate_name", "two layers side by side are called '{name}'", {"name": twice, "code": "duplicate_name"})


@layers.add
class Chain(Layer):
    """Layers one after the other; several outputs of one are the several inputs of the next."""

    equation: ClassVar[str] = "last(... second(first(x)))"
    aliases: ClassVar[tuple[str, ...]] = ("sequential",)
    layers: list[AnyLayer]
    kind: Literal["chain"] = "chain"

    def __init__(self, *layers: Any, **kwargs: Any):
        super().__init__(**_by_position(layers, kwargs))

    @model_validator(mode="after")
    def _names(self) -> Chain:
        _check_names(self.layers)
        return self

    def forward(self, scope: Scope, *x: Any) -> Any:
        for i, layer in enumerate(self.layers):
            y = scope.run(layer, f"layers.{i}", *x)
            x = y if isinstance(y, tuple) else (y,)
        return x[0] if len(x) == 1 else x

    def last_activation(self) -> str | None:
        transparent = ("dropout", "flatten", "reshape")
        last = next((layer for layer in reversed(self.layers) if layer.kind_name() not in transparent), None)
        return last.last_activation() if last else None


_Key = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_-]{0,63}$")]
_Branches = Annotated[Annotated[list["AnyLayer"], Tag("list")] | Annotated[dict[_Key, "AnyLayer"], Tag("dict")],
                      Discriminator(lambda value: "dict" if isinstance(value, Mapping) else "list")]


@layers.add
class Parallel(Layer):
    """Layers side by side: one input goes to all of them, several go one to each; by name where the layers and the inputs have names."""

    equation: ClassVar[str] = "connection(first(x), second(x), ...)"
    layers: _Branches = Field(description="a list, or an object by name")
    connection: Connection = "add"
    kind: Literal["parallel"] = "parallel"

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(**_by_position(args, kwargs))

    @model_validator(mode="after")
    def _some(self) -> Parallel:
        if not self.layers:
            raise PydanticCustomError("no_layers", "parallel needs at least one layer", {"code": "out_of_range"})
        _check_names(list(self.branches.values()))
        return self

    @property
    def branches(self) -> dict[str, Layer]:
        """The layers by key, or by place."""
        return dict(self.layers) if isinstance(self.layers, Mapping) else {str(i): layer for i, layer in enumerate(self.layers)}

    def forward(self, scope: Scope, *x: Any) -> Any:
        named = isinstance(self.layers, Mapping)
        inputs = self._inputs(x)
        outputs = {key if named else layer.name or key: scope.run(layer, f"layers.{key}", inputs[key]) for key, layer in self.branches.items()}
        return connect(scope, self.connection, outputs)

    def _inputs(self, x: Sequence[Any]) -> dict[str, Any]:
        keys = list(self.branches)
        if len(x) == 1 and isinstance(x[0], Mapping):
            missing = [key for key in keys if key not in x[0]]
            unused = [name for name in x[0] if name not in keys]
            if missing or unused:
                raise ShapeError(f"parallel takes the named inputs {', '.join(x[0])}: each needs a layer of its name, found layers {', '.join(keys)}")
            return {key: x[0][key] for key in keys}
        if len(x) not in (1, len(keys)):
            raise ShapeError(f"parallel has {len(keys)} layers and found {len(x)} inputs: one for all, or one for each")
        return dict(zip(keys, x if len(x) == len(keys) else list(x) * len(keys), strict=True))


@layers.add
class SkipConnection(Layer):
    """A layer, and a way around it."""

    equation: ClassVar[str] = "connection(layer(x), x)"
    aliases: ClassVar[tuple[str, ...]] = ("residual",)
    layer: AnyLayer
    connection: Joined = "add"
    kind: Literal["skip_connection"] = "skip_connection"

    def forward(self, scope: Scope, *x: Any) -> Any:
        if len(x) != 1:
            raise ShapeError(f"skip_connection works on one array, found {len(x)}")
        return connect(scope, self.connection, {"the layer": scope.run(self.layer, "layer", x[0]), "the input": x[0]})


class _Row(Layer):
    """Layers in a list, at least one."""

    layers: list[AnyLayer]

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(**_by_position(args, kwargs))

    @model_validator(mode="after")
    def _some(self) -> Any:
        if not self.layers:
            raise PydanticCustomError("no_layers", "{kind} needs at least one layer", {"kind": self.kind_name(), "code": "out_of_range"})
        _check_names(self.layers)
        return self


@layers.add
class PairwiseFusion(_Row):
    """Layers one after the other, each on the output of the one before joined with the next input, or with the only one; every output is given."""

    equation: ClassVar[str] = "y[0] = first(x[0]); y[i] = layer[i](connection(y[i - 1], x[i]))"
    connection: Joined = "add"
    kind: Literal["pairwise_fusion"] = "pairwise_fusion"

    def forward(self, scope: Scope, *x: Any) -> Any:
        inputs = list(x[0].values()) if len(x) == 1 and isinstance(x[0], Mapping) else list(x)
        if len(inputs) not in (1, len(self.layers)):
            raise ShapeError(f"pairwise_fusion has {len(self.layers)} layers and found {len(inputs)} inputs: one for all, or one for each")
        inputs = inputs if len(inputs) == len(self.layers) else inputs * len(self.layers)
        found: list[Any] = []
        for i, (layer, node) in enumerate(zip(self.layers, inputs, strict=True)):
            joined = connect(scope, self.connection, {"the layer before": found[-1], "the input": node}) if found else node
            found.append(scope.run(layer, f"layers.{i}", joined))
        return tuple(found) if len(found) > 1 else found[0]


@layers.add
class Maxout(_Row):
    """The greatest of what several layers make of one input, element by element (Goodfellow et al., 2013)."""

    equation: ClassVar[str] = "max(first(x), second(x), ...)"
    kind: Literal["maxout"] = "maxout"

    def forward(self, scope: Scope, *x: Any) -> Any:
        if len(x) != 1:
            raise ShapeError(f"maxout works on one array, found {len(x)}")
        return connect(scope, "max", {layer.name or str(i): scope.run(layer, f"layers.{i}", x[0]) for i, layer in enumerate(self.layers)})
