"""The CPU's kernels of recurrent ops: a few rows of the batch walk through all their steps, forwards or back, with what they carry at hand.

The blocks [rows, units] of a step (see `recurrent_stages`) lie end to end. So what a loop reads and what it writes lie apart for all rows together,
which is what a compiler wants to see before it makes vectors.
"""

# pyright: reportUndefinedVariable=false
from __future__ import annotations

from collections.abc import Sequence
from textwrap import indent

from engine.kernels.library import define
from engine.ops.recurrent_stages import Each, Keep, Stage, Sums, Turned, Walk

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
_KEEP_BACK = """\
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


def _text(stage: Stage, blocks: int, back: bool) -> str:
    """What a stage of a step does, for the rows of a range."""
    match stage:
        case Sums():
            return _sums(stage)
        case Turned():
            return _turned(stage)
        case Each(loops):
            return _each(loops, blocks, back)
        case Keep():
            return _KEEP_BACK


def _sums(stage: Sums) -> str:
    start = "steps * width" if stage.given is None else "-1" if stage.given <= stage.first else f"steps * width if gate < {stage.given} else -1"
    return f"""\
for gate in range({stage.first}, {stage.last}):
    product(arena, room + (STATES + gate) * size, units, given + gate * units * WIDTH, {start}, room + {stage.of} * size, units,
            words[2] + gate * units * across * WIDTH, ldb, across, rows, depth, units)
"""


def _turned(stage: Turned) -> str:
    target, start = ("held", "units") if stage.to is None else (f"room + {stage.to} * size", "-1")
    text = f"""\
for gate in range({stage.first}, {stage.last}):
    product(arena, {target}, units, {target}, {start}, room + gate * size, units, words[3] + gate * units * ldb * WIDTH, ldb, across,
            rows, units, units)
"""
    return text if stage.to is not None else "if step > 0 or words[10] == 1:\n" + indent(text, "    ")


def _each(loops: Sequence[str], blocks: int, back: bool) -> str:
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


def define_cell(name: str, gates: int, states: int, parts: int, forward: Walk, backward: Walk) -> None:
    """Add the two kernels of a cell to the library; each is how many blocks it needs, and its stages."""
    for kernel, (blocks, *stages), start, end, back in ((name, forward, _FORWARD, indent(_KEEP, " " * 8), False),
                                                        (f"{name}_grad", backward, _BACKWARD, _END, True)):
        text = start + indent("".join(_text(stage, blocks, back) for stage in stages), " " * 8) + end
        for word, number in (("GATES", gates), ("STATES", states), ("PARTS", parts), ("BLOCKS", blocks)):
            text = text.replace(word, str(number))
        define(kernel, text, uses=(product,))
