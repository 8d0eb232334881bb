"""The GPU's kernels of recurrent ops: a block of threads takes four rows of the batch through all steps in one launch.

The blocks [rows, units] of a step (see `recurrent_stages`) lie side by side in each of the four rows, in shared memory, or in the arena where they
are too many for it. Products give a thread a column, of which it makes all four rows, so that weights are read once for four; where columns are few,
threads share the depth of a column and add up their parts in order. All else gives a thread a unit of a row, from a stage to the next.
"""

# pyright: reportUndefinedVariable=false
from __future__ import annotations

import ast
from textwrap import indent

import numpy as np

from engine.core import Scratch
from engine.kernels.grid import define_grid
from engine.ops.recurrent_stages import Each, Keep, Sums, Turned, Walk

ROWS = 4
THREADS = 256
SHARED = 49152      # bytes that a block of threads can have

_START = """\
def run(arena, words, size):
    # Words: forwards parts, x, weights; back the cotangent of x, its row stride, parts. Then rows, steps, units, whether they are walked backwards,
    # states, whether there are any, lengths, bytes of a length or 0; forwards room; back weights turned, cotangent of the states, of its first step,
    # of how many, room.
    rows, steps, units, lengths, wide = words[3], words[4], words[5], words[9], words[10]
    thread, threads, width, stride = cuda.threadIdx.x, cuda.blockDim.x, GATES * units, STRIDE * units
    {shared}
    for group in range(cuda.blockIdx.x, size, cuda.gridDim.x):
        first = group * 4
        count = min(4, rows - first)
        {arena}
"""
_SHARED = "room = view_of(cuda.shared.array(49152, uint8, alignment=16), real)"
_ARENA = "room = view(arena, words[{word}] + group * 4 * (stride + THREADS) * WIDTH, real)"


def _items(text: str) -> str:
    """What is done for each unit u of each row: always by the same thread."""
    return f"""\
item = thread
while item < 4 * units:
    row = int64(uint32(item) // uint32(units))
    u = item - row * units
    at = row * stride + u
{indent(text, "    ")}    item += threads
"""


_FORWARD = _items("""\
for k in range(STATES):
    room[at + k * units] = 0.0
    if words[8] == 1 and row < count:
        room[at + k * units] = view(arena, words[7] + ((first + row) * STATES + k) * units * WIDTH, real)[u]
""") + """\
for step in range(steps):
    t = steps - 1 - step if words[6] == 1 else step
    given = words[1] + (first * steps + t) * width * WIDTH
    depth = units if step > 0 or words[8] == 1 else 0
"""
_KEEP = """\
if row < count:
    y = view(arena, words[0] + ((first + row) * steps + t) * PARTS * units * WIDTH, real)
    for k in range(PARTS):
        y[k * units + u] = room[at + k * units]
"""
_BACKWARD = _items("""\
for k in range(STATES):
    room[at + (BLOCKS + k) * units] = 0.0
""") + """\
for step in range(steps - 1, -1, -1):
    t, before = (steps - 1 - step, steps - step) if words[6] == 1 else (step, step - 1)
    place, carried = t - words[13], step > 0 or words[8] == 1
"""
_ADD = """\
if row < count and 0 <= place < words[14]:
    room[at + BLOCKS * units] += view(arena, words[12] + ((first + row) * words[14] + place) * units * WIDTH, real)[u]
"""
_KEEP_BACK = """\
if row < count:
    x = view(arena, words[0] + ((first + row) * words[1] + t * width) * WIDTH, real)
    for k in range(GATES):
        x[k * units + u] = room[at + k * units]
"""
_END = "if words[8] == 1:\n" + indent(_items("""\
if row < count:
    out = view(arena, words[0] + ((first + row) * words[1] + steps * width) * WIDTH, real)
    for k in range(STATES):
        out[k * units + u] = room[at + (BLOCKS + k) * units]
"""), "    ")


