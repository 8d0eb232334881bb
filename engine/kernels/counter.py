"""What the gather kernels ask of one value: a number of any column type, a code after its lookup."""

from __future__ import annotations

import math

from numba import float32, float64, int32, int64, njit, uint8

from engine.kernels.intrinsics import view_at


@njit(error_model="numpy", forceinline=True)
def read_number(address, kind, at):
    """Element `at` of a column, as float64. `kind`: 0 float32, 1 float64, 2 int32, 3 int64, 4 uint8."""
    if kind == 0:
        return float64(view_at(address + 4 * at, float32)[0])
    if kind == 1:
        return view_at(address + 8 * at, float64)[0]
    if kind == 2:
        return float64(view_at(address + 4 * at, int32)[0])
    if kind == 3:
        return float64(view_at(address + 8 * at, int64)[0])
    return float64(view_at(address + at, uint8)[0])


@njit(error_model="numpy", forceinline=True)
def read_code(words, at):
    """The class number of element `at`. Words: 3 column, 4 its type, 6 lookup or 0, 7 entries, 8 base, 9 classes, 10 what is unknown."""
    value = read_number(words[3], words[4], at)
    code = int64(value) - words[8] if value == value else int64(-1)
    if words[6] != 0:
        code = int64(view_at(words[6] + 4 * code, int32)[0]) if 0 <= code < words[7] else int64(-1)
    return code if 0 <= code < words[9] else words[10]


@njit(error_model="numpy")
def log1p_wide(value):
    return math.log1p(max(value, 0.0))
