"""Roots, exponentials, logarithms and the functions of the circle."""

from __future__ import annotations

import numpy as np

from engine import special
from engine.ops.elementwise import binary, unary

unary("sqrt", "sqrt(x)", "0.5 / y", np.sqrt, "The square root; NaN below 0.", over=(0.2, 3.0))
unary("rsqrt", "1 / sqrt(x)", "-0.5 * y / x", lambda x: np.power(x, -0.5), "1 / √x.", over=(0.2, 3.0))
unary("exp", "exp(x)", "y", np.exp, "e to the power x.")
unary("expm1", "expm1(x)", "y + 1", np.expm1, "exp(x) - 1, exact for small x.")
unary("log", "log(x)", "1 / x", np.log, "The natural logarithm; -inf at 0, NaN below.", over=(0.2, 4.0))
unary("log1p", "log1p(x)", "1 / (1 + x)", np.log1p, "log(1 + x), exact for small x.", over=(-0.7, 4.0))
unary("sin", "sin(x)", "cos(x)", np.sin, "The sine of x radians.")
unary("cos", "cos(x)", "-sin(x)", np.cos, "The cosine of x radians.")
unary("tan", "tan(x)", "1 + y * y", np.tan, "The tangent of x radians.", over=(-1.0, 1.0))
unary("erf", "erf(x)", "1.1283791670955126 * exp(-(x * x))", special.erf, "The error function, 2 / √π times the integral of exp(-t²) from 0 to x.")
binary("xlogy", "(y if isnan(y) else 0) if x == 0 else x * log(y)", ("log(y)", "0 if x == 0 else x / y"), special.xlogy,
       "x log(y), and 0 where x is 0.", x=(0.1, 3.0), y=(0.3, 3.0))
