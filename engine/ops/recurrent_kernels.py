"""The kernels of recurrent ops: a few rows of the batch walk through all their steps, forwards or backwards, with what they carry close at hand.

Everything about a step is kept in blocks [rows, units] that lie end to end: forwards the parts (gate g is part `states + g`), backwards the gates.
So what a loop reads and what it writes lie apart for all rows together, which is what a compiler wants to see before it makes vectors.
A cell says what happens as text: products (`sums`, `turned`) and loops (`each`), in which
    p0, p1, ...: the blocks     x: the input's sums, forwards
    e0, e1: the cotangents of the states     y: the parts kept of this step     b: the states before, backwards
No loop has more than four arrays that are written, which is as many as a compiler takes the trouble to tell apart.
"""

# pyright: reportUndefinedVariable=false
from __future__ import annotations

from textwrap import indent

from engine.kernels.library import define

_FORWARD = """\
def run(arena, words, begin, end):
    # Words: parts, x, weights, their row stride and that of their columns, steps, units, whether they are walked backwards, states, whether there are
    # any, lengths, bytes of a length or 0, room.
    ldb, across, steps, units, lengths, wide = words[3], words[4], words[5], words[6], words[10], words[11]
    rows, width = end - begin, GATES * units
    size = rows * units * WIDTH
    room = words[12] + begin * BLOCKS * units * WIDTH
    for k in range(STATES):
        for row in range(rows):
            p = view(arena, room + k * size + row * units * WIDTH, real)
            first = view(arena, words[8] + ((begin + row) * STATES + k) * units * WIDTH, real)
            for u in range(units):
                store(p, u, load(first, u) if words[9] == 1 else 0.0)
    for step in range(steps):
        t = steps - 1 - step if words[7] == 1 else step
        given = words[1] + (begin * steps + t) * width * WIDTH
        depth = units if step > 0 or words[9] == 1 else 0
"""
_KEEP = """\
for row in range(rows):
    for k in range(PARTS):
        p = view(arena, room + k * size + row * units * WIDTH, real)
        y = view(arena, words[0] + (((begin + row) * steps + t) * PARTS + k) * units * WIDTH, real)
        for u in range(units):
            store(y, u, p[u])
"""
_BACKWARD = """\
def run(arena, words, begin, end):
    # Words: cotangent of x, its row stride, parts, weights turned, their row stride and that of their columns, steps, units, whether they are walked
    # backwards, states, whether there are any, lengths, bytes of a length or 0, cotangent of the states, of its first step, of how many, room.
    ldb, across, steps, units, lengths, wide, count = words[4], words[5], words[6], words[7], words[11], words[12], words[15]
    rows, width = end - begin, GATES * units
    size = rows * units * WIDTH
    room = words[16] + begin * (BLOCKS + 2 * STATES) * units * WIDTH
    held, nothing = room + BLOCKS * size, room + (BLOCKS + STATES) * size
    e = view(arena, held, real)
    for u in range(2 * STATES * rows * units):
        e[u] = 0.0
    for step in range(steps - 1, -1, -1):
        t, before = (steps - 1 - step, steps - step) if words[8] == 1 else (step, step - 1)
        place = t - words[14]
        if 0 <= place < count:
            for row in range(rows):
                e = view(arena, held + row * units * WIDTH, real)
                ct = view(arena, words[13] + ((begin + row) * count + place) * units * WIDTH, real)
                for u in range(units):
                    store(e, u, e[u] + load(ct, u))
"""
_END = """\
    if words[10] == 1:
        for k in range(STATES):
            for row in range(rows):
                e = view(arena, held + k * size + row * units * WIDTH, real)
                out = view(arena, words[0] + ((begin + row) * words[1] + steps * width + k * units) * WIDTH, real)
                for u in range(units):
                    store(out, u, e[u])
"""
KEEP_BACK = """\
for row in range(rows):
    for k in range(GATES):
        p = view(arena, room + k * size + row * units * WIDTH, real)
        x = view(arena, words[0] + ((begin + row) * words[1] + t * width + k * units) * WIDTH, real)
        for u in range(units):
            store(x, u, p[u])
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


def sums(first: int, last: int, start: str = "steps * width", of: int = 0) -> str:
    """The parts of gates [first, last): the input's sums (where `start` is not -1), and a block times the weights."""
    return f"""\
for gate in range({first}, {last}):
    product(arena, room + (STATES + gate) * size, units, given + gate * units * WIDTH, {start}, room + {of} * size, units,
            words[2] + gate * units * across * WIDTH, ldb, across, rows, depth, units)
"""


def turned(first: int, last: int, to: int | None = None) -> str:
    """The blocks of gates [first, last) times the turned weights: added to the cotangent of the first states, or put into a block."""
    target, start = ("held", "units") if to is None else (f"room + {to} * size", "-1")
    text = f"""\
for gate in range({first}, {last}):
    product(arena, {target}, units, {target}, {start}, room + gate * size, units, words[3] + gate * units * ldb * WIDTH, ldb, across,
            rows, units, units)
"""
    return text if to is not None else "if step > 0 or words[10] == 1:\n" + indent(text, "    ")


def each(*loops: str, blocks: int, back: bool = False) -> str:
    """What is done for each row: loops over its units, one after the other. A row that has ended keeps its states; its other blocks are zeros."""
    lines = [f"p{k} = view(arena, room + {k} * size + row * units * WIDTH, real)" for k in range(blocks)]
    if back:
        lines += ["e0, e1 = view(arena, held + row * units * WIDTH, real), view(arena, held + (STATES - 1) * size + row * units * WIDTH, real)",
                  "y = view(arena, words[2] + ((begin + row) * steps + t) * PARTS * units * WIDTH, real)",
                  "b = view(arena, words[2] + ((begin + row) * steps + before) * PARTS * units * WIDTH, real)",
                  "if step == 0:",
                  "    b = view(arena, words[9] + (begin + row) * STATES * units * WIDTH if words[10] == 1 else nothing, real)"]
    else:
        lines += ["x = view(arena, given + row * steps * width * WIDTH, real)"]
    text = "\n".join(lines) + "\n" + "".join("for u in range(units):\n" + indent(loop, "    ") for loop in loops)
    return f"""\
for row in range(rows):
    if wide == 0 or t < whole_number(arena, lengths, wide, begin + row):
{indent(text, " " * 8)}
    else:
        for k in range({0 if back else "STATES"}, {blocks}):
            p0 = view(arena, room + k * size + row * units * WIDTH, real)
            for u in range(units):
                store(p0, u, 0.0)
"""


def define_cell(name: str, gates: int, states: int, parts: int, forward: tuple[int, str], backward: tuple[int, str]) -> None:
    """Add the two kernels of a cell to the library; each is how many blocks it needs, and its text."""
    for kernel, blocks, text in ((name, forward[0], _FORWARD + indent(forward[1] + _KEEP, " " * 8)),
                                 (f"{name}_grad", backward[0], _BACKWARD + indent(backward[1], " " * 8) + _END)):
        for word, number in (("GATES", gates), ("STATES", states), ("PARTS", parts), ("BLOCKS", blocks)):
            text = text.replace(word, str(number))
        define(kernel, text, uses=(product,))