def dots(arena, room, stride, at, w, ldw, depth):
    """The sums over k < depth of room[r, at + k] * w[k] for the four rows r, where a w is `ldw` elements after the one before."""
    a0 = a1 = a2 = a3 = real(0)
    w = view(arena, w, real)
    whole = depth >> 2 << 2 if ((stride | at) & 3) == 0 else 0
    for k in range(0, whole, 4):
        w0, w1, w2, w3 = w[k * ldw], w[(k + 1) * ldw], w[(k + 2) * ldw], w[(k + 3) * ldw]
        r0, r1, r2, r3 = four_of(room, at + k)
        a0 = a0 + r0 * w0 + r1 * w1 + r2 * w2 + r3 * w3
        r0, r1, r2, r3 = four_of(room, at + k + stride)
        a1 = a1 + r0 * w0 + r1 * w1 + r2 * w2 + r3 * w3
        r0, r1, r2, r3 = four_of(room, at + k + 2 * stride)
        a2 = a2 + r0 * w0 + r1 * w1 + r2 * w2 + r3 * w3
        r0, r1, r2, r3 = four_of(room, at + k + 3 * stride)
        a3 = a3 + r0 * w0 + r1 * w1 + r2 * w2 + r3 * w3
    for k in range(whole, depth):
        value, i = w[k * ldw], at + k
        a0 += room[i] * value
        a1 += room[i + stride] * value
        a2 += room[i + 2 * stride] * value
        a3 += room[i + 3 * stride] * value
    return a0, a1, a2, a3


def starts(room, stride, at, x, ldx, count):
    """What the four sums begin with: elements of x, `ldx` apart, of the first `count` rows, or what is in the room where that is -1."""
    if count < 0:
        return room[at], room[at + stride], room[at + 2 * stride], room[at + 3 * stride]
    nought = real(0)
    return (x[0] if count > 0 else nought, x[ldx] if count > 1 else nought, x[2 * ldx] if count > 2 else nought, x[3 * ldx] if count > 3 else nought)


