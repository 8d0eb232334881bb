"""Random numbers as a function of (seed, step, place, element): never of the order in which they are made, nor of how the work is cut.

The key is a leaf int64[2] of (seed, step); `place` tells one use in a graph from another. In float64 the same bits are read more finely.
"""

# pyright: reportUndefinedVariable=false
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from engine.core import FLOATS, Case, Launch, Node, Op, Sample, Shape, count, register
from engine.errors import DtypeError, ShapeError
from engine.kernels.grid import define_grid, grid
from engine.kernels.library import define, kernel

UNIFORM, NORMAL, BERNOULLI = range(3)   # purposes: the last word of the counter

_KERNEL = """def run(arena, words, begin, end):
    # Words: out, key, place. Elements 4b to 4b + 3 come from block b.
    key = view(arena, words[1], int64)
    seed, step, place = key[0], key[1], words[2]
    y = view(arena, words[0] + begin * WIDTH, real)
    first = begin // 4
    whole = (end - begin) // 4
    for j in range(whole):
        a, b, c, d = philox(first + j, place, step, {purpose}, seed)
        {four}
        store(y, 4 * j, v0)
        store(y, 4 * j + 1, v1)
        store(y, 4 * j + 2, v2)
        store(y, 4 * j + 3, v3)
    a, b, c, d = philox(first + whole, place, step, {purpose}, seed)
    {four}
    for i in range(4 * whole, end - begin):
        k = i - 4 * whole
        y[i] = v0 if k == 0 else v1 if k == 1 else v2
"""
_GRID = """def run(arena, words, size):
    # As on the CPU; a thread makes the four numbers of a block.
    key = view(arena, words[1], int64)
    seed, step, place, y = key[0], key[1], words[2], view(arena, words[0], real)
    block = uint32(cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x)
    while 4 * int64(block) < size:
        a, b, c, d = philox(int64(block), place, step, {purpose}, seed)
        {four}
        first = 4 * int64(block)
        if first + 4 <= size and words[0] & 15 == 0:
            put_four(y, first, v0, v1, v2, v3)
        else:
            for k in range(min(4, size - first)):
                y[first + k] = v0 if k == 0 else v1 if k == 1 else v2 if k == 2 else v3
        block = uint32(block + cuda.gridDim.x * cuda.blockDim.x)
"""
_UNIT = {"a": "real(a >> SPARE) * UNIT", "b": "real(b >> SPARE) * UNIT", "c": "real(c >> SPARE) * UNIT", "d": "real(d >> SPARE) * UNIT"}


def _lines(*lines: str) -> str:
    return "; ".join(lines)


_FOUR = {
    "uniform": (UNIFORM, _lines(*(f"v{i} = {_UNIT[w]}" for i, w in enumerate("abcd")))),
    "normal": (NORMAL, _lines(     # Box and Muller: radius from one number in (0, 1], angle from the next
        "r0 = sqrt(-2.0 * log(real((a >> SPARE) + 1) * UNIT))", f"t0 = {_UNIT['b']}", "v0 = r0 * cos_turn(t0)", "v1 = r0 * sin_turn(t0)",
        "r1 = sqrt(-2.0 * log(real((c >> SPARE) + 1) * UNIT))", f"t1 = {_UNIT['d']}", "v2 = r1 * cos_turn(t1)", "v3 = r1 * sin_turn(t1)")),
}
for _name, (_purpose, _four) in _FOUR.items():
    define(_name, _KERNEL.format(purpose=_purpose, four=_four))
    define_grid(_name, _GRID.format(purpose=_purpose, four=_four), threads=256, units=1024)


