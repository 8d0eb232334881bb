"""How a description becomes a graph: the walk that infers sizes, counts parameters, finds shapes that do not fit and makes nodes, all at once.

A layer asks its `Scope` for parameters, buffers and random numbers, and runs its children through it. No arrays are touched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Union
from zlib import crc32

from engine.core import FLOATS, Node, Shape, count, leaf
from engine.errors import Problem, ShapeError, SpecError, nearest
from engine.nn.initialisers import Initialiser
from engine.nn.paths import join

Value = Union[Node, tuple[Node, ...], dict[str, Node]]  # noqa: UP007
"""What flows between layers: one node, several in order, or several by name."""


class Layered(Protocol):
    """What a walk needs of a layer."""

    @property
    def name(self) -> str | None: ...

    @classmethod
    def kind_name(cls) -> str: ...

    def forward(self, scope: Scope, *x: Any) -> Any: ...


@dataclass(frozen=True, eq=False)
class Parameter:
    """An array that a layer keeps: its leaf in the graph, its shape and its initial values."""

    node: Node
    shape: Shape
    init: Initialiser


@dataclass
class LayerInfo:
    """One row of a model's description. Shapes are without the batch axis: one shape, several in order, or by name.

    `parameters` counts the layer's own numbers; those of its children are in their rows. `pointer` is its place in the description (JSON Pointer).
    """

    path: str
    kind: str
    input_shape: Any
    output_shape: Any = None
    parameters: int = 0
    pointer: str = ""

    def as_dict(self) -> dict[str, Any]:
        return {"path": self.path, "kind": self.kind, "input_shape": self.input_shape, "output_shape": self.output_shape,
                "parameters": self.parameters}


@dataclass
class Traced:
    """A layer's graph. `ties` tells the path of a layer used again by the path of its first use, whose parameters it shares.

    `assigned` is what buffers become after the step; `warnings` have pointers into the description.
    """

    output: Any = None
    parameters: dict[str, Parameter] = field(default_factory=dict)
    buffers: dict[str, Parameter] = field(default_factory=dict)
    assigned: dict[str, Node] = field(default_factory=dict)
    layers: list[LayerInfo] = field(default_factory=list)
    key: Node | None = None
    ties: dict[str, str] = field(default_factory=dict)
    warnings: list[Problem] = field(default_factory=list)


@dataclass
class _Walk:
    """What one trace shares among its scopes."""

    traced: Traced
    given: Mapping[str, Node]
    first_use: dict[int, str] = field(default_factory=dict)    # id of a layer object -> its path
    origin: dict[int, str] = field(default_factory=dict)       # id of a node -> the layer that made it
    kept: list[Any] = field(default_factory=list)              # what the ids above belong to


Maker = Callable[["Scope", Node, Initialiser], Node]
"""(the layer's scope, the leaf of a parameter, its initial values) -> what the layer computes with in its place."""


class Scope:
    """One layer's view of the trace: where it is, and what it may ask for."""

    def __init__(self, walk: _Walk, path: str, home: str, training: bool, dtype: str, info: LayerInfo, made: Mapping[str, Maker]):
        self._walk, self.path, self._home, self.training, self.dtype, self._info, self._made = walk, path, home, training, dtype, info, made
        self._places = 0
        self.asked: list[str] = []      # the parameters by name, for what says something about them

    def parameter(self, name: str, shape: Shape, init: Initialiser) -> Node:
        """The leaf of a trained array, whose path is the layer's and `name`; or what the layer around this one makes of it."""
        self.asked.append(name)
        node = self._keep(self._walk.traced.parameters, name, shape, init)
        return self._made[name](self, node, init) if name in self._made else node

    def buffer(self, name: str, shape: Shape, init: Initialiser) -> Node:
        """An array that is kept with the model but not trained: its leaf, or what an earlier use of the layer in this step has assigned."""
        kept = self._keep(self._walk.traced.buffers, name, shape, init)
        return self._walk.traced.assigned.get(join(self._home, name), kept)

    def assign(self, name: str, node: Node) -> None:
        """Say what a buffer becomes after this step."""
        self._walk.traced.assigned[join(self._home, name)] = node

    def warn(self, field: str, code: str, detail: str) -> None:
        """Say what a user should know about one field of the layer's description."""
        self._walk.traced.warnings.append(Problem(f"{self._info.pointer}/{field}", code, detail))

    def _keep(self, store: dict[str, Parameter], name: str, shape: Shape, init: Initialiser) -> Node:
        path = join(self._home, name)
        if path not in store:
            try:
                init.check(shape)
            except ShapeError as error:
                raise ShapeError(f"its {name}: {error.message}") from None
            node = self._walk.given.get(path)
            store[path] = Parameter(leaf(shape, self.dtype, name=path) if node is None else node, shape, init)
            if store is self._walk.traced.parameters:
                self._info.parameters += count(shape)
        node = store[path].node
        if node.shape != shape:
            raise ShapeError(f"its {name} is {list(node.shape)}, this input asks for {list(shape)}")
        return node

    @property
    def key(self) -> Node:
        """The key of this step's random numbers: int64 (seed, step)."""
        traced = self._walk.traced
        if traced.key is None:
            traced.key = leaf((2,), "int64", name="key")
        return traced.key

    def maker(self, node: Node) -> str | None:
        """The layer that made an array, as errors call it; None for the model's inputs."""
        return self._walk.origin.get(id(node))

    def place(self) -> int:
        """A number for each use of randomness in the model, the same in every trace."""
        self._places += 1
        return crc32(f"{self.path}:{self._places}".encode())

    def run(self, layer: Layered, key: str, *x: Any, made: Mapping[str, Maker] | None = None) -> Any:
        """Run a child, whose place in this layer's description is `key` ("layers.0"). A `name` stands in the path instead of the index.

        `made` says, for the child's parameters by name, what the child computes with instead.
        A container inside a container is one step of the path: "layers.body.1.weight".
        """
        pointer = f"{self._info.pointer}/{key.replace('.', '/')}"
        place, _, index = key.rpartition(".")
        named = join(place, layer.name) if layer.name and index.isdigit() else key
        path = join(self.path, named.removeprefix("layers.") if self.path else named)
        try:
            return _run(self._walk, layer, path, pointer, self.training, self.dtype, x, made or {})
        except SpecError as error:
            raise SpecError(p.under("/" + key.replace(".", "/")) for p in error.problems) from None


def _run(walk: _Walk, layer: Layered, path: str, pointer: str, training: bool, dtype: str, x: tuple[Any, ...], made: Mapping[str, Maker]) -> Any:
    home = walk.first_use.setdefault(id(layer), path)
    if home != path:
        walk.traced.ties[path] = home
    info = LayerInfo(path, layer.kind_name(), shape_of(x[0] if len(x) == 1 else x), pointer=pointer)
    walk.traced.layers.append(info)
    scope = Scope(walk, path, home, training, dtype, info, made)
    try:
        output = layer.forward(scope, *x)
    except ShapeError as error:
        if error.path:
            raise
        source = walk.origin.get(id(x[0])) if x else None
        came = f" (its input {_show(info.input_shape)} comes from {source})" if source else ""
        raise ShapeError(error.message + came, _label(path, info.kind), pointer) from None
    _check_init(layer, scope.asked)
    info.output_shape = shape_of(output)
    for node in (output.values() if isinstance(output, Mapping) else output if isinstance(output, tuple) else (output,)):
        walk.origin[id(node)] = _label(path, info.kind)
        node.name = node.name or _label(path, info.kind)
    walk.kept.append((layer, output))
    return output


def _check_init(layer: Layered, asked: Sequence[str]) -> None:
    """Raise SpecError where `init` speaks of parameters that the layer has not; of a weight and a bias it may, also where they are left out."""
    init = getattr(layer, "init", None)
    known = list(dict.fromkeys([*asked, "weight", "bias"]))
    wrong = [name for name in init if name not in known] if isinstance(init, Mapping) else []
    if wrong:
        raise SpecError(Problem(f"/init/{name}", "unknown_field", f"{layer.kind_name()} has no parameter {name!r}; it has {', '.join(asked)}",
                                nearest(name, known)) for name in wrong)


def _label(path: str, kind: str) -> str:
    return f"{path} ({kind})" if path else kind


def _show(shape: Any) -> str:
    return str(list(shape)) if isinstance(shape, tuple) and all(isinstance(n, int) for n in shape) else str(shape)


def shape_of(value: Any) -> Any:
    """Shapes without the batch axis, in the form of the value."""
    if isinstance(value, Node):
        return value.shape[1:]
    if isinstance(value, Mapping):
        return {name: node.shape[1:] for name, node in value.items()}
    return [node.shape[1:] for node in value]


def trace(layer: Layered, inputs: Node | Sequence[Node] | Mapping[str, Node], *, training: bool, dtype: str = "float32",
          parameters: Mapping[str, Node] | None = None, key: Node | None = None) -> Traced:
    """The graph of a layer on `inputs`: one node, several in order, or several by name; each has the batch axis.

    `parameters` gives the leaves of parameters and buffers by path; those not given are made. Float inputs are cast to `dtype`.
    Raises ShapeError with the path of the layer at fault.
    """
    traced = Traced(key=key)
    walk = _Walk(traced, parameters or {})
    if isinstance(inputs, Mapping):
        x: tuple[Any, ...] = ({name: _typed(node, dtype) for name, node in inputs.items()},)
    else:
        x = tuple(_typed(node, dtype) for node in ([inputs] if isinstance(inputs, Node) else inputs))
    traced.output = _run(walk, layer, "", "", training, dtype, x, {})
    if len(traced.layers) > 1:
        del traced.layers[0]    # a container says nothing that its layers do not
    return traced


def _typed(node: Node, dtype: str) -> Node:
    return node.astype(dtype) if node.dtype in FLOATS and node.dtype != dtype else node
