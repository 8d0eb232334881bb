"""Paths such as "layers.0.weight": the trees they tell, and patterns that choose among them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any


def nest(values: Mapping[str, Any], branches: Iterable[str] = ()) -> Any:
    """The tree of values told by path. `branches` are paths that are there even if they hold nothing.

    A branch whose keys are 0, 1, 2, ... is a list, any other a dict.

    >>> nest({"layers.0.weight": 1, "layers.0.bias": 2}, ["layers.1"])
    {'layers': [{'weight': 1, 'bias': 2}, {}]}
    """
    root: dict[str, Any] = {}
    for path in branches:
        _branch(root, path.split(".") if path else [])
    for path, value in values.items():
        *parents, last = path.split(".")
        _branch(root, parents)[last] = value
    return _listed(root)


def _branch(here: dict[str, Any], steps: Sequence[str]) -> dict[str, Any]:
    for step in steps:
        here = here.setdefault(step, {})
    return here


def _listed(tree: Any) -> Any:
    if type(tree) is not dict:
        return tree
    if tree and all(key.isdigit() for key in tree) and sorted(map(int, tree)) == list(range(len(tree))):
        return [_listed(tree[str(i)]) for i in range(len(tree))]
    return {key: _listed(value) for key, value in tree.items()}


def join(path: str, key: str) -> str:
    return f"{path}.{key}" if path and key else path or key


def selected(path: str, patterns: Sequence[str]) -> bool:
    """Whether path patterns choose `path`: one of them matches (or all are exclusions), and no exclusion `!pattern` does.

    `*` stands for anything; a pattern that names a layer chooses everything in it.

    >>> selected("layers.0.weight", ["layers.0.*"]), selected("layers.1.bias", ["*", "!layers.1"])
    (True, False)
    """
    wanted = [p for p in patterns if not p.startswith("!")]
    refused = [p[1:] for p in patterns if p.startswith("!")]
    return (not wanted or any(_matches(path, p) for p in wanted)) and not any(_matches(path, p) for p in refused)


def _matches(path: str, pattern: str) -> bool:
    return fnmatchcase(path, pattern) or fnmatchcase(path, pattern + ".*")
