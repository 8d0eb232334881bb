"""What there is: every layer, loss, rule, ... with kind, aliases, a sentence, a formula and the JSON Schema of its fields, from the registries."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from engine.core import OPS, Op
from engine.nn.activation import OVER_FEATURES
from engine.nn.initialisers import initialisers
from engine.nn.layer import layers
from engine.nn.losses import losses
from engine.nn.metrics import metrics
from engine.ops.activations import ACTIVATIONS
from engine.optim.rules import rules
from engine.optim.schedules import schedules
from engine.optim.transforms import transforms
from engine.spec import Family, Spec

FAMILIES: dict[str, Family] = {"layers": layers, "losses": losses, "optimisers": rules, "transforms": transforms, "schedules": schedules,
                               "metrics": metrics, "initialisers": initialisers}
"""Groups of the catalogue that are families of specs."""


def catalogue() -> dict[str, list[dict[str, Any]]]:
    """All groups."""
    found = {group: [entry(cls) for cls in family] for group, family in FAMILIES.items()}
    return {**found, "activations": activations(), "ops": [_of_op(op, []) for op in OPS.values() if op.public]}


def entry(cls: type[Spec]) -> dict[str, Any]:
    """One spec class as the catalogue shows it."""
    return {"kind": cls.kind_name(), "aliases": list(cls.aliases), "description": cls.sentence(), "formula": getattr(cls, "equation", ""),
            "schema": schema(cls)}


def schema(cls: type[Spec]) -> dict[str, Any]:
    """The JSON Schema of a spec's fields. A nested spec is told by its kind alone: its fields are in its own entry."""
    full = cls.model_json_schema()
    definitions = full.pop("$defs", {})
    reference = full.pop("$ref", None)     # a spec that may hold itself is given by reference
    full = definitions[reference.rpartition("/")[2]] if reference else full
    return {**_without_references(full, definitions), "title": cls.__name__}


def _without_references(part: Any, definitions: dict[str, Any]) -> Any:
    if isinstance(part, list):
        return [_without_references(item, definitions) for item in part]
    if not isinstance(part, dict):
        return part
    if "$ref" in part:
        target = definitions[part["$ref"].rpartition("/")[2]]
        kind = target.get("properties", {}).get("kind", {})
        known = {key: kind[key] for key in ("const", "enum") if key in kind}
        return {"type": "object", "properties": {"kind": known}} if known else _without_references(target, definitions)
    return {key: _without_references(value, definitions) for key, value in part.items()}


def activations() -> list[dict[str, Any]]:
    """Every activation once, with the other names it has."""
    names: dict[str, list[str]] = {}
    for name, op in ACTIVATIONS.items():
        names.setdefault(op.name, [])
        if name != op.name:
            names[op.name].append(name)
    return [_of_op(OPS[kind], aliases) for kind, aliases in {**names, **{name: [] for name in OVER_FEATURES}}.items()]


def _of_op(op: Op, aliases: Iterable[str]) -> dict[str, Any]:
    types = {bool: "boolean", int: "integer", float: "number", str: "string"}
    fields = {name: {"type": types[type(value)], "default": value} if type(value) in types else {"default": value}
              for name, value in op.defaults.items() if not callable(value)}
    return {"kind": op.name, "aliases": list(aliases), "description": op.description, "formula": op.formula,
            "schema": {"type": "object", "properties": fields, "additionalProperties": False}}