@kernel("bernoulli")
def bernoulli_kernel(arena, words, begin, end):
    """Words: out, key, place, threshold, value. Elements 8b to 8b + 7 come from block b, the lower half of each of its words first."""
    key = view(arena, words[1], int64)
    seed, step, place, threshold, value = key[0], key[1], words[2], words[3], real(number_of(words[4]))
    y = view(arena, words[0] + begin * WIDTH, real)
    first = begin // 8
    whole = (end - begin) // 8
    for j in range(whole):
        a, b, c, d = philox(first + j, place, step, 2, seed)
        store(y, 8 * j, select((a & 65535) < threshold, value, 0.0))
        store(y, 8 * j + 1, select((a >> 16) < threshold, value, 0.0))
        store(y, 8 * j + 2, select((b & 65535) < threshold, value, 0.0))
        store(y, 8 * j + 3, select((b >> 16) < threshold, value, 0.0))
        store(y, 8 * j + 4, select((c & 65535) < threshold, value, 0.0))
        store(y, 8 * j + 5, select((c >> 16) < threshold, value, 0.0))
        store(y, 8 * j + 6, select((d & 65535) < threshold, value, 0.0))
        store(y, 8 * j + 7, select((d >> 16) < threshold, value, 0.0))
    a, b, c, d = philox(first + whole, place, step, 2, seed)
    for i in range(8 * whole, end - begin):
        k = i - 8 * whole
        word = a if k < 2 else b if k < 4 else c if k < 6 else d
        y[i] = select(((word >> (k % 2 * 16)) & 65535) < threshold, value, 0.0)


@grid("bernoulli", threads=256, units=2048)
def bernoulli_grid(arena, words, size):
    """As on the CPU; a thread makes the eight numbers of a block."""
    key = view(arena, words[1], int64)
    seed, step, place, threshold, y = key[0], key[1], words[2], words[3], view(arena, words[0], real)
    value = real(number_of(words[4]))
    block = uint32(cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x)
    while 8 * int64(block) < size:
        a, b, c, d = philox(int64(block), place, step, 2, seed)
        first = 8 * int64(block)
        if first + 8 <= size and words[0] & 15 == 0:
            a0, a1 = select((a & 65535) < threshold, value, 0.0), select((a >> 16) < threshold, value, 0.0)
            b0, b1 = select((b & 65535) < threshold, value, 0.0), select((b >> 16) < threshold, value, 0.0)
            c0, c1 = select((c & 65535) < threshold, value, 0.0), select((c >> 16) < threshold, value, 0.0)
            d0, d1 = select((d & 65535) < threshold, value, 0.0), select((d >> 16) < threshold, value, 0.0)
            put_four(y, first, a0, a1, b0, b1)
            put_four(y, first + 4, c0, c1, d0, d1)
        else:
            for k in range(min(8, size - first)):
                word = a if k < 2 else b if k < 4 else c if k < 6 else d
                y[first + k] = select(((word >> (k % 2 * 16)) & 65535) < threshold, value, 0.0)
        block = uint32(block + cuda.gridDim.x * cuda.blockDim.x)


