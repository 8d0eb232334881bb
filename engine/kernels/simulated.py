"""The words of kernels in plain Python, for numba's simulator of a GPU: arrays are numpy's.

Loaded only where `NUMBA_ENABLE_CUDASIM=1` was set before numba was imported. The simulator takes no alignment of shared arrays: numpy's begin at
multiples of 16 anyway. Where threads wait for each other is made by the tests, which let them take turns.
"""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false, reportArgumentType=false
from __future__ import annotations

import ctypes
import sys
from typing import Any

import numpy as np
from numba import cuda  # noqa: F401  (a word of kernels)
from numba.cuda.simulator.kernelapi import FakeCUDAShared

from engine import special
from engine.kernels.vecmath import philox as counters

float32, float64, int32, int64, uint8, uint32, uint64 = np.float32, np.float64, np.int32, np.int64, np.uint8, np.uint32, np.uint64
INFINITY, NAN = np.float32(np.inf), np.float32(np.nan)
RANDOM = {float32: (8, float32(2.0**-24)), float64: (0, float64(2.0**-32))}

minimum, maximum, fabs, floor, sqrt, copysign, sign = np.minimum, np.maximum, np.abs, np.floor, np.sqrt, np.copysign, np.sign
exp, expm1, log, log1p, tanh, sin, cos, tan = np.exp, np.expm1, np.log, np.log1p, np.tanh, np.sin, np.cos, np.tan
pow, isnan, isfinite, sigmoid, erf = np.power, np.isnan, np.isfinite, special.expit, special.erf


def softplus(x: Any) -> Any:
    return np.logaddexp(type(x)(0), x)


def sin_turn(x: Any) -> Any:
    return type(x)(np.sin(2 * np.pi * float(x)))


def cos_turn(x: Any) -> Any:
    return type(x)(np.cos(2 * np.pi * float(x)))


def view(arena: np.ndarray, offset: Any, kind: Any) -> np.ndarray:
    rest = getattr(arena, "_ary", arena)[int(offset):]
    width = np.dtype(kind).itemsize
    return rest[: len(rest) // width * width].view(kind)


def view_at(address: Any, kind: Any) -> Any:
    return ctypes.cast(int(address), ctypes.POINTER(np.ctypeslib.as_ctypes_type(kind)))


def view_of(array: np.ndarray, kind: Any) -> np.ndarray:
    return array.view(kind)


def load(pointer: np.ndarray, index: Any) -> Any:
    return pointer[index]


def store(pointer: np.ndarray, index: Any, value: Any) -> None:
    pointer[index] = value


def four_of(pointer: np.ndarray, index: int) -> tuple[Any, ...]:
    assert pointer[index:].ctypes.data % 16 == 0, "an address for four numbers at once must be a multiple of 16"
    return tuple(pointer[index: index + 4])


def put_four(pointer: np.ndarray, index: int, *values: Any) -> None:
    assert pointer[index:].ctypes.data % 16 == 0, "an address for four numbers at once must be a multiple of 16"
    pointer[index: index + 4] = values


def select(condition: Any, yes: Any, no: Any) -> Any:
    return yes if condition else no


def larger(a: Any, b: Any) -> Any:
    return a if a > b else b


def bits_of(number: Any) -> Any:
    return number.view(np.int32 if number.dtype == np.float32 else np.int64)


def number_of(bits: Any) -> Any:
    return np.asarray(bits).view(np.float32 if np.asarray(bits).dtype == np.int32 else np.float64)[()]


def whole_number(arena: np.ndarray, offset: Any, width: Any, index: Any) -> int:
    return int(view(arena, offset, {1: np.uint8, 4: np.int32, 8: np.int64}[int(width)])[index])


def greatest(x: np.ndarray, n: int) -> Any:
    return np.max(x[:n], initial=-np.inf)


def ordered(x: Any) -> Any:
    return x


unordered = ordered


def rows_of(row: int, begin: int, end: int) -> tuple[int, int, int, int]:
    return (1, end - begin, 0, begin) if row == 0 else ((end - begin) // row, row, begin // row, 0)


def operand(arena: np.ndarray, words: np.ndarray, k: int, row: int, skip: int, kind: Any, width: int) -> np.ndarray:
    return view(arena, words[k] + (row * words[k + 1] + skip * words[k + 2]) * width, kind)


def philox(*numbers: Any) -> tuple[int, ...]:
    return counters.philox.py_func(*map(int, numbers))


# ---------------------------------------------------------------- shared memory

def _array(self: Any, shape: Any, dtype: Any, alignment: int | None = None) -> np.ndarray:
    """The block's array of the line that asks for it."""
    caller = sys._getframe(1)
    return self._allocations.setdefault((caller.f_code.co_filename, caller.f_lineno), np.empty(shape, dtype))


FakeCUDAShared.array = _array
