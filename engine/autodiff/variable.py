"""What `gradient` does with the arguments of a function: arrays become nodes on the way in, and nodes become arrays on the way out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol, TypeGuard

import numpy as np

from engine.autodiff.tree import leaves, transform
from engine.core import FLOATS, Node, apply, evaluate, leaf, lift
from engine.errors import DtypeError

_inside: ContextVar[bool] = ContextVar("inside", default=False)


class Differentiable(Protocol):
    """A model: a tree of arrays, and a way to run with nodes in their place. `calls` says which random numbers the next run has."""

    calls: int

    def tree(self) -> Any: ...

    def bind(self, parameters: dict[str, Node], training: bool = True) -> Any: ...

    def astype(self, dtype: str) -> Any: ...


def is_model(value: Any) -> TypeGuard[Differentiable]:
    return hasattr(value, "bind") and hasattr(value, "tree")


@contextmanager
def tracing() -> Iterator[bool]:
    """While a function is run on nodes. Gives whether that happens inside another such run: then results stay nodes, for the outer derivative."""
    outer = _inside.get()
    token = _inside.set(True)
    try:
        yield outer
    finally:
        _inside.reset(token)


class Variable:
    """One argument: what the function sees (`inside`), and the nodes that stand for its arrays, by path."""

    def __init__(self, argument: Any, dtype: str | None = None):
        self.argument = argument
        self.tree = argument.tree() if is_model(argument) else argument
        watched = ((path, watch(value, path, dtype)) for path, value in leaves(self.tree))
        self.nodes = {path: node for path, node in watched if node is not None}
        if is_model(argument):
            self.inside = argument.bind(self.nodes, training=True)
        else:
            self.inside = transform(self.tree, lambda path, value: self.nodes.get(path, value))

    def mirror(self, results: Mapping[str, Any]) -> Any:
        """Results by path in the argument's shape, None where there is none; a float's result is a float."""
        return transform(self.tree, lambda path, value: _like(value, results.get(path)))


def watch(value: Any, name: str = "", dtype: str | None = None) -> Node | None:
    """The node whose derivative is asked for, or None for what has none: integers (sizes, indices, labels), texts, functions."""
    if is_model(value):
        raise DtypeError("a model inside a list, tuple or dict is not differentiated: give each model as an argument of its own")
    if isinstance(value, Node):
        return apply("identity", value) if value.dtype in FLOATS else None
    if isinstance(value, float | np.floating) or (isinstance(value, np.ndarray) and value.dtype.kind in "fc"):
        array = lift(np.asarray(value)).value
        assert array is not None
        array = array.astype(dtype, copy=False) if dtype else array
        return leaf(array.shape, array.dtype.name, name=name, value=array)
    return None


def tangents(variable: Variable, given: Any) -> dict[Node, Node | None]:
    """The tangent of each of a variable's nodes, from a tree of the same nesting."""
    found = dict(leaves(given))
    return {node: None if found.get(path) is None else _tangent(node, found[path]) for path, node in variable.nodes.items()}


def _tangent(node: Node, value: Any) -> Node:
    tangent = lift(value, node.dtype) if isinstance(value, Node) else lift(np.array(value, node.dtype))
    return apply("broadcast", tangent, shape=node.shape) if tangent.shape != node.shape else tangent


def nodes_of(value: Any) -> list[Node]:
    return [found for _, found in leaves(value) if isinstance(found, Node)]


def settle(value: Any) -> Any:
    """A tree with its nodes' values in their places: floats for nodes without axes, arrays for the others."""
    return transform(value, lambda _, found: (found.item() if not found.shape else found.numpy()) if isinstance(found, Node) else found)


def arrays_of(nodes: Iterable[Node | None]) -> list[np.ndarray | None]:
    """The values of nodes, computed together; no two share memory, and none is an argument's own."""
    listed = list(nodes)
    evaluate([n for n in listed if n is not None])
    taken: set[int] = set()
    results = []
    for node in listed:
        array = None if node is None else node.numpy()
        if array is not None and node is not None and (not node.inputs or id(array) in taken):
            array = array.copy()
        taken.add(id(array))
        results.append(array)
    return results


def _like(value: Any, result: Any) -> Any:
    """The result as the kind of number that the argument was."""
    if isinstance(result, np.ndarray) and isinstance(value, float | np.floating):
        return result[()] if isinstance(value, np.generic) else float(result)
    return result
