"""Rules that give each number a rate of its own, from the sizes of its past gradients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from engine.optim.rules import Rate, Rule, Share, Small, rule

_MOMENTS = """
m = beta1 * m + (1 - beta1) * g
v = beta2 * v + (1 - beta2) * g * g
"""


@rule
class Adam(Rule):
    """Momentum over the root of the mean square, both corrected for their start at zero (Kingma and Ba, 2015)."""

    equation: ClassVar[str] = "m, v = means of g, g^2; d = learning_rate * (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + epsilon)"
    lines: ClassVar[str] = _MOMENTS + "d = factor * learning_rate * (m / (1 - beta1 ** t)) / (sqrt(v / (1 - beta2 ** t)) + epsilon)"
    state: ClassVar[tuple[str, ...]] = ("m", "v")
    learning_rate: Rate = 0.001
    beta1: Share = 0.9
    beta2: Share = 0.999
    epsilon: Small = 1e-8
    kind: Literal["adam"] = "adam"


@rule
class AdamW(Rule):
    """Adam with weight decay that is no part of the gradient (Loshchilov and Hutter, 2019); `couple` multiplies it by the learning rate."""

    equation: ClassVar[str] = "d = learning_rate * (a + weight_decay * x), or learning_rate * a + weight_decay * x; a the step of adam"
    lines: ClassVar[str] = _MOMENTS + """
a = (m / (1 - beta1 ** t)) / (sqrt(v / (1 - beta2 ** t)) + epsilon)
d = factor * learning_rate * a + weight_decay * (couple * factor * learning_rate + 1 - couple) * x
"""
    state: ClassVar[tuple[str, ...]] = ("m", "v")
    aliases: ClassVar[tuple[str, ...]] = ("adam_w",)
    learning_rate: Rate = 0.001
    beta1: Share = 0.9
    beta2: Share = 0.999
    weight_decay: Small = 0.0
    epsilon: Small = 1e-8
    couple: bool = True
    kind: Literal["adamw"] = "adamw"


@rule
class NAdam(Rule):
    """Adam with Nesterov's look ahead (Dozat, 2016)."""

    equation: ClassVar[str] = (
        "d = learning_rate (beta1 m / (1 - beta1^(t+1)) + (1 - beta1) g / (1 - beta1^t)) / (sqrt(v beta2 / (1 - beta2^t)) + epsilon)")
    lines: ClassVar[str] = _MOMENTS + """
ahead = m * (beta1 / (1 - beta1 ** (t + 1))) + g * ((1 - beta1) / (1 - beta1 ** t))
d = factor * learning_rate * ahead / (sqrt(v * (beta2 / (1 - beta2 ** t))) + epsilon)
"""
    state: ClassVar[tuple[str, ...]] = ("m", "v")
    aliases: ClassVar[tuple[str, ...]] = ("n_adam",)
    learning_rate: Rate = 0.001
    beta1: Share = 0.9
    beta2: Share = 0.999
    epsilon: Small = 1e-8
    kind: Literal["nadam"] = "nadam"


@rule
class RAdam(Rule):
    """Adam that takes plain momentum steps while its variance is not yet known well (Liu et al., 2020)."""

    equation: ClassVar[str] = (
        "d = learning_rate * m' * (r / (sqrt(v') + epsilon) if rho > 4 else 1), rho = 2 / (1 - beta2) - 1 - 2 t beta2^t / (1 - beta2^t)")
    lines: ClassVar[str] = _MOMENTS + """
limit = 2 / (1 - beta2) - 1
rho = limit - 2 * t * beta2 ** t / (1 - beta2 ** t)
r = sqrt(maximum((rho - 4) * (rho - 2) * limit / ((limit - 4) * (limit - 2) * rho), 0))
known = 1 if rho > 4 else 0
d = factor * learning_rate * (m / (1 - beta1 ** t)) * (known * r / (sqrt(v / (1 - beta2 ** t)) + epsilon) + (1 - known))
"""
    state: ClassVar[tuple[str, ...]] = ("m", "v")
    learning_rate: Rate = 0.001
    beta1: Share = 0.9
    beta2: Share = 0.999
    epsilon: Small = 1e-8
    kind: Literal["radam"] = "radam"


@rule
class AdaMax(Rule):
    """Adam with the largest past gradient in place of the mean square (Kingma and Ba, 2015)."""

    equation: ClassVar[str] = "u = max(beta2 * u, |g|); d = learning_rate / (1 - beta1^t) * m / (u + epsilon)"
    lines: ClassVar[str] = """
m = beta1 * m + (1 - beta1) * g
u = maximum(beta2 * u, fabs(g))
d = factor * learning_rate / (1 - beta1 ** t) * m / (u + epsilon)
"""
    state: ClassVar[tuple[str, ...]] = ("m", "u")
    learning_rate: Rate = 0.001
    beta1: Share = 0.9
    beta2: Share = 0.999
    epsilon: Small = 1e-8
    kind: Literal["adamax"] = "adamax"


