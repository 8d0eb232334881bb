"""The reference machine: numpy in float64, one oracle after the other. It is slow and says what every other machine must say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from engine.core import CONSTANT, FLOATS, LEAF, Node
from engine.errors import ShapeError, TrainyardError
from engine.graph.walk import known, order


def run(outputs: Sequence[Node], values: Mapping[Node, Any] | None = None) -> list[np.ndarray]:
    """The values of `outputs`, floats as float64, given those of some nodes.

    A node in `values` or with a value of its own is not computed. Raises TrainyardError at a leaf without a value.
    """
    given = values or {}
    results: dict[Node, np.ndarray] = {}
    for node in order(outputs, lambda n: n in given or known(n)):
        results[node] = _value(node, given, results)
    return [results[node] for node in outputs]


def compute(nodes: Sequence[Node]) -> None:
    """Give each node its value, in its own number type."""
    for node, value in zip(nodes, run(nodes), strict=True):
        node.value = np.array(value, dtype=node.dtype)


def _value(node: Node, given: Mapping[Node, Any], results: Mapping[Node, np.ndarray]) -> np.ndarray:
    if node in given:
        value = given[node]
    elif node.value is not None:
        value = node.value
    elif node.op is LEAF:
        raise TrainyardError(f"{node!r} has no value: give an array, or ask for the value where there is one")
    elif node.op is CONSTANT:
        value = node.attrs["value"]
    else:
        with np.errstate(all="ignore"):
            value = node.op.oracle(*(results[n] for n in node.inputs), **node.attrs)
    array = np.asarray(value, "float64" if node.dtype in FLOATS else node.dtype)
    if array.shape != node.shape:
        raise ShapeError(f"the value of {node!r} has the shape {list(array.shape)}")
    return array
