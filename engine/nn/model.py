"""A model: a layer with its arrays, all of them views of one slab in tree order."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from engine.autodiff.implicit import traced as watched
from engine.core import FLOATS, Node, Shape, count, evaluate, leaf, lift
from engine.errors import ShapeError, shown
from engine.nn.paths import nest
from engine.nn.trace import Layered, LayerInfo, Traced, shape_of, trace

NARROWED = ("float64 inputs become float32, the type of this model: give float32 arrays (x.astype(\"float32\")), "
            "or a model of float64 (layer.build(..., dtype=\"float64\"))")
ELSEWHERE = {       # what models of other libraries have, and what does it here
    **dict.fromkeys(("fit", "compile"), "train(loss, model, DataLoader((x, y), batch_size=32), state) trains it"),
    **dict.fromkeys(("predict", "forward", "apply"), "call the model itself, model(x)"),
    **dict.fromkeys(("state_dict", "get_weights", "weights"), "model.parameters has its arrays by path"),
    **dict.fromkeys(("load_state_dict", "set_weights"), "model.assign({path: array}) gives its arrays new values"),
    **dict.fromkeys(("eval", "test_mode", "train_mode"), "inside train and gradient it is in training mode, else in test mode, by itself"),
    "train": "train(loss, model, data, state) is a function, and sets the training mode by itself",
    "summary": "print(model) shows its layers",
    **dict.fromkeys(("to", "cuda", "gpu", "cpu"), "at a prompt models compute on the CPU; jobs of the service train on GPUs"),
    **dict.fromkeys(("zero_grad", "backward"), "gradients are values: grads, = gradient(lambda m: loss(m(x), y), model)"),
}
InputShape = Shape | Sequence[Shape] | Mapping[str, Shape]


class Model:
    """A layer ready to be called: numpy in, numpy out.

    `parameters` and `buffers` map paths to arrays, writable views of `slab` and `kept`; in a bound model (see `bind`) parameters are nodes, and
    calling it makes nodes. `rows` describes the layers.
    """

    def __init__(self, layer: Layered, input_shape: InputShape, parameters: Mapping[str, Any], buffers: Mapping[str, Any], *,
                 slab: np.ndarray | None = None, ties: Mapping[str, str] | None = None, rows: Sequence[LayerInfo] = (), seed: int = 0,
                 dtype: str = "float32", training: bool = False):
        self.layer, self.input_shape, self.seed, self.dtype, self.training = layer, input_shape, seed, dtype, training
        self.parameters, self.buffers, self.slab = dict(parameters), dict(buffers), slab
        self.ties, self.rows = dict(ties or {}), list(rows)
        self.assigned: dict[str, Node] = {}
        self.calls = 0    # how often it was bound for training: the step of its random numbers

    def __call__(self, *x: Any) -> Any:
        """The output for a batch: one array, several in order, or one dict by input name. Nodes in, or nodes as parameters: nodes out."""
        twin = None if self._nodes else watched(self)
        if twin is not None:
            return twin(*x)
        inputs: Any = dict(zip(x[0], map(self._taken, x[0].values()), strict=True)) if x and isinstance(x[0], Mapping) else [*map(self._taken, x)]
        given = {path: value if isinstance(value, Node) else leaf(value.shape, value.dtype.name, name=path, value=value)
                 for path, value in {**self.parameters, **self.buffers}.items()}
        key = leaf((2,), "int64", name="key", value=np.array([self.seed, self.calls], np.int64))
        try:
            found = trace(self.layer, inputs, training=self.training, dtype=self.dtype, parameters=given, key=key)
        except ShapeError as error:
            raise ShapeError(error.message + self._built_for(inputs), error.path, error.pointer) from None
        self.assigned.update(found.assigned)
        if self._nodes or any(isinstance(value, Node) for value in (x[0].values() if x and isinstance(x[0], Mapping) else x)):
            return found.output
        return _numbers(found.output)

    def _taken(self, value: Any) -> Node:
        """An input as the model takes it: floats of another type become its own, as in Flux, and narrower ones are told of once."""
        node, own = lift(value, self.dtype), next((value.dtype for value in self.parameters.values()), np.dtype(self.dtype))
        if node.dtype not in FLOATS or node.dtype == own:
            return node
        if node.dtype == "float64":
            warnings.warn(NARROWED, stacklevel=3)
        return node.astype(str(own))

    def _built_for(self, inputs: Any) -> str:
        """What to add to an error of shapes where the one input is of other rows than the model was built for."""
        built = self.input_shape
        if isinstance(built, Mapping) or isinstance(inputs, Mapping) or len(inputs) != 1 or inputs[0].shape[1:] == tuple(built):
            return ""
        return f"; this model was built for [batch, {', '.join(map(str, built))}], and was given {list(inputs[0].shape)}"

    def __getattr__(self, name: str) -> Any:
        hint = f": {ELSEWHERE[name]}" if name in ELSEWHERE else ""
        raise AttributeError(f"a Model has no attribute {name!r}{hint}")

    @property
    def _nodes(self) -> bool:
        return any(isinstance(value, Node) for value in self.parameters.values())

    def bind(self, parameters: Mapping[str, Any], training: bool = True) -> Model:
        """The same model with nodes or other arrays in place of those told by path; in training mode dropout is on, statistics are of the batch."""
        self.calls += training
        known, buffers = ({path: parameters.get(path, value) for path, value in kept.items()} for kept in (self.parameters, self.buffers))
        twin = Model(self.layer, self.input_shape, known, buffers, ties=self.ties, rows=self.rows, seed=self.seed, dtype=self.dtype,
                     training=training)
        twin.calls = self.calls
        return twin

    def assign(self, values: Mapping[str, np.ndarray]) -> None:
        """Give parameters and buffers new values, by path."""
        for path, value in values.items():
            (self.parameters if path in self.parameters else self.buffers)[path][...] = value

    def astype(self, dtype: str) -> Model:
        """A copy with its numbers in another float type."""
        slab = np.concatenate([np.zeros(0), *(np.ravel(value) for value in self.parameters.values())]).astype(dtype)
        ends = np.cumsum([value.size for value in self.parameters.values()])
        parameters = {path: slab[end - value.size:end].reshape(value.shape) for (path, value), end in zip(self.parameters.items(), ends, strict=True)}
        buffers = {path: value.astype(dtype) for path, value in self.buffers.items()}
        twin = Model(self.layer, self.input_shape, parameters, buffers, slab=slab, ties=self.ties, rows=self.rows, seed=self.seed, dtype=dtype)
        twin.calls = self.calls
        return twin

    def tree(self) -> Any:
        """Parameters as nested dicts and lists, one branch for each layer; a layer used twice shows the same arrays twice."""
        return self.nest(self.parameters)

    def nest(self, values: Mapping[str, Any]) -> Any:
        """Values told by parameter path, nested like the model."""
        shown = dict(values)
        for path, home in self.ties.items():
            shown.update({path + name.removeprefix(home): value for name, value in values.items() if name.startswith(home + ".")})
        return nest(shown, (row.path for row in self.rows))

    def __getitem__(self, key: str) -> Any:
        return self.tree()[key]

    def describe(self) -> list[dict[str, Any]]:
        """One row for each layer: path, kind, input_shape, output_shape, parameters."""
        return [row.as_dict() for row in self.rows]

    def __repr__(self) -> str:
        lines = [f"{row.path or row.kind:24} {row.kind:16} {row.output_shape!s:16} {row.parameters:>10,}" for row in self.rows]
        total = sum(row.parameters for row in self.rows)
        return "\n".join([*lines, f"{total:,} parameters of {self.dtype}"])


def _numbers(output: Any) -> Any:
    if isinstance(output, Node):
        return output.numpy()
    evaluate(list(output.values() if isinstance(output, Mapping) else output))
    return {name: node.numpy() for name, node in output.items()} if isinstance(output, Mapping) else tuple(node.numpy() for node in output)


def outline(layer: Layered, input_shape: InputShape, dtype: str = "float32") -> Traced:
    """The layer's graph for one row of inputs of these shapes (without the batch axis), in test mode; no arrays are made."""
    def made(shape: Shape) -> Node:
        if not isinstance(shape, tuple | list) or any(not isinstance(n, int | np.integer) or n < 0 for n in shape):
            found = f"{shown(shape)}; of an array x it is x.shape[1:]" if isinstance(shape, np.ndarray) else repr(shape)
            raise ShapeError("input_shape is the lengths of one row's axes, without the batch axis, such as (3,) or (28, 28, 1); "
                             f"found {found}")
        return leaf((1, *shape), dtype)

    if isinstance(input_shape, Mapping):
        inputs: Any = {name: made(shape) for name, shape in input_shape.items()}
    else:
        several = isinstance(input_shape, tuple | list) and any(isinstance(shape, tuple | list) for shape in input_shape)
        inputs = [made(shape) for shape in input_shape] if several else made(input_shape)  # type: ignore[arg-type]
    return trace(layer, inputs, training=False, dtype=dtype)


