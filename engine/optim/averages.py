"""Averages of a parameter over its past, made after each step; it does not matter where in a list they stand."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from engine.optim.rules import Share
from engine.optim.step import OptimiserStep
from engine.optim.transforms import transform


class Average(OptimiserStep):
    """Looks at the parameter x after the step."""

    last: ClassVar[bool] = True


@transform
class Lookahead(Average):
    """After every `steps` updates a slow copy goes part of the way to the parameter, which goes on from there (Zhang et al., 2019)."""

    equation: ClassVar[str] = "after every `steps` updates s = s + rate * (x - s); x = s; s begins as x"
    lines: ClassVar[str] = "s = s + rate * (x - s)\nx = s"
    state: ClassVar[tuple[str, ...]] = ("s",)
    copies: ClassVar[tuple[str, ...]] = ("s",)
    steps: int = Field(5, strict=True, ge=1)
    rate: float = Field(0.5, strict=True, gt=0, le=1)
    kind: Literal["lookahead"] = "lookahead"

    @property
    def pace(self) -> int:
        return self.steps


@transform
class EMA(Average):
    """An exponential moving average of the parameters, with which the model is evaluated, saved and asked, while training goes on without it."""

    equation: ClassVar[str] = "a = decay * a + (1 - decay) * x after each update; a begins as x"
    lines: ClassVar[str] = "a = decay * a + (1 - decay) * x"
    state: ClassVar[tuple[str, ...]] = ("a",)
    copies: ClassVar[tuple[str, ...]] = ("a",)
    aliases: ClassVar[tuple[str, ...]] = ("exponential_moving_average",)
    decay: Share = 0.999
    kind: Literal["ema"] = "ema"
