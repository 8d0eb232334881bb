"""Nested dicts, lists and tuples: what arguments, models and gradients look like. A path joins keys with dots: `layers.0.weight`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any


def leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every (path, leaf) of a tree, in order; a tree that is no container is its own leaf, at path "".

    >>> dict(leaves({"a": [1, 2], "b": 3}))
    {'a.0': 1, 'a.1': 2, 'b': 3}
    """
    if isinstance(tree, Mapping):
        for key, child in tree.items():
            yield from leaves(child, _join(path, key))
    elif isinstance(tree, list | tuple):
        for index, child in enumerate(tree):
            yield from leaves(child, _join(path, index))
    else:
        yield path, tree


def transform(tree: Any, change: Callable[[str, Any], Any], path: str = "") -> Any:
    """The same nesting with `change(path, leaf)` in place of each leaf: dicts, lists, tuples and named tuples stay what they are."""
    if isinstance(tree, Mapping):
        return {key: transform(child, change, _join(path, key)) for key, child in tree.items()}
    if isinstance(tree, list | tuple):
        children = [transform(child, change, _join(path, index)) for index, child in enumerate(tree)]
        return type(tree)(*children) if hasattr(tree, "_fields") else type(tree)(children)
    return change(path, tree)


def _join(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)
