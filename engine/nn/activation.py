"""Activations as fields of layers: a name, or `{"kind": "leaky_relu", "slope": 0.2}` where one has numbers of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import PlainValidator
from pydantic_core import PydanticCustomError

from engine.core import OPS, Node, apply
from engine.errors import nearest, shown
from engine.ops.activations import ACTIVATIONS

OVER_FEATURES = ("softmax", "log_softmax")    # over the last axis, not element by element


def op_of(name: str) -> str | None:
    """The op that a name or alias of an activation stands for."""
    return name if name in OVER_FEATURES else ACTIVATIONS[name].name if name in ACTIVATIONS else None


def _read(value: Any) -> Any:
    kind, numbers = (value.get("kind"), {k: v for k, v in value.items() if k != "kind"}) if isinstance(value, Mapping) else (value, {})
    if not isinstance(kind, str):
        near = op_of(str(getattr(kind, "__name__", "")))
        raise PydanticCustomError("no_activation", 'an activation is a name, such as "relu", or an object with a \'kind\'{found}',
                                  {"found": f", found {shown(kind)}" if callable(kind) else "", "suggestion": near, "code": "invalid_value"})
    op = op_of(kind)
    if op is None:
        near = nearest(str(kind), [*ACTIVATIONS, *OVER_FEATURES])
        raise PydanticCustomError("unknown_activation", "no activation is called '{kind}'",
                                  {"kind": str(kind), "code": "unknown_kind", "suggestion": op_of(near) if near else None})
    known = [k for k, v in OPS[op].defaults.items() if isinstance(v, int | float)] if numbers else []
    takes = "the numbers " + ", ".join(known) if known else "no numbers"
    for name, number in numbers.items():
        if name not in known or isinstance(number, bool) or not isinstance(number, int | float):
            raise PydanticCustomError("invalid_activation", "{op} takes {known}, not '{name}': {number}",
                                      {"op": op, "known": takes, "name": name, "number": str(number), "suggestion": nearest(name, known),
                                       "code": "unknown_field" if name not in known else "invalid_value"})
    return {"kind": op, **numbers} if numbers else op


ActivationField = Annotated[Any, PlainValidator(_read, json_schema_input_type=str | dict[str, Any])]


def activate(activation: Any, x: Node) -> Node:
    """The activation of a node."""
    numbers = {k: v for k, v in activation.items() if k != "kind"} if isinstance(activation, Mapping) else {}
    op = name_of(activation)
    return x if op == "identity" else apply(op, x, axis=-1) if op in OVER_FEATURES else apply(op, x, **numbers)


def name_of(activation: Any) -> str:
    return activation["kind"] if isinstance(activation, Mapping) else activation
