"""The kernels of recurrent ops: a chunk of the batch walks through all its steps, forwards or backwards, with its states in a room of its own.

A cell gives what happens in one step as text: products (`sums`, `turned`) and loops over units (`loop`, `loop_back`), in which
    x: the input's sums of this step, or their cotangent    y: the parts kept of this step      on: whether the row's sequence goes on here
    v: the sums with those of the states                    h: the states, first those before, and what is stored there those after
    a: the cotangent of what the weights made               e: the cotangent of the states      b: the states before
"""

# pyright: reportUndefinedVariable=false
from __future__ import annotations

from textwrap import indent

from engine.kernels.library import define

_POINTERS = """\
for row in range(rows):
    on = wide == 0 or t < whole_number(arena, lengths, wide, begin + row)
    y = view(arena, kept + ((begin + row) * steps + t) * PARTS * units * WIDTH, real)
"""
_FORWARD = """\
def run(arena, words, begin, end):
    # Words: parts, x, weights, their row stride and that of their columns, steps, units, whether they are walked backwards, states, whether there are
    # any, lengths, bytes of a length or 0, room.
    kept, ldb, across, steps, units, lengths, wide = words[0], words[3], words[4], words[5], words[6], words[10], words[11]
    rows, width = end - begin, GATES * units
    held = words[12] + begin * (STATES + GATES) * units * WIDTH
    summed = held + rows * STATES * units * WIDTH
    h, first = view(arena, held, real), view(arena, words[8] + begin * STATES * units * WIDTH, real)
    for u in range(rows * STATES * units):
        h[u] = first[u] if words[9] == 1 else 0.0
    for step in range(steps):
        t = steps - 1 - step if words[7] == 1 else step
        given = words[1] + (begin * steps + t) * width * WIDTH
        depth = units if step > 0 or words[9] == 1 else 0
"""
_BACKWARD = """\
def run(arena, words, begin, end):
    # Words: cotangent of x, its row stride, parts, weights turned, their row stride and that of their columns, steps, units, whether they are walked
    # backwards, states, whether there are any, lengths, bytes of a length or 0, cotangent of the states, of its first step, of how many, room.
    kept, ldb, across, steps, units, lengths, wide = words[2], words[4], words[5], words[6], words[7], words[11], words[12]
    rows, width, count = end - begin, GATES * units, words[15]
    held = words[16] + begin * (2 * STATES + GATES) * units * WIDTH
    nothing = held + rows * STATES * units * WIDTH
    made = nothing + rows * STATES * units * WIDTH
    e = view(arena, held, real)
    for u in range(2 * rows * STATES * units):
        e[u] = 0.0
    for step in range(steps - 1, -1, -1):
        t, before = (steps - 1 - step, steps - step) if words[8] == 1 else (step, step - 1)
        place = t - words[14]
        if 0 <= place < count:
            for row in range(rows):
                e = view(arena, held + row * STATES * units * WIDTH, real)
                ct = view(arena, words[13] + ((begin + row) * count + place) * units * WIDTH, real)
                for u in range(units):
                    store(e, u, load(e, u) + load(ct, u))
"""
_END = """\
    if words[10] == 1:
        for row in range(rows):
            e = view(arena, held + row * STATES * units * WIDTH, real)
            out = view(arena, words[0] + ((begin + row) * words[1] + steps * width) * WIDTH, real)
            for u in range(STATES * units):
                store(out, u, load(e, u))
"""


def product(arena, c, ldc, s, lds, a, lda, b, ldb, across, rows, k, columns):
    """C = S + A B from byte offsets; a row of B is `ldb` elements after the one before, a column `across` times its number from the first."""
    for j in range(0, columns, 16):
        right = view(arena, b + j * across * WIDTH, real)
        i = 0
        while i < rows:
            rest = rows - i
            height = 6 if rest > 9 or rest == 6 else (rest + 1) // 2 if rest > 6 else rest
            tile(16, view(arena, c + (i * ldc + j) * WIDTH, real), ldc, view(arena, s + (i * lds + j) * WIDTH, real), lds,
                 view(arena, a + i * lda * WIDTH, real), lda, 1, right, ldb, height, k, min(16, columns - j))
            i += height


def sums(first: int, gates: int, *, start: bool = True, of: str = "held") -> str:
    """Columns of v: those of x, or nothing, and the states (or the first columns of v) times the weights."""
    at = f"{first} * units"
    return (f"product(arena, summed + {at} * WIDTH, width, given + {at} * WIDTH, {'steps * width' if start else '-1'}, "
            f"{of}, {'STATES * units' if of == 'held' else 'width'}, words[2] + {at} * across * WIDTH, ldb, across, rows, depth, {gates} * units)\n")


def turned(first: int, gates: int, *, to: str = "held") -> str:
    """Columns of a times the turned weights: added to the cotangent of the first states, or put into the first columns of a."""
    ldc, lds = ("STATES * units", "STATES * units") if to == "held" else ("width", "-1")
    text = (f"product(arena, {to}, {ldc}, {to}, {lds}, made + {first} * units * WIDTH, width, words[3] + {first} * units * ldb * WIDTH, ldb, across, "
            f"rows, {gates} * units, units)\n")
    return f"if step > 0 or words[10] == 1:\n    {text}" if to == "held" else text


def loop(lines: str) -> str:
    """What is done for each unit of each row, forwards."""
    return _POINTERS + indent("""\
x = view(arena, given + row * steps * width * WIDTH, real)
h = view(arena, held + row * STATES * units * WIDTH, real)
v = view(arena, summed + row * width * WIDTH, real)
for u in range(units):
""" + indent(lines, "    "), "    ")


def loop_back(lines: str) -> str:
    """What is done for each unit of each row, backwards."""
    return _POINTERS + indent("""\
x = view(arena, words[0] + ((begin + row) * words[1] + t * width) * WIDTH, real)
e = view(arena, held + row * STATES * units * WIDTH, real)
a = view(arena, made + row * width * WIDTH, real)
b = view(arena, kept + ((begin + row) * steps + before) * PARTS * units * WIDTH, real)
if step == 0:
    b = view(arena, words[9] + (begin + row) * STATES * units * WIDTH if words[10] == 1 else nothing, real)
for u in range(units):
""" + indent(lines, "    "), "    ")


def define_cell(name: str, gates: int, states: int, parts: int, forward: str, backward: str) -> None:
    """Add the two kernels of a cell to the library."""
    for kernel, text in ((name, _FORWARD + indent(forward, " " * 8)), (f"{name}_grad", _BACKWARD + indent(backward, " " * 8) + _END)):
        for word, number in (("GATES", gates), ("STATES", states), ("PARTS", parts)):
            text = text.replace(word, str(number))
        define(kernel, text, uses=(product,))
