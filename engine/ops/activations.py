"""Activation functions, each with the formula and the derivative at kinks that Flux.jl's NNlib 0.9 uses. NaN in gives NaN out.

`ACTIVATIONS` has every name that the wire accepts. The derivative with respect to an attribute (slope, alpha, ...) does not exist: it is a constant.
"""

from __future__ import annotations

from math import pi, sqrt
from typing import Any

import numpy as np

from engine import special
from engine.core import Op
from engine.ops.elementwise import unary

LAMBDA, ALPHA = 1.0507009873554805, 1.6732632423543772      # selu: Klambauer et al. 2017
GELU = "(1.5957691216057308 * (x + 0.044715 * x ** 3))"      # 2 sqrt(2/π) (x + 0.044715 x³): Hendrycks and Gimpel 2016
GELU_SLOPE = f"sigmoid({GELU}) * (1 + x * (1 - sigmoid({GELU})) * 1.5957691216057308 * (1 + 0.134145 * x * x))"

ACTIVATIONS: dict[str, Op] = {}
"""Every name of an activation, those of Flux and Keras too (silu, hardswish, leakyrelu, logsigmoid, tanhshrink, ...), with its op."""


def activation(name: str, *row: Any, **more: Any) -> None:
    ACTIVATIONS[name] = unary(name, *row, **more)


# piecewise linear
activation("identity", "x", "1", np.positive, "x itself.")
activation("relu", "0 if x < 0 else x", "1 if y > 0 else 0", lambda x: np.maximum(x, 0), "max(x, 0); derivative 0 at 0.", avoid=(0.0,))
activation("leaky_relu", "x if x > 0 else slope * x", "1 if x > 0 else slope", lambda x, slope: np.where(x > 0, x, slope * x),
           "x above 0, slope x below; derivative `slope` at 0.", avoid=(0.0,), slope=0.01)
activation("rrelu", "x if x > 0 else 0.5 * (lower + upper) * x", "1 if x > 0 else 0.5 * (lower + upper)",
           lambda x, lower, upper: np.where(x > 0, x, (lower + upper) / 2 * x),
           "leaky_relu with the mean of the slopes between `lower` and `upper`: the form that is not random.", avoid=(0.0,), lower=1 / 8, upper=1 / 3)
activation("relu6", "minimum(maximum(x, 0), 6)", "1 if 0 < y < 6 else 0", lambda x: np.clip(x, 0, 6), "x between 0 and 6.",
           over=(-3.0, 9.0), avoid=(0.0, 6.0))
activation("trelu", "0 if x <= theta else x", "1 if x > theta else 0", lambda x, theta: np.where(x > theta, x, 0), "x above theta, else 0.",
           avoid=(1.0,), theta=1.0)
activation("hard_tanh", "minimum(maximum(x, -1), 1)", "1 if -1 < y < 1 else 0", lambda x: np.clip(x, -1, 1), "x between -1 and 1.", avoid=(-1.0, 1.0))
activation("hard_sigmoid", "minimum(maximum((x + 3) / 6, 0), 1)", "0.16666666666666666 if 0 < y < 1 else 0", lambda x: np.clip(x / 6 + 0.5, 0, 1),
           "(x + 3) / 6 between 0 and 1.", over=(-5.0, 5.0), avoid=(-3.0, 0.0, 1.0, 3.0))
activation("hard_swish", "x * minimum(maximum((x + 3) / 6, 0), 1)", "0 if x < -3 else (1 if x > 3 else x / 3 + 0.5)",
           lambda x: x * np.clip(x / 6 + 0.5, 0, 1), "x hard_sigmoid(x); derivative -0.5 at -3 and 1.5 at 3.", over=(-5.0, 5.0), avoid=(-3.0, 3.0))
activation("soft_shrink", "x - threshold if x > threshold else (x + threshold if x < -threshold else 0 * x)", "1 if y != 0 else 0",
           lambda x, threshold: np.sign(x) * np.maximum(np.abs(x) - threshold, 0), "x moved by `threshold` towards 0, and 0 near it.",
           avoid=(-0.5, 0.0, 0.5), threshold=0.5)

