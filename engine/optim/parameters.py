"""A model's trained arrays: as a list, and as one vector."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from engine.autodiff.implicit import key
from engine.autodiff.tree import leaves, transform
from engine.core import FLOATS, Node, apply, count, lift
from engine.errors import ShapeError
from engine.nn.model import Model
from engine.optim.state import trains, tree_of


def trainables(model: Any) -> list[Any]:
    """The trained arrays in tree order, each once, as writable views; inside `gradient` their nodes."""
    return list(_distinct(model).values())


def _distinct(model: Any) -> dict[Any, Any]:
    found: dict[Any, Any] = {}
    for _, value in leaves(tree_of(model)):
        if trains(value) or (isinstance(value, Node) and value.dtype in FLOATS):
            found.setdefault(_identity(value), value)
    return found


def _identity(value: Any) -> Any:
    return id(value) if isinstance(value, Node) else key(value)


def destructure(model: Any) -> tuple[Any, Callable[[Any], Any]]:
    """`(flat, rebuild)`: all trained numbers as one vector, and what makes a model like this of such a vector. Both can be differentiated.

    Arrays come in tree order, each once; `rebuild` keeps dtypes and ties. Raises ShapeError for a vector of another length.
    """
    arrays = _distinct(model)
    parts = [value.reshape(-1) for value in arrays.values()]
    flat = apply("concat", *parts, axis=0) if any(isinstance(p, Node) for p in parts) else np.concatenate(parts)
    total = sum(count(value.shape) for value in arrays.values())

    def rebuild(vector: Any) -> Any:
        if vector.shape != (total,):
            raise ShapeError(f"this model has {total} numbers to train, found an array of shape {list(vector.shape)}")
        made: dict[Any, Any] = {}
        start = 0
        for identity, old in arrays.items():
            stop = start + count(old.shape)
            part = lift(vector)[start:stop] if isinstance(vector, Node) else np.array(vector[start:stop], old.dtype)
            made[identity], start = part.reshape(old.shape), stop
        if isinstance(model, Model):
            return model.bind({path: made[_identity(value)] for path, value in model.parameters.items()}, training=model.training)
        return transform(tree_of(model), lambda _, value: made.get(_identity(value), value) if trains(value) or isinstance(value, Node) else value)

    return flat, rebuild
