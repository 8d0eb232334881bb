"""Single precision. Polynomials are least-maximum fits of relative error on the reduced range, found by Lawson's iteration."""

# pyright: reportCallIssue=false, reportIndexIssue=false
from __future__ import annotations

import numpy as np
from numba import float32, int32

from engine.kernels.intrinsics import bits_of, number_of
from engine.kernels.vecmath import copysign, cos, fabs, floor, inline, larger, maximum, minimum, polynomial, pow, select, sin, sqrt, tan
from engine.kernels.vecmath.access import load, operand, rows_of, store, whole_number
from engine.kernels.vecmath.common import area_series, derived, turn_series
from engine.kernels.vecmath.philox import philox

__all__ = [
    "INFINITY", "NAN", "SPARE", "UNIT", "copysign", "cos", "cos_turn", "erf", "exp", "expm1", "fabs", "floor", "greatest", "isfinite", "isnan",
    "larger", "load", "log", "log1p", "maximum", "minimum", "operand", "ordered", "philox", "pow", "rows_of", "select", "sigmoid", "sign",
    "sin", "sin_turn", "softplus", "sqrt", "store", "tan", "tanh", "unordered", "whole_number"]

ZERO, HALF, ONE, INFINITY, NAN = np.float32(0), np.float32(0.5), np.float32(1), np.float32(np.inf), np.float32(np.nan)
SHIFT, SHIFT_BITS = np.float32(1.5 * 2**23), np.int32(0x4B400000)   # added, it rounds to a whole number and leaves it in the low bits
LOG2_E, LN2_HIGH, LN2_LOW = np.float32(1.44269504), np.float32(0.693359375), np.float32(-2.12194440e-4)   # Cody and Waite's two parts of log 2
HIGHEST, LOWEST, LEAST = np.float32(89), np.float32(-104), np.float32(-20)
NORMAL, RAISE, RAISED = np.float32(2.0**-126), np.float32(2.0**25), np.float32(-25)
ROOT_HALF, MANTISSA, LAST = np.int32(0x3F3504F3), np.int32(0x007FFFFF), np.int32(0x7FFFFFFF)
FAR = np.float32(4)
SPARE, UNIT = 8, np.float32(2.0**-24)   # of 32 random bits float32 holds 24

_exp_tail = polynomial(0.499999931, 0.166665148, 0.0416684568, 0.00836941904, 0.00138131424)             # (exp(r) - 1 - r) / r²
_log_tail = polynomial(0.33333312, -0.250000087, 0.200021671, -0.166680902, 0.142185529, -0.124030863, 0.11893525, -0.116943244, 0.0675753089)
_erf_near = polynomial(1.12837917, -0.376126258, 0.112835851, -0.0268538119, 0.00518832756, -0.000801019252, 7.85385772e-05)   # erf(x) / x in x²
_erf_far = polynomial(0.000353708928, 1.12704008, 0.638225602, 0.103037436, -0.0218053512, 0.00293961574, -0.000185574893)   # -log erfc(x)


@inline
def _reduce(x):
    """x = n log 2 + r: n as an int32, r, and exp(r) - 1."""
    t = x * LOG2_E + SHIFT
    n = t - SHIFT
    r = x - n * LN2_HIGH - n * LN2_LOW
    return int32(bits_of(t) - SHIFT_BITS), r + r * r * _exp_tail(r)


@inline
def _power_of_two(n):
    return number_of(int32((n + int32(127)) << int32(23)))


@inline
def exp(x):
    """1 ulp; results below 2^-126 lose bits gradually, as they should."""
    n, p = _reduce(select(x > HIGHEST, HIGHEST, select(x < LOWEST, LOWEST, x)))
    half = int32(n >> int32(1))
    return (ONE + p) * _power_of_two(half) * _power_of_two(int32(n - half))


@inline
def expm1(x):
    """exp(x) - 1 without cancellation: 2 ulp."""
    n, p = _reduce(select(x > HIGHEST, HIGHEST, select(x < LEAST, LEAST, x)))
    scale = _power_of_two(int32(n - int32(1)))
    y = scale * p + (scale - HALF)
    return select(x == ZERO, x, y + y)


@inline
def log(x):
    """1 ulp; -inf at 0, NaN below."""
    tiny = x < NORMAL
    i = int32(bits_of(select(tiny, x * RAISE, x)) - ROOT_HALF)
    exponent = float32(int32(i >> int32(23))) + select(tiny, RAISED, ZERO)
    f = number_of(int32(int32(i & MANTISSA) + ROOT_HALF)) - ONE
    f2 = f * f
    y = exponent * LN2_HIGH + (f + (exponent * LN2_LOW + (f * f2 * _log_tail(f) - HALF * f2)))
    return select(x > ZERO, select(x == INFINITY, x, y), select(x == ZERO, -INFINITY, NAN))


@inline
def log1p(x):
    """log(1 + x), what the sum rounded away put back: 2 ulp."""
    u = ONE + x
    y = log(u) + (x - (u - ONE)) / u
    return select(fabs(u) < INFINITY, select(u == ZERO, -INFINITY, select(x == ZERO, x, y)), u)


@inline
def erf(x):
    """A polynomial below 1, from there 1 - exp(a polynomial): 2 ulp."""
    t = fabs(x)
    near = x * _erf_near(x * x)
    far = ONE - exp(-_erf_far(minimum(t, FAR)))
    return select(t < ONE, near, copysign(far, x))


@inline
def ordered(x):
    """The int32 that sorts as x does, NaN above all: maxima of integers vectorise."""
    b = bits_of(x)
    return select(x != x, LAST, int32(b ^ int32(int32(b >> int32(31)) & LAST)))


@inline
def unordered(k):
    """The number that `ordered` made k from."""
    return number_of(int32(k ^ int32(int32(k >> int32(31)) & LAST)))


@inline
def greatest(x, n):
    """The greatest of n elements at the pointer x, NaN if one is NaN, -inf of none."""
    top = ordered(-INFINITY)
    for i in range(n):
        top = larger(top, ordered(load(x, i)))
    return unordered(top)


sigmoid, tanh, softplus, sign, isnan, isfinite, sin_turn, cos_turn = derived(np.float32, exp, expm1, area_series(9), *turn_series(6))