# exponential
activation("sigmoid", "sigmoid(x)", "y * (1 - y)", special.expit, "1 / (1 + exp(-x)).")
activation("log_sigmoid", "-softplus(-x)", "sigmoid(-x)", special.log_expit, "log(sigmoid(x)).")
activation("softplus", "softplus(x)", "sigmoid(x)", lambda x: np.logaddexp(x, 0), "log(1 + exp(x)).")
activation("elu", "x if x >= 0 else alpha * expm1(x)", "1 if y >= 0 else y + alpha", lambda x, alpha: np.where(x < 0, alpha * (np.exp(x) - 1), x),
           "x above 0, alpha (exp(x) - 1) below.", avoid=(0.0,), alpha=1.0)
activation("celu", "x if x >= 0 else alpha * expm1(x / alpha)", "1 if y > 0 else y / alpha + 1",
           lambda x, alpha: np.maximum(x, 0) + np.minimum(0, alpha * (np.exp(x / alpha) - 1)), "x above 0, alpha (exp(x / alpha) - 1) below.",
           avoid=(0.0,), alpha=1.0)
activation("selu", f"{LAMBDA} * (x if x > 0 else {ALPHA} * expm1(x))", f"{LAMBDA} if y > 0 else y + {LAMBDA * ALPHA}",
           lambda x: LAMBDA * np.where(x > 0, x, ALPHA * (np.exp(x) - 1)), "elu scaled so that means stay 0 and variances 1.", avoid=(0.0,))
activation("swish", "x * sigmoid(x)", "y + sigmoid(x) * (1 - y)", lambda x: x / (1 + np.exp(-x)), "x sigmoid(x), also called silu.")
activation("tanh", "tanh(x)", "1 - y * y", np.tanh, "The hyperbolic tangent.")
activation("tanh_shrink", "x - tanh(x)", "(x - y) * (x - y)", lambda x: x - np.tanh(x), "x - tanh(x).")
activation("lisht", "x * tanh(x)", "tanh(x) + x * (1 - tanh(x) * tanh(x))", lambda x: x * np.tanh(x), "x tanh(x).")
activation("mish", "x * tanh(softplus(x))", "tanh(softplus(x)) + x * sigmoid(x) * (1 - tanh(softplus(x)) * tanh(softplus(x)))",
           lambda x: x * np.tanh(np.log1p(np.exp(x))), "x tanh(softplus(x)).")
activation("log_cosh", "fabs(x) + softplus(-2 * fabs(x)) - 0.6931471805599453", "tanh(x)", lambda x: np.logaddexp(x, -x) - np.log(2), "log(cosh(x)).")
activation("softsign", "x / (1 + fabs(x))", "1 / ((1 + fabs(x)) * (1 + fabs(x)))", lambda x: x / (1 + np.abs(x)), "x / (1 + |x|).")

# Gaussian
activation("gelu", f"x * sigmoid({GELU})", GELU_SLOPE, lambda x: x / 2 * (1 + np.tanh(sqrt(2 / pi) * (x + 0.044715 * x ** 3))),
           "x times the normal distribution function, by tanh: x/2 (1 + tanh(√(2/π) (x + 0.044715 x³))).")
activation("gelu_sigmoid", f"x * sigmoid({GELU})", GELU_SLOPE, lambda x: x * special.expit(sqrt(8 / pi) * x * (1 + 0.044715 * x * x)),
           "x sigmoid(√(8/π) x (1 + 0.044715 x²)): gelu in other words.")
activation("gelu_erf", "0.5 * x * (1 + erf(0.7071067811865476 * x))",
           "0.5 * (1 + erf(0.7071067811865476 * x)) + 0.3989422804014327 * x * exp(-0.5 * x * x)",
           lambda x: x * special.ndtr(x), "x/2 (1 + erf(x / √2)): gelu without approximation.")

ACTIVATIONS |= {name: ACTIVATIONS[known] for name, known in {
    "linear": "identity", "none": "identity", "silu": "swish", "gelu_tanh": "gelu", "threshold_relu": "trelu", "logistic": "sigmoid",
    "sigmoid_fast": "sigmoid", "tanh_fast": "tanh"}.items()}
ACTIVATIONS |= {name.replace("_", ""): op for name, op in ACTIVATIONS.items()}
