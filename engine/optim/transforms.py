"""Transforms: what happens to a gradient before the rule."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from engine.optim.passes import define_pass
from engine.optim.step import OptimiserStep, define_passes, steps
from engine.spec import Family

transforms = Family("transform")

Positive = Annotated[float, Field(strict=True, gt=0)]
Amount = Annotated[float, Field(strict=True, ge=0)]


class Transform(OptimiserStep):
    """Changes a gradient g."""


def transform(cls: type[OptimiserStep]) -> type[Any]:
    """Add a transform to the registry and its kernel, if it has lines, to the library."""
    if cls.lines:
        define_passes(cls, "transform")
    return steps.add(transforms.add(cls))


define_pass("transform_scale", "g = factor * g", ("x", "g"), ("factor",), ("g",))
define_pass("rule_step", "d = factor * g", ("x", "g"), ("factor",), ("x",))    # what follows a list that does not end with a rule


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


@transform
class AccumGrad(Transform):
    """The mean of `steps` gradients, once in so many updates; what follows in the list waits for it."""

    equation: ClassVar[str] = "a = a + g / steps; after `steps` gradients g = a, and a = 0"
    lines: ClassVar[str] = """
begun = 0 if t - 1 - steps * floor((t - 1) / steps) < 0.5 else 1
a = begun * a + g / steps
g = a
"""
    state: ClassVar[tuple[str, ...]] = ("a",)
    aliases: ClassVar[tuple[str, ...]] = ("accum_grad", "accumulate_gradients")
    steps: int = Field(4, strict=True, ge=1)
    kind: Literal["accumulate"] = "accumulate"

    @property
    def waits(self) -> int:
        return self.steps


@transform
class GradientNoise(Transform):
    """Adds normal random numbers to the gradient, new ones at each update (Neelakantan et al., 2015)."""

    equation: ClassVar[str] = "g = g + std * n, n from the normal distribution"
    lines: ClassVar[str] = "g = g + std * n"
    noise: ClassVar[tuple[str, ...]] = ("n",)
    std: Amount = 0.01
    kind: Literal["gradient_noise"] = "gradient_noise"
