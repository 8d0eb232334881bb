"""Two more ways to a gradient, one number at a time: forward mode, and central differences of the function itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from engine.autodiff.forward import pushforward
from engine.autodiff.tree import leaves, transform
from engine.autodiff.variable import Variable, is_model, tracing, watch
from engine.core import Node, apply, leaf
from engine.errors import TrainyardError

STEP = np.finfo(np.float64).eps ** (1 / 3)   # where rounding and curvature err alike


def units(node: Node) -> list[Node]:
    """The arrays of a node's shape that are 1 at one entry and 0 elsewhere."""
    eye = np.eye(node.size, dtype=node.dtype)
    return [leaf(node.shape, node.dtype, value=row.reshape(node.shape)) for row in eye]


def by_forward(loss: Node | None, groups: Sequence[Mapping[Any, Node]]) -> list[dict[Any, Node | None]]:
    """The derivatives of a number with respect to nodes by name: one pass for each of their entries."""
    return [{key: None if loss is None else _entries(loss, node) for key, node in group.items()} for group in groups]


def _entries(loss: Node, node: Node) -> Node | None:
    found = [pushforward([loss], {node: unit})[0] for unit in units(node)]
    known = next((tangent for tangent in found if tangent is not None), None)
    return None if known is None else apply("stack", *(known * 0 if t is None else t for t in found), axis=0).reshape(node.shape)


def by_differences(f: Callable[..., Any], args: Sequence[Any], scalar: Callable[[Any], Node | None]) -> list[dict[str, np.ndarray]]:
    """Central differences of `f(*args)` in float64, with respect to every entry; two calls for each, all with the same random numbers.

    `scalar` finds the objective in what `f` returns. Raises TrainyardError inside another derivative: differences are numbers.
    """
    with tracing() as nested:
        if nested:
            raise TrainyardError("finite differences are numbers, which have no derivative: take another mode inside of gradient")
    wide = tuple(double(a) for a in args)
    calls = [a.calls if is_model(a) else 0 for a in wide]

    def moved(which: int, path: str, index: tuple[int, ...], step: float) -> float:
        for argument, count in zip(wide, calls, strict=True):
            if is_model(argument):
                argument.calls = count
        variables = [Variable(a) for a in wide]
        node = variables[which].nodes[path]
        node.value = node.numpy().copy()
        node.value[index] += step
        with tracing():
            value = scalar(f(*(v.inside for v in variables)))
        return 0.0 if value is None else value.item()

    found: list[dict[str, np.ndarray]] = []
    for which, variable in enumerate([Variable(a) for a in wide]):
        slopes = {path: np.zeros(node.shape) for path, node in variable.nodes.items()}
        for path, node in variable.nodes.items():
            for index in np.ndindex(node.shape):
                h = STEP * max(1.0, abs(float(node.numpy()[index])))
                slopes[path][index] = (moved(which, path, index, h) - moved(which, path, index, -h)) / (2 * h)
        argument = args[which]
        own = {path: watch(value) for path, value in leaves(argument.tree() if is_model(argument) else argument) if path in slopes}
        found.append({path: slopes[path].astype(node.dtype) for path, node in own.items() if node is not None})
    return found


def double(argument: Any) -> Any:
    """The argument with its floats as float64."""
    if is_model(argument):
        return argument.astype("float64")
    return transform(argument, lambda _, value: value.astype("float64") if isinstance(value, np.ndarray | np.floating) and value.dtype.kind == "f"
                     else value)
