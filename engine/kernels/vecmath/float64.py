"""Double precision: the same methods with longer polynomials."""

# pyright: reportCallIssue=false, reportIndexIssue=false
from __future__ import annotations

from math import factorial

import numpy as np
from numba import int64

from engine.kernels.intrinsics import bits_of, number_of
from engine.kernels.vecmath import copysign, cos, fabs, floor, inline, larger, maximum, minimum, polynomial, pow, select, sin, sqrt, tan
from engine.kernels.vecmath.access import load, operand, rows_of, store, whole_number
from engine.kernels.vecmath.common import area_series, derived, turn_series
from engine.kernels.vecmath.philox import philox

__all__ = [
    "INFINITY", "NAN", "SPARE", "UNIT", "copysign", "cos", "cos_turn", "erf", "exp", "expm1", "fabs", "floor", "greatest", "isfinite", "isnan",
    "larger", "load", "log", "log1p", "maximum", "minimum", "operand", "ordered", "philox", "pow", "rows_of", "select", "sigmoid", "sign",
    "sin", "sin_turn", "softplus", "sqrt", "store", "tan", "tanh", "unordered", "whole_number"]

ZERO, HALF, ONE, INFINITY, NAN = 0.0, 0.5, 1.0, np.inf, np.nan
SHIFT = 1.5 * 2.0**52                                  # added, it rounds to a whole number and leaves it in the low bits
LOG2_E, LN2_HIGH, LN2_LOW = 1.4426950408889634, 6.93147180369123816490e-01, 1.90821492927058770002e-10   # Cody and Waite's two parts of log 2
HIGHEST, LOWEST, LEAST = 710.0, -746.0, -50.0
NORMAL, RAISE, RAISED = 2.0**-1022, 2.0**54, -54.0
ROOT_HALF, MANTISSA = 0x3FE6A09E667F3BCD, 0x000FFFFFFFFFFFFF
EXPONENT, COUNTER, COUNTED = 0x7FF, 0x4330000000000000, 2.0**52   # a whole number or-ed into the bits of 2^52 is a float without conversion
ONE_BITS = 0x3FF0000000000000
FAR, MIDDLE, PER = 6.0, 3.5, 0.4                                   # erf's far range [1, 6] is mapped to [-1, 1]
LAST = 0x7FFFFFFFFFFFFFFF
SPARE, UNIT = 0, 2.0**-32

_exp_tail = polynomial(*(1 / factorial(k) for k in range(2, 14)))
# atanh's series on |s| <= 0.1716, least-maximum fit (the coefficients of FreeBSD's e_log.c)
_log_tail = polynomial(6.666666666666735130e-01, 3.999999999940941908e-01, 2.857142874366239149e-01, 2.222219843214978396e-01,
                       1.818357216161805012e-01, 1.531383769920937332e-01, 1.479819860511658591e-01)
_erf_near = polynomial(1.1283791670955123, -0.37612638903183415, 0.11283791670940535, -0.026866170642458248, 0.005223977600373364,
                       -0.0008548325633942683, 0.00012055284073087399, -1.492451590567773e-05, 1.6444531278014221e-06, -1.618502397121324e-07,
                       1.361294676266056e-08, -7.585498701009183e-10)
_erf_far = polynomial(14.112437402266288, 18.16524896776689, 6.042206516144244, 0.08165041310003339, -0.03412930834414503, 0.014388687261425772,
                      -0.0059262210041175056, 0.002447140667286123, -0.0007734577112098326, 0.00046927396177439545, 0.00014497849598090398,
                      0.0003507520348840171, 0.00033725288908483827, 0.00019880182019748992, 6.238380961063074e-05)


@inline
def _reduce(x):
    """x = n log 2 + r: n, and exp(r) - 1."""
    n = (x * LOG2_E + SHIFT) - SHIFT
    r = x - n * LN2_HIGH - n * LN2_LOW
    return n, r + r * r * _exp_tail(r)


@inline
def _power_of_two(n):
    """2^n for a whole number n as a float."""
    return number_of(int64(int64(bits_of(n + SHIFT) << int64(52)) + ONE_BITS))


@inline
def exp(x):
    """1 ulp; results below 2^-1022 lose bits gradually, as they should."""
    n, p = _reduce(select(x > HIGHEST, HIGHEST, select(x < LOWEST, LOWEST, x)))
    half = floor(n * HALF)
    return (ONE + p) * _power_of_two(half) * _power_of_two(n - half)


@inline
def expm1(x):
    """exp(x) - 1 without cancellation: 2 ulp."""
    n, p = _reduce(select(x > HIGHEST, HIGHEST, select(x < LEAST, LEAST, x)))
    scale = _power_of_two(n - ONE)
    y = scale * p + (scale - HALF)
    return select(x == ZERO, x, y + y)


@inline
def log(x):
    """1 ulp; -inf at 0, NaN below."""
    tiny = x < NORMAL
    i = bits_of(select(tiny, x * RAISE, x)) + (ONE_BITS - ROOT_HALF)
    exponent = number_of(int64(((i >> 52) & EXPONENT) | COUNTER)) - COUNTED - 1023.0 + select(tiny, RAISED, ZERO)
    f = number_of(int64((i & MANTISSA) + ROOT_HALF)) - ONE
    half = HALF * f * f
    s = f / (2.0 + f)
    s2 = s * s
    y = exponent * LN2_HIGH - ((half - (s * (half + s2 * _log_tail(s2)) + exponent * LN2_LOW)) - f)
    return select(x > ZERO, select(x == INFINITY, x, y), select(x == ZERO, -INFINITY, NAN))


@inline
def log1p(x):
    """log(1 + x), what the sum rounded away put back: 2 ulp."""
    u = ONE + x
    y = log(u) + (x - (u - ONE)) / u
    return select(fabs(u) < INFINITY, select(u == ZERO, -INFINITY, select(x == ZERO, x, y)), u)


@inline
def erf(x):
    """A polynomial below 1, from there 1 - exp(a polynomial): 1e-14 relative."""
    t = fabs(x)
    near = x * _erf_near(x * x)
    far = ONE - exp(-_erf_far((minimum(t, FAR) - MIDDLE) * PER))
    return select(t < ONE, near, copysign(far, x))


@inline
def ordered(x):
    """The int64 that sorts as x does, NaN above all: maxima of integers vectorise."""
    b = bits_of(x)
    return select(x != x, int64(LAST), int64(b ^ ((b >> 63) & LAST)))


@inline
def unordered(k):
    """The number that `ordered` made k from."""
    return number_of(int64(k ^ ((k >> 63) & LAST)))


@inline
def greatest(x, n):
    """The greatest of n elements at the pointer x, NaN if one is NaN, -inf of none."""
    top = ordered(-INFINITY)
    for i in range(n):
        top = larger(top, ordered(load(x, i)))
    return unordered(top)


sigmoid, tanh, softplus, sign, isnan, isfinite, sin_turn, cos_turn = derived(np.float64, exp, expm1, area_series(18), *turn_series(9))