def output_size(layer: Layered | Model, input_shape: InputShape) -> Any:
    """The shape of a layer's or model's output without the batch axis, for inputs of `input_shape` without it. Nothing is computed or allocated."""
    return shape_of(outline(layer.layer if isinstance(layer, Model) else layer, input_shape).output)


def build(layer: Layered, input_shape: InputShape = (1,), seed: int = 0, dtype: str = "float32") -> Model:
    """The layer with its arrays: sizes inferred from `input_shape` (without the batch axis), values drawn from `seed`.

    Raises ShapeError with the path of the layer that does not fit.
    """
    found = outline(layer, input_shape, dtype)
    for warning in found.warnings:
        warnings.warn(f"{warning.pointer}: {warning.detail}", stacklevel=3)
    sizes = {path: count(p.shape) for path, p in found.parameters.items()}
    slab = np.empty(sum(sizes.values()), dtype)
    parameters, start = {}, 0
    for path, p in found.parameters.items():
        view = slab[start:start + sizes[path]].reshape(p.shape)
        view[...] = initial(found, path, seed, dtype)
        parameters[path], start = view, start + sizes[path]
    buffers = {path: initial(found, path, seed, dtype) for path in found.buffers}
    return Model(layer, input_shape, parameters, buffers, slab=slab, ties=found.ties, rows=found.layers, seed=seed, dtype=dtype)


def initial(found: Traced, path: str, seed: int, dtype: str) -> np.ndarray:
    """The initial values of one parameter or buffer: a function of seed, path and shape."""
    p = found.parameters.get(path) or found.buffers[path]
    try:
        return p.init.array(p.shape, seed=seed, path=path, dtype=dtype)
    except ShapeError as error:
        raise ShapeError(error.message, path) from None
