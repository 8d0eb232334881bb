"""`Chain`: rules, transforms and averages in order, and the field type of whatever optimises."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import PlainValidator, TypeAdapter, model_serializer
from pydantic_core import PydanticCustomError

from engine.errors import TrainyardError
from engine.optim import adaptive, averages, muon, transforms  # noqa: F401  every step is known before their union is made
from engine.optim.rules import Rule
from engine.optim.step import OptimiserStep, steps
from engine.spec import Spec

AnyStep = steps.union()
_one: TypeAdapter[Any] = TypeAdapter(AnyStep)
_list: TypeAdapter[list[Any]] = TypeAdapter(list[AnyStep])  # type: ignore[valid-type]


class Chain(Spec):
    """Steps in order: each takes the gradient that the one before it gave, and x becomes x - the last one's.

    On the wire a list. An empty chain is the gradient itself.
    """

    steps: tuple[OptimiserStep, ...] = ()

    def __init__(self, *steps: Any, **kwargs: Any):
        given = kwargs.pop("steps", steps)
        given = given[0] if len(given) == 1 and isinstance(given[0], list | tuple) else given
        made = next((step for step in given if isinstance(step, type)), None)
        if made is not None:
            raise TrainyardError(f"a chain holds rules and transforms with their numbers: write {made.__name__}(), found the class")
        known = [step if isinstance(step, Chain) else _one.validate_python(step) for step in given]
        super().__init__(steps=tuple(s for step in known for s in step.listed), **kwargs)

    @property
    def listed(self) -> tuple[OptimiserStep, ...]:
        return self.steps

    @model_serializer
    def _as_list(self) -> list[Any]:
        return [step.model_dump() for step in self.steps]

    @property
    def rule(self) -> Rule | None:
        """The last rule, whose learning rate is shown."""
        return next((s for s in reversed(self.steps) if isinstance(s, Rule)), None)


def _read(value: Any) -> Any:
    if isinstance(value, Chain | OptimiserStep):
        return value
    if isinstance(value, Sequence) and not isinstance(value, str | Mapping):
        found = Chain(*_list.validate_python(list(value)))
        if found.rule is None:
            raise PydanticCustomError("missing_rule", "a list of optimisers needs a rule such as adam among its transforms", {"code": "missing_rule"})
        return found
    found = _one.validate_python(value)
    if not isinstance(found, Rule):
        raise PydanticCustomError("missing_rule", "{kind} makes no step of its own: put it in a list with a rule such as adam",
                                  {"kind": found.kind_name(), "code": "missing_rule"})
    return found


Optimiser = Annotated[Any, PlainValidator(_read, json_schema_input_type=AnyStep | list[AnyStep])]
"""The field type: a name, an object, or a list of them; its value is a Rule or a Chain."""
