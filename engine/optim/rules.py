"""Optimisation rules: how a gradient becomes a step. Hyper-parameters only; what a rule remembers of an array is kept apart (see state.py).
The rules with a rate for each number of their own are in adaptive.py.

Formulas are Flux's (Optimisers.jl 0.4), which follow the papers except where a docstring says otherwise. A rule is one class: from it come the
kernel, the layout of its state, the wire format, the catalogue entry and its tests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AliasChoices, Field, ValidationError, field_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from engine.errors import nearest
from engine.nn.paths import selected
from engine.optim.schedules import AnySchedule
from engine.optim.step import OptimiserStep, define_passes, steps
from engine.spec import FOREIGN_NAMES, Family

rules = Family("optimiser")

Rate = Annotated[float, Field(strict=True, ge=0)]
Share = Annotated[float, Field(strict=True, ge=0, lt=1)]
Small = Annotated[float, Field(strict=True, ge=0)]


class Rule(OptimiserStep):
    """Turns a gradient g into a step d; then x becomes x - d."""

    named_only: ClassVar[tuple[str, ...]] = ("kind", "name", "schedule", "groups")
    schedule: AnySchedule | None = Field(None, description="a factor on the learning rate")
    groups: list[dict[str, Any]] | None = Field(None, description='other hyper-parameters for some paths: '
                                                                  '[{"paths": ["layers.0.*"], "learning_rate": 1e-4}]')

    @field_validator("groups")
    @classmethod
    def _known(cls, groups: list[dict[str, Any]] | None) -> list[dict[str, Any]] | None:
        wrong = [problem for i, group in enumerate(groups or []) for problem in cls._group_problems(i, group)]
        if wrong:
            raise ValidationError.from_exception_data("groups", wrong)
        return groups

    @classmethod
    def _group_problems(cls, i: int, group: dict[str, Any]) -> list[InitErrorDetails]:
        found = []
        known = cls.hyper_names()
        paths = group.get("paths")
        if not isinstance(paths, list) or not all(isinstance(p, str) for p in paths):
            found.append(_detail((i, "paths"), "invalid_value", "'paths' must be a list of path patterns", paths))
        for name, value in group.items():
            if name != "paths" and name not in known:
                hint = FOREIGN_NAMES.get(name) or nearest(name, known)
                found.append(_detail((i, name), "unknown_field", f"{cls.kind_name()} has no {name!r}", value, hint))
            elif name != "paths":
                try:
                    cls(**{name: value})
                except ValidationError as error:
                    found.append(_detail((i, name), "invalid_value", error.errors()[0]["msg"], value))
        return found

    def for_path(self, path: str) -> Rule:
        """The rule for one parameter: the first of `groups` whose patterns choose its path says what is different."""
        group: Mapping[str, Any] = next((g for g in self.groups or [] if selected(path, g["paths"])), {})
        return self.model_copy(update={"groups": None, **{k: v for k, v in group.items() if k != "paths"}})

    def factor(self, step: int, epoch: int = 1) -> float:
        """The schedule's factor at an update and epoch, both counted from 1."""
        return self.schedule.at(step if self.schedule.per == "step" else epoch) if self.schedule else 1.0


def makes_step(steps: Sequence[OptimiserStep]) -> bool:
    """Whether the last of a list that works on gradients is a rule; if not, x becomes x - g."""
    moving = [step for step in steps if not step.last]
    return bool(moving) and isinstance(moving[-1], Rule)


def closing(steps: Sequence[OptimiserStep]) -> int:
    """The place of the rule that moves x."""
    return max(k for k, step in enumerate(steps) if not step.last)


def _detail(where: tuple[int | str, ...], code: str, message: str, value: Any, suggestion: str | None = None) -> InitErrorDetails:
    error = PydanticCustomError("group", "{message}", {"message": message, "code": code, "suggestion": suggestion})
    return InitErrorDetails(type=error, loc=where, input=value)


