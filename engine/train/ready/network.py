"""The model as it stands in a job: batch leaves in, through the embeddings of columns and the layers, named outputs out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from engine.core import Node, Shape, apply, leaf
from engine.data.encode import Leaf
from engine.data.fitted import Fitted, FittedInput
from engine.errors import Problem, ShapeError
from engine.nn.initialisers import Initialiser, Normal
from engine.nn.layer import Layer, LayerInfo, trace

OUTPUT = "output"
"""The name of the output of a model that has one."""


@dataclass
class Forward:
    """One batch through the model. `x` are the inputs after preprocessing, by input name."""

    batch: dict[str, Node]
    x: dict[str, Node]
    outputs: dict[str, Node]
    parameters: dict[str, Node]
    initial: dict[str, Initialiser]
    buffers: dict[str, Node]
    initial_buffers: dict[str, Initialiser]
    assigned: dict[str, Node]
    key: Node | None
    layers: list[LayerInfo]
    warnings: list[Problem]


@dataclass(frozen=True)
class Network:
    """A model with its sizes resolved, the columns it reads and the type it computes in."""

    model: Layer
    fitted: Fitted
    leaves: Mapping[str, Leaf]
    dtype: str

    def forward(self, rows: int, training: bool) -> Forward:
        """The graph of `rows` rows, with new leaves. Raises ShapeError or SpecError with the pointer of the layer at fault."""
        batch = {name: leaf((rows, *shape), dtype, name=name) for name, (shape, dtype) in self.leaves.items()}
        parameters: dict[str, Node] = {}
        initial: dict[str, Initialiser] = {}
        x = {item.name: self._input(item, batch, parameters, initial) for item in self.fitted.inputs}
        traced = trace(self.model, next(iter(x.values())) if list(x) == ["x"] else x, training=training, dtype=self.dtype)
        for path, parameter in traced.parameters.items():
            parameters[path], initial[path] = parameter.node, parameter.init
        return Forward(batch, x, named(traced.output, rows), parameters, initial, {path: b.node for path, b in traced.buffers.items()},
                       {path: b.init for path, b in traced.buffers.items()}, dict(traced.assigned), traced.key, traced.layers,
                       traced.warnings)

    def _input(self, item: FittedInput, batch: Mapping[str, Node], parameters: dict[str, Node], initial: dict[str, Initialiser]) -> Node:
        """One input of the model: its leaf, and beside it the vectors of its embedded columns."""
        parts = [batch[item.leaf]] if item.leaf in batch else []
        for column in item.embeddings:
            shape: Shape = (column.vocabulary, column.units)
            parameters[column.parameter] = leaf(shape, self.dtype, name=column.parameter)
            initial[column.parameter] = Normal(std=1.0)
            parts.append(apply("gather", parameters[column.parameter], batch[column.leaf]))
        return parts[0] if len(parts) == 1 else apply("concat", *parts, axis=-1)


def named(output: object, rows: int) -> dict[str, Node]:
    """The model's outputs by name. Raises ShapeError where an output is no array with the batch axis."""
    if isinstance(output, Node):
        found = {OUTPUT: output}
    elif isinstance(output, Mapping):
        found = dict(output)
    else:
        raise ShapeError(f"the model gives {len(output)} arrays without names; join them, or name them by a parallel layer")  # type: ignore[arg-type]
    for name, node in found.items():
        if not isinstance(node, Node) or not node.shape or node.shape[0] != rows:
            raise ShapeError(f"the output {name!r} has shape {list(getattr(node, 'shape', ()))}: its first axis must be the batch")
    return found
