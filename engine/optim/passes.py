"""The fused passes of optimisers, for the CPU and for GPUs.

On the CPU a pass begins with what depends on its scalars alone, in float64. On a GPU one thread does that before, and leaves the numbers in a table
of the pass's own type: so no thread of the pass itself computes in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import numpy as np

from engine.core import Launch, Scratch
from engine.kernels.formula import Pass, pass_parts, pass_text
from engine.kernels.grid import define_grid
from engine.kernels.library import define
from engine.ops.elementwise_grid import FIRST, THREADS, UNITS, numbered

PARTS: dict[str, Callable[[], Pass]] = {}
"""What each pass is made of."""


def define_pass(name: str, lines: str, arrays: tuple[str, ...], scalars: tuple[str, ...], writes: tuple[str, ...]) -> None:
    """Add a pass to the libraries: `name` for both devices, and `name`_once, which makes its table on a GPU. Arguments as of `pass_text`."""
    define(name, partial(pass_text, lines, arrays, scalars, writes))
    parts = PARTS[name] = cache(lambda: pass_parts(lines, arrays, scalars, writes))
    define_grid(name, lambda: _pass_grid(parts(), arrays, numbers_of(name)), THREADS, UNITS)
    define_grid(f"{name}_once", lambda: _once_grid(parts(), scalars, numbers_of(name)), threads=32, wide=True)


def numbers_of(name: str) -> int:
    """How many numbers a pass on a GPU finds in its table."""
    return sum(line.startswith("once_") for line in PARTS[name]().once)


def launches(name: str, dtype: str, arrays: Sequence[Any], table: int, size: int, cost: float, device: str) -> list[Launch]:
    """What carries out a pass over `size` numbers of arrays whose scalars are at offset `table`."""
    if device == "cpu":
        return [Launch(name, dtype, (*arrays, table), size, grain=16, cost=cost)]
    numbers = Scratch(max(numbers_of(name), 1) * np.dtype(dtype).itemsize)
    return [Launch(f"{name}_once", dtype, (numbers, table), 1), Launch(name, dtype, (*arrays, numbers), size, cost=cost)]


def _once_grid(parts: Pass, scalars: tuple[str, ...], numbers: int) -> str:
    """The table of a pass; words (out, the float64 table of the scalars)."""
    lines = ["table, out = view(arena, words[1], float64), view(arena, words[0], real)"]
    lines += [*(f"{name} = table[{k}]" for k, name in enumerate(scalars)), *parts.once, *(f"out[{k}] = once_{k}" for k in range(numbers))]
    return "\n".join(["def run(arena, words, size):", "    if cuda.blockIdx.x == 0 and cuda.threadIdx.x == 0:", *(8 * " " + line for line in lines)])


def _pass_grid(parts: Pass, arrays: tuple[str, ...], numbers: int) -> str:
    """A pass, four numbers at a time where all arrays begin at multiples of 16; words (offset of each array, then of the table)."""
    changing = {*arrays, *(line.split(" = ")[0] for line in parts.body)}

    def four(text: str) -> str:
        return ", ".join(numbered(text, k, changing) for k in range(4))

    starts = " | ".join(f"words[{k}]" for k in range(len(arrays)))
    head = [f"table = view(arena, words[{len(arrays)}], real)", *(f"once_{k} = table[{k}]" for k in range(numbers))]
    head += [f"a_{x} = view(arena, words[{k}], real)" for k, x in enumerate(arrays)]
    head += [f"fours = uint32(size // 4 if ({starts}) & 15 == 0 else 0)", *map(str.strip, FIRST.splitlines()), "rest = uint32(4 * fours + at)"]
    loop = [f"{four(x)} = four_of(a_{x}, uint32(4 * at))" for x in arrays] + [numbered(line, k, changing) for k in range(4) for line in parts.body]
    loop += [f"put_four(a_{x}, uint32(4 * at), {four(value)})" for x, value in parts.results.items()] + ["at = uint32(at + step)"]
    tail = [f"{x} = a_{x}[rest]" for x in arrays] + parts.body + [f"a_{x}[rest] = {value}" for x, value in parts.results.items()]
    lines = [*head, "while at < fours:", *(4 * " " + line for line in loop), "while rest < size:", *(4 * " " + line for line in tail)]
    return "\n".join(["def run(arena, words, size):", *(4 * " " + line for line in lines), "        rest = uint32(rest + step)"])