def bits(key: np.ndarray, shape: Sequence[int], place: int, purpose: int) -> np.ndarray:
    """What Philox gives for every element, by numpy: uint64[blocks, 4] of 32 bits each."""
    low = np.uint64(0xFFFFFFFF)
    half = np.uint64(32)
    seed, step = (int(k) & 0xFFFFFFFFFFFFFFFF for k in key)
    block = np.arange(-(-count(shape) // 4), dtype=np.uint64)
    x = [block & low, np.full_like(block, place & 0xFFFFFFFF), np.full_like(block, step & 0xFFFFFFFF),
         (np.uint64(purpose) + ((block >> half) << np.uint64(8))) & low]
    keys = [seed & 0xFFFFFFFF, seed >> 32]
    for _ in range(10):
        p, q = x[0] * np.uint64(0xD2511F53), x[2] * np.uint64(0xCD9E8D57)
        x = [(q >> half) ^ x[1] ^ np.uint64(keys[0]), q & low, (p >> half) ^ x[3] ^ np.uint64(keys[1]), p & low]
        keys = [(keys[0] + 0x9E3779B9) & 0xFFFFFFFF, (keys[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return np.stack(x, axis=1)


def _numbers(words: np.ndarray, dtype: str, above: int = 0) -> np.ndarray:
    """In [0, 1) by 24 bits in float32 and 32 in float64; with `above` = 1 in (0, 1]."""
    spare = 8 if dtype == "float32" else 0
    return ((words >> np.uint64(spare)) + np.uint64(above)).astype(np.float64) * 2.0 ** (spare - 32)


def _take(values: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    return values.ravel()[:count(shape)].reshape(tuple(shape))


def _uniform_oracle(key: np.ndarray, shape: Sequence[int], place: int, dtype: str = "float32") -> np.ndarray:
    return _take(_numbers(bits(key, shape, place, UNIFORM), dtype), shape)


def _normal_oracle(key: np.ndarray, shape: Sequence[int], place: int, dtype: str = "float32") -> np.ndarray:
    words = bits(key, shape, place, NORMAL)
    radius = np.sqrt(-2 * np.log(_numbers(words[:, 0::2], dtype, 1)))
    return _take((radius * np.exp(2j * np.pi * _numbers(words[:, 1::2], dtype))).view(np.float64), shape)


def bernoulli_oracle(key: np.ndarray, shape: Sequence[int], place: int, rate: float, dtype: str = "float32", value: float = 1.0) -> np.ndarray:
    words = bits(key, (-(-count(shape) // 2),), place, BERNOULLI)
    halves = np.stack([words & np.uint64(0xFFFF), words >> np.uint64(16)], axis=2)
    return _take((halves < np.uint64(threshold(rate))) * value, shape)


def threshold(rate: float) -> int:
    """Which of the 2 ** 16 values of half a word are below a rate."""
    return round(rate * 2.0 ** 16)


def _shape(name: str) -> Callable[..., tuple[Shape, str]]:
    def shape(key: Node, shape: Sequence[int], place: int, dtype: str = "float32", rate: float = 0.5, value: float = 1.0) -> tuple[Shape, str]:
        if key.shape != (2,) or key.dtype != "int64":
            raise ShapeError(f"{name} takes a key int64[2] of (seed, step), found {key.dtype}{list(key.shape)}")
        if dtype not in FLOATS:
            raise DtypeError(f"{name} makes {' or '.join(FLOATS)}, not {dtype}")
        if not 0 <= rate <= 1:
            raise ShapeError(f"{name}: a rate lies between 0 and 1, found {rate}")
        return tuple(int(n) for n in shape), dtype

    return shape


def _launch(node: Node) -> list[Launch]:
    of_rate = (threshold(node.attrs["rate"]), float(node.attrs["value"])) if "rate" in node.attrs else ()
    words = (node, node.inputs[0], node.attrs["place"], *of_rate)
    return [Launch(node.op.name, node.dtype, words, node.size, grain=8, cost=1.0, elementwise=True)]


def _row(name: str, oracle: Callable[..., Any], description: str, defaults: Mapping[str, Any] = {}, **more: float) -> None:
    key = Sample((2,), 0, 1 << 40, "int64")
    shapes: tuple[tuple[str, Shape], ...] = (("ragged", (7, 5)), ("long", (1030,)), ("empty batch", (0, 5)), ("one", (1,)), ("scalar", ()))
    register(Op(name, shape=_shape(name), oracle=oracle, launch=_launch, defaults={"dtype": "float32", **defaults}, description=description,
                cases=tuple(Case(f"{label} {dtype}", (key,), {"shape": shape, "place": 3, "dtype": dtype, **more}, gradient=False)
                            for label, shape in shapes for dtype in FLOATS)))


_row("uniform", _uniform_oracle, "Numbers spread evenly over [0, 1).")
_row("normal", _normal_oracle, "Numbers of the normal distribution with mean 0 and deviation 1.")
_row("bernoulli", bernoulli_oracle, "`value` with probability `rate`, to 1 in 65,536, else 0.", {"value": 1.0}, rate=0.3, value=1.25)
