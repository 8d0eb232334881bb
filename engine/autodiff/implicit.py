"""The older, implicit style: `ps = params(model); gs = gradient(lambda: loss(model(x), y), ps); gs[p]`.

Parameters are told by the memory they lie in, so every view of an array is the same parameter. While the function runs, a model that is called asks
`traced` for a twin of itself with nodes in the place of watched arrays.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np

from engine.autodiff.tree import leaves
from engine.autodiff.variable import Differentiable, is_model
from engine.core import Node, leaf
from engine.errors import TrainyardError, shown

Key = tuple[int, tuple[int, ...], str]


def key(array: np.ndarray) -> Key:
    return array.__array_interface__["data"][0], array.shape, array.dtype.str


class Params:
    """An ordered set of arrays to differentiate with respect to. `add` and `delete` choose what is trained."""

    def __init__(self, arrays: Iterable[np.ndarray] = ()):
        self._arrays = {key(a): a for a in arrays}
        self.states: dict[Any, Any] = {}   # what optimisation rules remember of these arrays, for the implicit `train`

    def add(self, array: np.ndarray) -> None:
        self._arrays.setdefault(key(array), array)

    def delete(self, array: np.ndarray) -> None:
        self._arrays.pop(key(array), None)

    def items(self) -> Iterable[tuple[Key, np.ndarray]]:
        return self._arrays.items()

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter(self._arrays.values())

    def __len__(self) -> int:
        return len(self._arrays)

    def __contains__(self, array: np.ndarray) -> bool:
        return key(array) in self._arrays


class Grads:
    """The gradients of an implicit-style function, looked up by parameter; None where there is no derivative."""

    def __init__(self, ps: Params, found: Mapping[Key, Any]):
        self.params, self._found = ps, dict(found)

    def __getitem__(self, array: np.ndarray) -> Any:
        if key(array) not in self._found:
            raise KeyError(f"no gradient was asked for this array of shape {list(array.shape)}: it is not among the params")
        return self._found[key(array)]

    def __len__(self) -> int:
        return len(self._found)


def params(*trees: Any) -> Params:
    """The parameters of models, or of nested dicts and lists of arrays, in tree order, each once. Raises TrainyardError for a layer."""
    if layer := next((tree for tree in trees if hasattr(tree, "build")), None):
        raise TrainyardError(f"{shown(layer)} has no parameters yet: make a model of it with model = layer.build(input_shape=...)")
    return Params(value for tree in trees for _, value in leaves(tree.tree() if is_model(tree) else tree)
                  if isinstance(value, np.ndarray) and value.dtype.kind == "f")


class _Watched:
    def __init__(self, ps: Params):
        self.nodes = {k: leaf(a.shape, a.dtype.name, value=a) for k, a in ps.items()}
        self.bound: list[tuple[Any, Any]] = []


_watched: ContextVar[_Watched | None] = ContextVar("watched", default=None)


@contextmanager
def watching(ps: Params) -> Iterator[_Watched]:
    """While a function without arguments runs."""
    watched = _Watched(ps)
    token = _watched.set(watched)
    try:
        yield watched
    finally:
        _watched.reset(token)


def traced(model: Differentiable) -> Any:
    """A model's twin with nodes in the place of its arrays, in training mode, while an implicit gradient runs; else None."""
    watched = _watched.get()
    if watched is None:
        return None
    nodes: dict[str, Node] = {}
    for path, array in leaves(model.tree()):
        if isinstance(array, np.ndarray):
            known = watched.nodes.get(key(array))
            nodes[path] = leaf(array.shape, array.dtype.name, value=array) if known is None else known
    bound = model.bind(nodes, training=True)
    watched.bound.append((model, bound))
    return bound


def assigned(twin: Any) -> dict[str, Node]:
    """What a traced model assigned to its buffers (running means), by path; nothing for what is no model."""
    return getattr(twin, "assigned", {}) if is_model(twin) else {}