def rule(cls: type[Rule]) -> type[Any]:
    """Add a rule to the registry and its kernels to the library."""
    define_passes(cls, "rule")
    return steps.add(rules.add(cls))


@rule
class Descent(Rule):
    """A step along the gradient."""

    equation: ClassVar[str] = "d = learning_rate * g"
    lines: ClassVar[str] = "d = factor * learning_rate * g"
    aliases: ClassVar[tuple[str, ...]] = ("sgd", "gradient_descent")
    learning_rate: Rate = 0.1
    kind: Literal["descent"] = "descent"

    @classmethod
    def renamed(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """Elsewhere "sgd" with a momentum is what is called momentum or nesterov here."""
        if given["kind"] not in cls.aliases or not given.keys() & {"momentum", "nesterov"}:
            return super().renamed(given)
        rest = {name: value for name, value in given.items() if name != "nesterov" or not isinstance(value, bool)}
        return {**rest, "kind": "nesterov" if given.get("nesterov") is True else "momentum" if "momentum" in given else "descent"}


@rule
class Momentum(Rule):
    """A step along a decaying sum of past steps; the learning rate is inside the sum."""

    equation: ClassVar[str] = "v = momentum * v + learning_rate * g; d = v"
    lines: ClassVar[str] = "v = momentum * v + factor * learning_rate * g\nd = v"
    state: ClassVar[tuple[str, ...]] = ("v",)
    learning_rate: Rate = 0.01
    momentum: Share = 0.9
    kind: Literal["momentum"] = "momentum"


@rule
class Nesterov(Rule):
    """Momentum that looks one step ahead."""

    equation: ClassVar[str] = "v = momentum * v - learning_rate * g; d = learning_rate * g - momentum * v"
    lines: ClassVar[str] = "v = momentum * v - factor * learning_rate * g\nd = factor * learning_rate * g - momentum * v"
    state: ClassVar[tuple[str, ...]] = ("v",)
    learning_rate: Rate = 0.001
    momentum: Share = 0.9
    kind: Literal["nesterov"] = "nesterov"


@rule
class RMSProp(Rule):
    """The gradient over the root of its decaying mean square, or of its variance where `centred` (Hinton, 2012)."""

    equation: ClassVar[str] = "d = learning_rate * g / (sqrt(q - l^2) + epsilon), q the mean of g^2, l the mean of g if centred, else 0"
    lines: ClassVar[str] = """
q = decay * q + (1 - decay) * g * g
l = centred * (decay * l + (1 - decay) * g)
d = factor * learning_rate * g / (sqrt(q - l * l) + epsilon)
"""
    state: ClassVar[tuple[str, ...]] = ("q", "l")
    aliases: ClassVar[tuple[str, ...]] = ("rms_prop",)
    learning_rate: Rate = 0.001
    decay: Share = 0.9
    epsilon: Small = 1e-8
    centred: bool = Field(default=False, validation_alias=AliasChoices("centred", "centered"))
    kind: Literal["rmsprop"] = "rmsprop"


@rule
class Rprop(Rule):
    """A step length of its own for each number, longer while the gradient keeps its sign, shorter when it turns (Riedmiller and Braun, 1993)."""

    equation: ClassVar[str] = "s = g * p; e = min(e * grow, high) if s > 0, max(e * shrink, low) if s < 0; p = 0 if s < 0 else g; d = e * sign(p)"
    lines: ClassVar[str] = """
s = g * p
e = minimum(e * grow, high) if s > 0 else (maximum(e * shrink, low) if s < 0 else e)
p = 0 if s < 0 else g
d = factor * e * sign(p)
"""
    state: ClassVar[tuple[str, ...]] = ("p", "e")
    initial: ClassVar[Mapping[str, str]] = {"e": "learning_rate"}
    learning_rate: Rate = 0.001
    shrink: float = Field(0.5, gt=0, le=1)
    grow: float = Field(1.2, ge=1)
    low: Small = 1e-6
    high: Small = 50.0
    kind: Literal["rprop"] = "rprop"
