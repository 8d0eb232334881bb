"""GPU kernels of formulas: a thread makes four neighbouring numbers by reads and writes of 16 bytes, where all rows of operands begin at such
addresses, and single numbers elsewhere; neighbouring threads have neighbouring numbers.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Sequence
from functools import partial

from engine.kernels.formula import FUNCTIONS, text_of
from engine.kernels.grid import define_grid

THREADS = 256
UNITS = 4 * THREADS

FIRST = """\
    at = uint32(cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x)
    step = uint32(cuda.gridDim.x * cuda.blockDim.x)
"""
"""Where the thread begins, and how far its next number (or four) is. In 32 bits, which hold all sizes: half the registers; and of a loop over 64 bits
the compiler makes four rounds at once, for which it divides.
"""


def kernel_grid(tree: ast.expr, operands: tuple[str, ...], attributes: tuple[str, ...] = ()) -> str:
    """The GPU kernel of a formula, with the words of `formula.kernel_text`."""
    places = [2 + 3 * k for k in range(len(operands))]
    starts = " | ".join(["words[0]", *(f"words[{k}] * words[{k + 2}]" for k in places)])
    lines = ["def run(arena, words, size):", "    row, out = int32(words[1]), view(arena, words[0], real)"]
    lines += [f"    {name} = real(number_of(words[{2 + 3 * len(operands) + k}]))" for k, name in enumerate(attributes)]
    lines += [f"    p_{x}, row_{x}, column_{x} = view(arena, words[{k}], real), int32(words[{k + 1}]), int32(words[{k + 2}])"
              for x, k in zip(operands, places, strict=True)]
    lines += [f"    fours = uint32(size // 4 if ({starts}) & 15 == 0 and row & 3 == 0 else 0)", *FIRST.splitlines()]
    lines += ["    rest = uint32(4 * fours + at)", "    while at < fours:", *_place_of("4 * at"), *(line for x in operands for line in _four(x))]
    lines += [f"        put_four(out, uint32(4 * at), {', '.join(numbered(text_of(tree), k, operands) for k in range(4))})"]
    lines += [f"        {_go_on('at')}"]
    lines += ["    while rest < size:", *_place_of("rest")]
    lines += [f"        {x} = load(p_{x}, int32(line * row_{x} + place * column_{x}))" for x in operands]
    lines += [f"        store(out, rest, {text_of(tree)})", f"        {_go_on('rest')}"]
    return "\n".join(lines) + "\n"


def _go_on(name: str) -> str:
    return f"{name} = uint32({name} + step)"


def _place_of(number: str) -> list[str]:
    """The `line` that an element is in, where operands have rows, and its `place` there."""
    return [f"        line, place = int32(0), int32({number})", "        if row != 0:", "            line = int32(uint32(place) // uint32(row))",
            "            place = int32(place - line * row)"]


def _four(x: str) -> list[str]:
    """Four neighbours of an operand, or one number four times."""
    return [f"        if column_{x} == 1:", f"            {x}_0, {x}_1, {x}_2, {x}_3 = four_of(p_{x}, int32(line * row_{x} + place))",
            "        else:", f"            {x}_0 = load(p_{x}, int32(line * row_{x}))", f"            {x}_1, {x}_2, {x}_3 = {x}_0, {x}_0, {x}_0"]


def numbered(text: str, number: int, names: Iterable[str]) -> str:
    """A formula's text over the `number`-th of four: x is x_0.

    >>> numbered("x + exp(y)", 1, ("x", "y"))
    'x_1 + exp(y_1)'
    """
    known = set(names) - set(FUNCTIONS)
    return re.sub(r"[A-Za-z_]\w*", lambda found: f"{found[0]}_{number}" if found[0] in known else found[0], text)


def define_formula(name: str, tree: ast.expr, operands: tuple[str, ...], attributes: tuple[str, ...] = ()) -> None:
    """Add a formula's GPU kernel to the library."""
    define_grid(name, partial(kernel_grid, tree, operands, attributes), THREADS, UNITS)


def define_cast(name: str, source: str, target: str) -> None:
    """Add the GPU kernel that turns numbers of one type into those of another; words (out, 0, in, 0, 1)."""
    text = "\n".join([
        "def run(arena, words, size):", f"    out, x = view(arena, words[0], {target}), view(arena, words[2], {source})",
        "    fours = uint32(size // 4 if (words[0] | words[2]) & 15 == 0 else 0)", *FIRST.splitlines(), "    rest = uint32(4 * fours + at)",
        "    while at < fours:", *(f"        {line}" for line in (*_read_four(source), *_write_four(target), _go_on("at"))),
        "    while rest < size:", f"        store(out, rest, {target}(load(x, rest)))", f"        {_go_on('rest')}"])
    define_grid(name, text, THREADS, UNITS, wide="float64" in (source, target))


def _read_four(dtype: str) -> Sequence[str]:
    """Four numbers at 4 at; bytes come in one word."""
    if dtype != "uint8":
        return ["a, b, c, d = four_of(x, uint32(4 * at))"]
    return ["word = load(view(arena, words[2], int32), at)", *(f"{name} = uint8((word >> {8 * k}) & 255)" for k, name in enumerate("abcd"))]


def _write_four(dtype: str) -> Sequence[str]:
    if dtype != "uint8":
        return [f"put_four(out, uint32(4 * at), {', '.join(f'{dtype}({name})' for name in 'abcd')})"]
    parts = " | ".join(f"int64(uint8({name})) << {8 * k}" for k, name in enumerate("abcd"))
    return [f"word = {parts}", "store(view(arena, words[0], int32), at, int32(uint32(word)))"]