def multiply(arena, room, stride, of, to, w, ldw, depth, columns, x, ldx, given, count):
    """room[r, to + c] = start + sum over k < depth of room[r, of + k] * w[k, c]; columns from `given` on start from nothing (see `starts`)."""
    thread, threads = cuda.threadIdx.x, cuda.blockDim.x
    slices = max(1, min(int64(uint32(threads) // uint32(columns)), depth >> 4))
    slice, c, begin, end, place, apart, part = 0, int64(thread), 0, depth, to, stride, 4 * stride
    if slices > 1:
        share = (int64(uint32(depth + slices - 1) // uint32(slices)) + 3) >> 2 << 2
        slice = int64(uint32(thread) // uint32(columns))
        begin = min(depth, slice * share)
        c, end = thread - slice * columns if slice < slices else columns, min(depth, begin + share)
        place, apart = part + slice * columns, threads
    while c < columns:
        s0, s1, s2, s3 = starts(room, stride, to + c, view(arena, x + c * WIDTH, real), ldx, count if slice == 0 and c < given else 0)
        a0, a1, a2, a3 = dots(arena, room, stride, of + begin, w + (begin * ldw + c) * WIDTH, ldw, end - begin)
        room[place + c], room[place + c + apart] = s0 + a0, s1 + a1
        room[place + c + 2 * apart], room[place + c + 3 * apart] = s2 + a2, s3 + a3
        c += threads
    if slices > 1:
        cuda.syncthreads()
        if thread < columns:
            for r in range(4):
                total = room[part + r * threads + thread]
                for other in range(thread + columns, slices * columns, columns):
                    total += room[part + r * threads + other]
                room[to + thread + r * stride] = total


class _OfARow(ast.NodeTransformer):
    """The loops of a cell with the blocks of a row in the room, and zeros as the states before the first step where none are given."""

    def __init__(self, blocks: int, states: int) -> None:
        self.places = {**{f"p{k}": k for k in range(blocks)}, "e0": blocks, "e1": blocks + states - 1}

    def _place(self, name: ast.expr) -> ast.expr | None:
        found = self.places.get(name.id) if isinstance(name, ast.Name) else None
        return None if found is None else ast.parse(f"room[at + {found} * units]", mode="eval").body

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        return self._place(node.value) or node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if ast.unparse(node.func) != "load":
            return node
        if ast.unparse(node.args[0]) == "b":
            return ast.IfExp(ast.Name("carried", ast.Load()), node, ast.Constant(0.0))
        return self._place(node.args[0]) or node

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        call = node.value
        assert isinstance(call, ast.Call) and ast.unparse(call.func) == "store", "a loop of a cell says `store` and makes names"
        target = self._place(call.args[0])
        assert target is not None, "a cell stores into its blocks"
        return ast.Assign([target], self.visit(call.args[2]))


def _product(stage: Sums | Turned) -> str:
    """A product of all threads together; what it reads is there, and what it makes is there afterwards."""
    if isinstance(stage, Sums):
        first, columns = stage.first, stage.last - stage.first
        given = columns if stage.given is None else max(0, min(columns, stage.given - first))
        text = (f"multiply(arena, room, stride, {stage.of} * units, (STATES + {first}) * units, words[2] + {first} * units * WIDTH, width, depth, "
                f"{columns} * units, given + {first} * units * WIDTH, steps * width, {given} * units, count)\n")
    else:
        first, depth = stage.first, stage.last - stage.first
        to, start = ("BLOCKS", "units") if stage.to is None else (str(stage.to), "0")
        text = (f"multiply(arena, room, stride, {first} * units, {to} * units, words[11] + {first} * units * units * WIDTH, units, {depth} * units, "
                f"units, 0, 0, {start}, -1)\n")
        text = text if stage.to is not None else "if carried:\n" + indent(text, "    ")
    return f"cuda.syncthreads()\n{text}cuda.syncthreads()\n"


def _each(stage: Each, blocks: int, states: int, back: bool) -> str:
    tree = _OfARow(blocks, states).visit(ast.parse("".join(stage.loops)))
    text = ast.unparse(ast.fix_missing_locations(tree))
    where = ["x = view(arena, given + row * steps * width * WIDTH, real)"]
    if back:
        where = ["y = view(arena, words[2] + ((first + row) * steps + t) * PARTS * units * WIDTH, real)",
                 "b = view(arena, words[2] + ((first + row) * steps + before) * PARTS * units * WIDTH if step > 0 else "
                 "words[7] + (first + row) * STATES * units * WIDTH, real)"]
    return f"""\
if row < count and (wide == 0 or t < whole_number(arena, lengths, wide, first + row)):
{indent(chr(10).join([*where, text]), "    ")}
else:
    for k in range({0 if back else states}, {blocks}):
        room[at + k * units] = 0.0
"""


def _body(walk: Walk, states: int, back: bool) -> str:
    """A step's stages. Those that give a thread a unit, one after the other, are one loop."""
    blocks, *stages = walk
    text, items = "", _ADD if back else ""
    for stage in stages:
        if isinstance(stage, Sums | Turned):
            text, items = text + (_items(items) if items else "") + _product(stage), ""
        else:
            items += _KEEP_BACK if isinstance(stage, Keep) else _each(stage, blocks, states, back)
    items += "" if back else _KEEP
    return text + (_items(items) if items else "")


def define_walks(name: str, gates: int, states: int, parts: int, forward: Walk, backward: Walk) -> None:
    """Add a cell's GPU kernels: forwards and backwards, with blocks in shared memory and (`_far`) in the arena."""
    for kernel, walk, back in ((f"{name}_walk", forward, False), (f"{name}_walk_back", backward, True)):
        body = (_BACKWARD if back else _FORWARD) + indent(_body(walk, states, back), "    ") + (_END if back else "")
        for suffix, shared, arena in (("", _SHARED, ""), ("_far", "", _ARENA.format(word=15 if back else 11))):
            text = _START.format(shared=shared, arena=arena) + indent(body, " " * 8)
            for word, number in (("GATES", gates), ("STATES", states), ("PARTS", parts), ("BLOCKS", walk[0]), ("THREADS", THREADS),
                                 ("STRIDE", walk[0] + states * back)):
                text = text.replace(word, str(number))
            define_grid(kernel + suffix, text, THREADS, uses=(dots, starts, multiply))


def place(kernel: str, dtype: str, rows: int, units: int, blocks: int) -> tuple[str, Scratch | int, int]:
    """(kernel, room in the arena or 0, groups of four rows) for `blocks` of each row."""
    groups, width = -(-rows // ROWS), np.dtype(dtype).itemsize
    parts = THREADS if 2 * units <= THREADS else 0       # of sums, where threads share the depth of a column
    if ROWS * (blocks * units + parts) * width <= SHARED:
        return kernel, 0, groups
    return f"{kernel}_far", Scratch(groups * ROWS * (blocks * units + THREADS) * width), groups