@rule
class OAdam(Rule):
    """Adam that is optimistic: twice this step, less the last one (Daskalakis et al., 2018)."""

    equation: ClassVar[str] = "s = the step of adam; d = 2 * s - s of the step before"
    lines: ClassVar[str] = _MOMENTS + """
s = factor * learning_rate * (m / (1 - beta1 ** t)) / (sqrt(v / (1 - beta2 ** t)) + epsilon)
d = 2 * s - last
last = s
"""
    state: ClassVar[tuple[str, ...]] = ("m", "v", "last")
    learning_rate: Rate = 0.001
    beta1: Share = 0.5
    beta2: Share = 0.9
    epsilon: Small = 1e-8
    kind: Literal["oadam"] = "oadam"


@rule
class AdaGrad(Rule):
    """The gradient over the root of the sum of its squares (Duchi et al., 2011)."""

    equation: ClassVar[str] = "a = a + g^2, from epsilon; d = learning_rate * g / (sqrt(a) + epsilon)"
    lines: ClassVar[str] = "a = a + g * g\nd = factor * learning_rate * g / (sqrt(a) + epsilon)"
    state: ClassVar[tuple[str, ...]] = ("a",)
    initial: ClassVar[Mapping[str, str]] = {"a": "epsilon"}
    learning_rate: Rate = 0.1
    epsilon: Small = 1e-8
    kind: Literal["adagrad"] = "adagrad"


@rule
class AdaDelta(Rule):
    """Steps in the units of the parameter: the root mean square of past steps over that of gradients (Zeiler, 2012)."""

    equation: ClassVar[str] = "a = mean of g^2; s = g * sqrt(u + epsilon) / sqrt(a + epsilon); u = mean of s^2; d = learning_rate * s"
    lines: ClassVar[str] = """
a = decay * a + (1 - decay) * g * g
s = g * sqrt(u + epsilon) / sqrt(a + epsilon)
u = decay * u + (1 - decay) * s * s
d = factor * learning_rate * s
"""
    state: ClassVar[tuple[str, ...]] = ("a", "u")
    decay: Share = 0.9
    epsilon: Small = 1e-8
    learning_rate: Rate = 1.0
    kind: Literal["adadelta"] = "adadelta"


@rule
class AMSGrad(Rule):
    """Adam whose mean square never shrinks, without correction for the start (Reddi et al., 2018)."""

    equation: ClassVar[str] = "s = max(s, v), all from epsilon; d = learning_rate * m / (sqrt(s) + epsilon)"
    lines: ClassVar[str] = _MOMENTS + """
s = maximum(s, v)
d = factor * learning_rate * m / (sqrt(s) + epsilon)
"""
    state: ClassVar[tuple[str, ...]] = ("m", "v", "s")
    initial: ClassVar[Mapping[str, str]] = {"m": "epsilon", "v": "epsilon", "s": "epsilon"}
    learning_rate: Rate = 0.001
    beta1: Share = 0.9
    beta2: Share = 0.999
    epsilon: Small = 1e-8
    kind: Literal["amsgrad"] = "amsgrad"


@rule
class AdaBelief(Rule):
    """Adam that divides by how far gradients stray from their mean (Zhuang et al., 2020)."""

    equation: ClassVar[str] = "s = beta2 * s + (1 - beta2) * (g - m)^2 + epsilon; d = learning_rate * m' / (sqrt(s') + epsilon)"
    lines: ClassVar[str] = """
m = beta1 * m + (1 - beta1) * g
s = beta2 * s + (1 - beta2) * (g - m) * (g - m) + epsilon
d = factor * learning_rate * (m / (1 - beta1 ** t)) / (sqrt(s / (1 - beta2 ** t)) + epsilon)
"""
    state: ClassVar[tuple[str, ...]] = ("m", "s")
    learning_rate: Rate = 0.001
    beta1: Share = 0.9
    beta2: Share = 0.999
    epsilon: Small = 1e-16
    kind: Literal["adabelief"] = "adabelief"


@rule
class Lion(Rule):
    """The sign of two mixed means of the gradient (Chen et al., 2023), with Flux's order of the betas."""

    equation: ClassVar[str] = "s = beta2 * g + (1 - beta2) * s; d = learning_rate * sign((beta2 - beta1) * g + beta1 * s)"
    lines: ClassVar[str] = "s = beta2 * g + (1 - beta2) * s\nd = factor * learning_rate * sign((beta2 - beta1) * g + beta1 * s)"
    state: ClassVar[tuple[str, ...]] = ("s",)
    learning_rate: Rate = 0.001
    beta1: Share = 0.9
    beta2: Share = 0.999
    kind: Literal["lion"] = "lion"
