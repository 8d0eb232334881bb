"""Transforms: what happens to a gradient before the rule; and `Chain`, several steps in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, PlainValidator, TypeAdapter, model_serializer
from pydantic_core import PydanticCustomError

from engine.errors import TrainyardError
from engine.kernels.formula import pass_text
from engine.kernels.library import define
from engine.optim.rules import Rule
from engine.optim.step import OptimiserStep, define_passes, steps
from engine.spec import Family, Spec

transforms = Family("transform")

Positive = Annotated[float, Field(strict=True, gt=0)]
Amount = Annotated[float, Field(strict=True, ge=0)]


class Transform(OptimiserStep):
    """Changes a gradient g."""


def transform(cls: type[Transform]) -> type[Any]:
    """Add a transform to the registry and its kernel, if it has lines, to the library."""
    if cls.lines:
        define_passes(cls, "transform")
    return steps.add(transforms.add(cls))


define("transform_scale", pass_text("g = factor * g", ("x", "g"), ("factor",), ("g",)))
define("rule_step", pass_text("d = factor * g", ("x", "g"), ("factor",), ("x",)))    # what follows a list that does not end with a rule


@transform
class ClipGrad(Transform):
    """Every number of the gradient cut off at plus and minus `max_value`."""

    equation: ClassVar[str] = "g = min(max(g, -max_value), max_value)"
    lines: ClassVar[str] = "g = minimum(maximum(g, -max_value), max_value)"
    aliases: ClassVar[tuple[str, ...]] = ("clip_value",)
    max_value: Positive = 10.0
    kind: Literal["clip_grad"] = "clip_grad"


class NormTransform(Transform):
    """Makes a gradient no longer than `max_norm`."""

    max_norm: Positive = 10.0

    def scale(self, norm: float) -> float:
        """What the gradient is multiplied by."""
        return min(self.max_norm / norm, 1.0) if norm > 0 else 1.0


@transform
class ClipNorm(NormTransform):
    """Each array's gradient made no longer than `max_norm`."""

    equation: ClassVar[str] = "g = g * min(max_norm / norm(g), 1), for each array"
    kind: Literal["clip_norm"] = "clip_norm"


@transform
class ClipGlobalNorm(NormTransform):
    """The gradient of all arrays together made no longer than `max_norm`; its direction stays."""

    equation: ClassVar[str] = "g = g * min(max_norm / norm(all g), 1)"
    aliases: ClassVar[tuple[str, ...]] = ("clip_grad_norm",)
    max_norm: Positive = 1.0
    kind: Literal["clip_global_norm"] = "clip_global_norm"


@transform
class WeightDecay(Transform):
    """Adds `rate` times the parameter: the gradient of the penalty rate / 2 * sum(x^2). Put it first."""

    equation: ClassVar[str] = "g = g + rate * x"
    lines: ClassVar[str] = "g = g + rate * x"
    rate: Amount = 5e-4
    kind: Literal["weight_decay"] = "weight_decay"


@transform
class SignDecay(Transform):
    """Adds `rate` times the parameter's sign: the gradient of the penalty rate * sum(|x|)."""

    equation: ClassVar[str] = "g = g + rate * sign(x)"
    lines: ClassVar[str] = "g = g + rate * sign(x)"
    rate: Amount = 1e-3
    kind: Literal["sign_decay"] = "sign_decay"


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
        super().__init__(steps=tuple(s for step in known for s in step.steps), **kwargs)

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
        raise PydanticCustomError("missing_rule", "{kind} changes gradients and makes no step: put it in a list before a rule such as adam",
                                  {"kind": found.kind_name(), "code": "missing_rule"})
    return found


Optimiser = Annotated[Any, PlainValidator(_read, json_schema_input_type=AnyStep | list[AnyStep])]
"""The field type: a name, an object, or a list of them; its value is a Rule or a Chain."""
