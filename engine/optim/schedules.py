"""Schedules: factors on a learning rate, pure functions of a count from 1, of steps or of epochs. Formulas are those of ParameterSchedulers.jl."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, TypeAlias

from pydantic import Field

from engine.optim.plateau import Plateau
from engine.spec import Family, Spec

__all__ = ["Constant", "CosineAnneal", "Exp", "Inverse", "Loop", "OneCycle", "Plateau", "Poly", "Schedule", "Sequence", "Step", "Triangle", "Warmup",
           "schedules"]

schedules = Family("schedule", {"cosine": "cosine_anneal", "linear": "poly", "exponential": "exp"})

if TYPE_CHECKING:
    AnySchedule: TypeAlias = "Schedule"

Length = Annotated[int, Field(strict=True, ge=1)]


class Schedule(Spec):
    """A factor that changes as training goes on. Inside another schedule `per` says nothing: the outermost counts."""

    named_only: ClassVar[tuple[str, ...]] = ("kind", "name", "per")
    equation: ClassVar[str] = ""
    per: Literal["step", "epoch"] = Field("epoch", description="what is counted, from 1")

    @abstractmethod
    def at(self, t: int) -> float:
        """What the learning rate is multiplied by at count `t`, from 1."""


@schedules.add
class Constant(Schedule):
    """Always the same."""

    equation: ClassVar[str] = "value"
    value: float = 1.0
    kind: Literal["constant"] = "constant"

    def at(self, t: int) -> float:
        return self.value


@schedules.add
class Step(Schedule):
    """Multiplied by `factor` after every so many counts."""

    equation: ClassVar[str] = "factor ** floor((t - 1) / every)"
    aliases: ClassVar[tuple[str, ...]] = ("step_lr",)
    every: Length = 10
    factor: float = Field(0.1, ge=0)
    kind: Literal["step"] = "step"

    def at(self, t: int) -> float:
        return self.factor ** ((t - 1) // self.every)


@schedules.add
class Exp(Schedule):
    """Multiplied by `factor` at every count."""

    equation: ClassVar[str] = "factor ** (t - 1)"
    aliases: ClassVar[tuple[str, ...]] = ("exponential_lr", "exp_decay")
    factor: float = Field(0.9, ge=0)
    kind: Literal["exp"] = "exp"

    def at(self, t: int) -> float:
        return self.factor ** (t - 1)


@schedules.add
class Poly(Schedule):
    """From 1 to 0 over `length` counts, along a power."""

    equation: ClassVar[str] = "(1 - (t - 1) / length) ** degree, then 0"
    degree: float = Field(1.0, gt=0)
    length: Length = 100
    kind: Literal["poly"] = "poly"

    def at(self, t: int) -> float:
        return max(1 - (t - 1) / self.length, 0.0) ** self.degree


@schedules.add
class Inverse(Schedule):
    """One over a growing power."""

    equation: ClassVar[str] = "1 / (1 + (t - 1) * decay) ** degree"
    aliases: ClassVar[tuple[str, ...]] = ("inv", "inv_decay")
    decay: float = Field(0.001, ge=0)
    degree: float = Field(1.0, gt=0)
    kind: Literal["inverse"] = "inverse"

    def at(self, t: int) -> float:
        return 1 / (1 + (t - 1) * self.decay) ** self.degree


@schedules.add
class Triangle(Schedule):
    """Up from `low` to `high` and down again, in straight lines, once each period."""

    equation: ClassVar[str] = "low + (high - low) * 2 / pi * |asin(sin(pi * (t - 1) / period))|"
    low: float = 0.0
    high: float = 1.0
    period: Length = 10
    kind: Literal["triangle"] = "triangle"

    def at(self, t: int) -> float:
        wave = 2 / math.pi * abs(math.asin(math.sin(math.pi * (t - 1) / self.period)))
        return abs(self.high - self.low) * wave + min(self.low, self.high)


@schedules.add
class CosineAnneal(Schedule):
    """From 1 down to `floor` along half a cosine, each period anew (`restart`), or up and down again."""

    equation: ClassVar[str] = "floor + (1 - floor) * (1 + cos(pi * u / period)) / 2, u = t - 1 (mod period with restart)"
    aliases: ClassVar[tuple[str, ...]] = ("cos_anneal", "cosine_annealing")
    floor: float = Field(0.0, ge=0)
    period: Length = 10
    restart: bool = True
    kind: Literal["cosine_anneal"] = "cosine_anneal"

    def at(self, t: int) -> float:
        u = (t - 1) % self.period if self.restart else t - 1
        return _cosine(1.0, self.floor, u / self.period)


@schedules.add
class OneCycle(Schedule):
    """Up from 1/25 to 1 along a cosine in the first `warm` share of `length`, then down to 1e-5 (Smith and Topin, 2018)."""

    equation: ClassVar[str] = "cosine from 1/25 to 1, then from 1 to 1e-5"
    length: Length = 100
    warm: float = Field(0.25, ge=0, le=1)
    kind: Literal["one_cycle"] = "one_cycle"

    def at(self, t: int) -> float:
        up = math.ceil(self.warm * self.length)
        if t <= up:
            return _cosine(1 / 25, 1.0, (t - 1) / up)
        return _cosine(1.0, 1e-5, min((t - 1 - up) / max(self.length - up, 1), 1.0))


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


@schedules.add
class Warmup(Schedule):
    """Up to 1 in a straight line over `length` counts, then another schedule from its beginning."""

    equation: ClassVar[str] = "t / length while t <= length, then then(t - length)"
    length: Length = 10
    then: AnySchedule | None = None
    kind: Literal["warmup"] = "warmup"

    def at(self, t: int) -> float:
        if t <= self.length:
            return t / self.length
        return self.then.at(t - self.length) if self.then else 1.0


class Stage(Spec):
    """One schedule for `length` counts."""

    schedule: float | AnySchedule = Field(description="a schedule, or a number")
    length: Length


@schedules.add
class Sequence(Schedule):
    """Schedules one after the other, each from its beginning; the last goes on."""

    equation: ClassVar[str] = "stage(t - counts before it)"
    stages: list[Stage] = Field(min_length=1)
    kind: Literal["sequence"] = "sequence"

    def at(self, t: int) -> float:
        for stage in self.stages[:-1]:
            if t <= stage.length:
                return _value(stage.schedule, t)
            t -= stage.length
        return _value(self.stages[-1].schedule, t)


def _value(schedule: float | Schedule, t: int) -> float:
    return schedule.at(t) if isinstance(schedule, Schedule) else float(schedule)


@schedules.add
class Loop(Schedule):
    """A schedule again and again."""

    equation: ClassVar[str] = "schedule((t - 1) mod period + 1)"
    schedule: AnySchedule
    period: Length
    kind: Literal["loop"] = "loop"

    def at(self, t: int) -> float:
        return self.schedule.at((t - 1) % self.period + 1)


if not TYPE_CHECKING:
    AnySchedule = schedules.union()
for _spec in (Stage, *schedules):
    _spec.model_rebuild(_types_namespace={"AnySchedule": AnySchedule})
