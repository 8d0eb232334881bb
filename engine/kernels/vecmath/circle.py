"""sin, cos and tan for GPUs, whose own ones keep a table on the stack for large x.

x is reduced to the quarter turn q that it is nearest to and the rest r, |r| <= π/4: by three fused multiply-adds (Cody and Waite 1980), beyond `NEAR`
in float32 by whole numbers, from the bits of 2/π that matter (Payne and Hanek 1983). In float64 numbers beyond `NEAR64` give NaN. Up to there, and
in float32 everywhere, sin and cos are exact to 2 ulp, tan to 3.
"""

# pyright: reportCallIssue=false, reportIndexIssue=false
from __future__ import annotations

from typing import Any

import numpy as np
from numba import float32, int64

from engine.kernels.intrinsics import bits_of
from engine.kernels.vecmath import fabs, fma, inline, polynomial, select

NEAR, NEAR64 = np.float32(2.0**15), 2.0**40
SHIFT, SHIFT64 = np.float32(1.5 * 2**23), 1.5 * 2.0**52     # added, it rounds to a whole number and leaves it in the low bits
TURN, TURN64 = np.float32(0.63661975), 0.6366197723675814
HIGH, MIDDLE, REST = np.float32(1.5707964), np.float32(-4.371139e-08), np.float32(-1.7151245e-15)     # π/2 in three parts
HIGH64, MIDDLE64, REST64 = 1.5707963267948966, 6.123233995736766e-17, -1.4973849048591698e-33
INFINITY, NAN64 = np.float32(np.inf), np.nan
ANGLE = np.float32(1.5707963267948966 * 2.0**-62)
LOW = 0xFFFFFFFF
WORDS = (0x00000000, 0x28BE60DB, 0x9391054A, 0x7F09D5F4, 0x7D4D3770, 0x36D8A566, 0x4F10E410, 0x7F9458EA)     # of 2/π, after its point and two zeros
W0, W1, W2, W3, W4, W5, W6, W7 = WORDS


@inline
def _near(x):
    t = fma(x, TURN, SHIFT)
    n = t - SHIFT
    return int64(bits_of(t)) & 3, fma(n, -REST, fma(n, -MIDDLE, fma(n, -HIGH, x)))


@inline
def _one_of(i, a, b, c, d, e):
    return select(i == 0, int64(a), select(i == 1, int64(b), select(i == 2, int64(c), select(i == 3, int64(d), int64(e)))))


@inline
def _far(x):
    """The product of the 24 bits of x and the 96 bits of 2/π that follow those that give whole turns, with two bits before its point."""
    bits = int64(bits_of(x))
    mantissa, exponent = ((bits & 0x7FFFFF) | 0x800000) << 8, ((bits >> 23) & 0xFF) - 126
    i, shift = exponent >> 5, 32 - (exponent & 31)
    high, middle = _one_of(i, W0, W1, W2, W3, W4), _one_of(i, W1, W2, W3, W4, W5)
    low, last = _one_of(i, W2, W3, W4, W5, W6), _one_of(i, W3, W4, W5, W6, W7)
    high, middle, low = ((high << 32 | middle) >> shift) & LOW, ((middle << 32 | low) >> shift) & LOW, ((low << 32 | last) >> shift) & LOW
    product = mantissa * middle + (((mantissa * low) >> 32) & LOW)
    product = (((mantissa * high) & LOW) << 32) + product
    rest = (product << 2) >> 2                       # sign and 61 bits: the nearest quarter turn is taken off
    q = ((product - rest) >> 62) & 3
    r = float32(rest) * ANGLE
    return select(x < np.float32(0), -q, q) & 3, select(x < np.float32(0), -r, r)


@inline
def _reduced(x):
    if fabs(x) > NEAR:
        q, r = _far(x)
        return q, select(fabs(x) < INFINITY, r, x - x)
    return _near(x)


@inline
def _reduced64(x):
    t = fma(x, TURN64, SHIFT64)
    n = t - SHIFT64
    r = fma(n, -REST64, fma(n, -MIDDLE64, fma(n, -HIGH64, x)))
    return bits_of(t) & 3, select(fabs(x) <= NEAR64, r, NAN64)


def _circle(real: Any, reduced: Any, sine: tuple[float, ...], cosine: tuple[float, ...]) -> tuple[Any, Any, Any]:
    """sin, cos and tan of one type. `sine`, `cosine`: coefficients in r² of (sin(r) / r - 1) / r² and (cos(r) - 1) / r² for |r| <= π/4."""
    one = real(1.0)
    sine_of, cosine_of = polynomial(*sine), polynomial(*cosine)

    @inline
    def both(r):
        r2 = r * r
        return r + r * r2 * sine_of(r2), one + r2 * cosine_of(r2)

    @inline
    def sin(x):
        q, r = reduced(x)
        s, c = both(r)
        y = select(q & 1 == 1, c, s)
        return select(x == real(0.0), x, select(q >= 2, -y, y))      # -0.0 stays what it is

    @inline
    def cos(x):
        q, r = reduced(x)
        s, c = both(r)
        y = select(q & 1 == 1, s, c)
        return select((q + 1) & 2 == 2, -y, y)

    @inline
    def tan(x):
        q, r = reduced(x)
        s, c = both(r)
        return select(x == real(0.0), x, select(q & 1 == 1, -c, s) / select(q & 1 == 1, s, c))

    return sin, cos, tan


# least-maximum fits: the coefficients of Moshier's Cephes (sinf.c) and of FreeBSD (k_sin.c, k_cos.c)
sin_float32, cos_float32, tan_float32 = _circle(np.float32, _reduced, (-1.6666654611e-1, 8.3321608736e-3, -1.9515295891e-4),
                                                (-0.5, 4.166664568298827e-2, -1.388731625493765e-3, 2.443315711809948e-5))
sin_float64, cos_float64, tan_float64 = _circle(
    np.float64, _reduced64,
    (-1.66666666666666324348e-01, 8.33333333332248946124e-03, -1.98412698298579493134e-04, 2.75573137070700676789e-06, -2.50507602534068634195e-08,
     1.58969099521155010221e-10),
    (-0.5, 4.16666666666666019037e-02, -1.38888888888741095749e-03, 2.48015872894767294178e-05, -2.75573143513906633035e-07,
     2.08757232129817482790e-09, -1.13596475577881948265e-11))
