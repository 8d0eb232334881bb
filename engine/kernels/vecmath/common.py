"""What both number types write alike, made from the type's own exp and expm1."""

# pyright: reportCallIssue=false
from __future__ import annotations

from math import pi
from typing import Any

from engine.kernels.vecmath import fabs, floor, inline, polynomial, select


def derived(real: Any, exp: Any, expm1: Any, area: tuple[float, ...], sine: tuple[float, ...], cosine: tuple[float, ...]) -> tuple[Any, ...]:
    """sigmoid, tanh, softplus, sign, isnan, isfinite, sin_turn and cos_turn for one type.

    `area`: coefficients in s² of 2 artanh(s) / s for 0 <= s <= 1/3. `sine`, `cosine`: coefficients in r² of sin(2πr) / r and cos(2πr) for |r| <= 1/8.
    """
    zero, half, one, two, quarter, four, infinity = real(0.0), real(0.5), real(1.0), real(2.0), real(0.25), real(4.0), real(float("inf"))
    area_of, sine_of, cosine_of = polynomial(*area), polynomial(*sine), polynomial(*cosine)

    @inline
    def sigmoid(x):
        """1 / (1 + exp(-x)) by the exponential that cannot overflow: 2 ulp."""
        t = exp(-fabs(x))
        return select(x >= zero, one, t) / (one + t)

    @inline
    def tanh(x):
        """-e / (e + 2) with e = exp(-2|x|) - 1, and the sign of x: 3 ulp, exact at 0."""
        e = expm1(-two * fabs(x))
        y = e / (e + two)
        return select(x > zero, -y, select(x == zero, x, y))

    @inline
    def softplus(x):
        """log(1 + exp(x)) = max(x, 0) + log(1 + t), t = exp(-|x|), and log(1 + t) = 2 artanh(t / (2 + t)): 3 ulp."""
        t = exp(-fabs(x))
        s = t / (two + t)
        return select(x > zero, x, zero) + s * area_of(s * s)

    @inline
    def sign(x):
        return select(x > zero, one, select(x < zero, -one, x))

    @inline
    def isnan(x):
        return x != x

    @inline
    def isfinite(x):
        return fabs(x) < infinity

    @inline
    def _turn(x):
        """Which quarter turn is nearest, 0 to 3, and sine and cosine of 2π times the rest."""
        quarters = floor(x * four + half)
        r = x - quarters * quarter
        r2 = r * r
        return quarters - four * floor(quarters * quarter), r * sine_of(r2), cosine_of(r2)

    @inline
    def sin_turn(x):
        """sin(2πx) for |x| <= 1e6: 2e-7 (float32) or 5e-16 absolute."""
        quarter_turn, s, c = _turn(x)
        y = select((quarter_turn == one) | (quarter_turn == real(3.0)), c, s)
        return select(quarter_turn >= two, -y, y)

    @inline
    def cos_turn(x):
        """cos(2πx), as sin_turn."""
        quarter_turn, s, c = _turn(x)
        y = select((quarter_turn == one) | (quarter_turn == real(3.0)), s, c)
        return select((quarter_turn == one) | (quarter_turn == two), -y, y)

    return sigmoid, tanh, softplus, sign, isnan, isfinite, sin_turn, cos_turn


def area_series(terms: int) -> tuple[float, ...]:
    """Taylor's coefficients in s² of 2 artanh(s) / s."""
    return tuple(2 / (2 * k + 1) for k in range(terms))


def turn_series(terms: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Taylor's coefficients in r² of sin(2πr) / r and cos(2πr)."""
    sine, cosine, term = [], [], 1.0
    for k in range(2 * terms):
        signed = term if k % 4 < 2 else -term
        (sine if k % 2 else cosine).append(signed)
        term *= 2 * pi / (k + 1)
    return tuple(sine), tuple(cosine)
