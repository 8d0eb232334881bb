"""Recurrences over whole sequences, kept whole: rnn_tanh, rnn_relu, lstm, gru, gru_v3.

    (x [batch, steps, gates * units], w [units, gates * units], states [batch, states * units], lengths [batch]) -> [batch, steps, parts * units]

`x` are the sums of the input, made for all steps at once by an ordinary product; `w` are the recurrent weights. States before the first step are
zeros where they are left out. From its length on a row carries its states unchanged, the other parts are zeros; `reverse` walks from the last step
to the first. The output has what a cell keeps of each step, the state h first: a model takes a slice of it, and the way back the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from engine.core import FLOATS, Case, Launch, Node, Op, Sample, Scratch, Shape, apply, constant, register
from engine.errors import DtypeError, ShapeError
from engine.ops.indexing import INDEX_TYPES
from engine.ops.movement import move
from engine.ops.recurrent_cells import CELLS, RNN_RELU, Array, Cell, Parts, joined, split
from engine.ops.recurrent_grid import define_walks, place
from engine.ops.recurrent_kernels import define_cell

ROWS = 6        # of the batch that walk together: the tallest block of a product


def _optional(more: Sequence[Array]) -> tuple[Array | None, Array | None]:
    """States and lengths among the inputs that may be left out."""
    found = {str(x.dtype) in FLOATS: x for x in more}
    return found.get(True), found.get(False)


def _zeros(like: Array, shape: Shape) -> Array:
    return apply("broadcast", constant(0.0, like.dtype), shape=shape) if isinstance(like, Node) else np.zeros(shape, like.dtype)


def _walk(steps: int, reverse: bool) -> list[int]:
    return list(range(steps))[::-1] if reverse else list(range(steps))


# ---------------------------------------------------------------- meaning, of arrays and of nodes

def run(cell: Cell, x: Array, w: Array, *more: Array, reverse: bool = False) -> Array:
    """The parts of every step, step by step."""
    states, lengths = _optional(more)
    rows, steps, units = x.shape[0], x.shape[1], w.shape[0]
    held = split(_zeros(x, (rows, cell.states * units)) if states is None else states, cell.states)
    found: dict[int, Array] = {}
    for t in _walk(steps, reverse):
        parts = list(cell.step(x[:, t], held, w))
        if lengths is not None:
            on = _going_on(lengths, t, x)
            parts = [np.where(on, new, old) for new, old in zip(parts, [*held, *[0.0] * (cell.parts - cell.states)], strict=True)]
        held, found[t] = parts[:cell.states], joined(*parts)
    return np.stack([found[t] for t in range(steps)], axis=1)


def run_back(cell: Cell, d: Callable[[int], Parts], y: Array, w: Array, *more: Array, reverse: bool = False) -> Array:
    """The cotangent of x, and of the states where they are given, one row for each sequence. `d` gives those of the parts of a step."""
    states, lengths = _optional(more)
    rows, steps, units = y.shape[0], y.shape[1], w.shape[0]
    before = _before(cell, y, states, reverse)
    held: Parts = split(_zeros(y, (rows, cell.states * units)), cell.states)
    found: dict[int, Array] = {}
    for t in _walk(steps, not reverse):
        parts, given = split(y[:, t], cell.parts), d(t)
        every = [a + b for a, b in zip(held, given, strict=False)]
        dx, into = cell.back([*every, *given[cell.states:]], parts, [x[:, t] for x in before], w)
        if lengths is not None:
            on = _going_on(lengths, t, y)
            dx, into = np.where(on, dx, 0.0), [np.where(on, new, old) for new, old in zip(into, every, strict=True)]
        found[t], held = dx, into
    return joined(*(found[t] for t in range(steps)), *(held if states is not None else ()))


def _going_on(lengths: Array, t: int, like: Array) -> Array:
    return (lengths.astype(like.dtype) > t).reshape(-1, 1)


def _ons(lengths: Node, steps: int, dtype: str) -> Node:
    """1 where a row's sequence goes on and 0 where it has ended [batch, steps, 1]."""
    return (lengths.astype(dtype).reshape(-1, 1) > np.arange(steps, dtype=dtype)).reshape(-1, steps, 1)


def _before(cell: Cell, y: Array, states: Array | None, reverse: bool) -> list[Array]:
    """The states before each step [batch, steps, units]."""
    rows, size = y.shape[0], y.shape[2] // cell.parts * cell.states
    first = (_zeros(y, (rows, size)) if states is None else states).reshape(rows, 1, size)
    joint = np.concatenate([y[:, 1:, :size], first] if reverse else [first, y[:, :-1, :size]], axis=1)
    return split(joint, cell.states)


# ---------------------------------------------------------------- shapes and derivatives

def _check(name: str, cell: Cell, x: Node, size: int, w: Node, more: Sequence[Node]) -> None:
    units = w.shape[0] if w.ndim else 0
    if x.ndim != 3 or w.ndim != 2 or not x.shape[1] or w.shape[1] != cell.gates * units or x.shape[2] != size * units:
        raise ShapeError(f"{name} takes [batch, steps, {size} * units], of one step or more, and weights [units, {cell.gates} * units], "
                         f"found {list(x.shape)} and {list(w.shape)}")
    wanted = {True: (x.shape[0], cell.states * units), False: (x.shape[0],)}
    for node in more:
        if node.shape != wanted[node.dtype in FLOATS]:
            raise ShapeError(f"{name}: states are {list(wanted[True])} and lengths {list(wanted[False])}, found {node.dtype}{list(node.shape)}")
    wrong = [n.dtype for n in (x, w, *more) if n.dtype != x.dtype and n.dtype not in INDEX_TYPES]
    if wrong or x.dtype not in FLOATS:
        raise DtypeError(f"{name} takes floats of one type, and whole numbers as lengths; found {x.dtype} and {', '.join(wrong)}")


def _shape(cell: Cell) -> Callable[..., tuple[Shape, str]]:
    def shape(x: Node, w: Node, *more: Node, reverse: bool = False) -> tuple[Shape, str]:
        _check(cell.name, cell, x, cell.gates, w, more)
        return (*x.shape[:2], cell.parts * w.shape[0]), x.dtype

    return shape


def _back_shape(cell: Cell) -> Callable[..., tuple[Shape, str]]:
    def shape(ct: Node, y: Node, w: Node, *more: Node, reverse: bool = False, first: int = 0) -> tuple[Shape, str]:
        _check(f"{cell.name}_grad", cell, y, cell.parts, w, more)
        rows, steps, units = y.shape[0], y.shape[1], w.shape[0]
        return (rows, steps * cell.gates * units + (cell.states * units if _optional(more)[0] is not None else 0)), y.dtype

    return shape


def _vjp(cell: Cell, node: Node, ct: Node) -> list[Node | None]:
    x, w, *more = node.inputs
    (rows, steps, width), units, reverse = x.shape, w.shape[0], node.attrs["reverse"]
    states, lengths = _optional(more)
    seen = _of_states(ct, units)
    if seen is not None:
        back = apply(f"{cell.name}_grad", seen, node, w, *more, reverse=reverse, first=ct.attrs["start"][1])
        d: Parts = [0.0] * cell.parts
    else:
        back = run_back(cell, lambda t: split(ct[:, t], cell.parts), node, w, *more, reverse=reverse)
        d = split((ct if lengths is None else ct * _ons(lengths, steps, ct.dtype)).reshape(rows * steps, cell.parts * units), cell.parts)
    dx = back[:, :steps * width]
    if seen is not None and states is None and cell.scaled is not None:
        dw = apply("recurrent_weigh", dx, node, gates=cell.gates, parts=cell.parts, scaled=cell.scaled, reverse=reverse)
        return [dx.reshape(rows, steps, width), dw, *(None for _ in more)]
    before = [part.reshape(rows * steps, units) for part in _before(cell, node, states, reverse)]
    dw = cell.weigh(d, split(node.reshape(rows * steps, cell.parts * units), cell.parts), before, dx.reshape(rows * steps, width))
    return [dx.reshape(rows, steps, width), dw, *(back[:, steps * width:] if n.dtype in FLOATS else None for n in more)]


def _of_states(ct: Node, units: int) -> Node | None:
    """The cotangent of the states h of some steps, where that is all that a cotangent of the parts has."""
    if ct.op.name != "place" or ct.value is not None:
        return None
    part, start, step = ct.inputs[0], ct.attrs["start"], ct.attrs["step"]
    whole = start[0] == start[2] == 0 and part.shape[0] == ct.shape[0] and part.shape[2] == units and set(step or (1,)) == {1}
    return part if whole else None


def _compose_back(cell: Cell) -> Callable[..., Array]:
    def back(ct: Array, y: Array, w: Array, *more: Array, reverse: bool = False, first: int = 0) -> Array:
        def d(t: int) -> Parts:
            return [ct[:, t - first] if 0 <= t - first < ct.shape[1] else 0.0, *[0.0] * (cell.parts - 1)]

        return run_back(cell, d, y, w, *more, reverse=reverse)

    return back


# ---------------------------------------------------------------- launches

def _spread(w: Node, k: int, n: int, turn: bool) -> tuple[list[Launch], Node | Scratch, int, int]:
    """The weights, or those turned, as k rows of n columns: (launches, where, row stride, column stride). Panels of 16 columns lie end to end."""
    along, beside = (1, k) if turn else (n, 1)
    packed = n % 16 == 0 and (turn or k % 16 == 0)      # each gate, of k columns, begins a panel
    if not packed and not turn:
        return [], w, n, 1
    room = Scratch(w.size * np.dtype(w.dtype).itemsize)
    shape, steps = ((n // 16, k, 16), (16 * beside, along, beside)) if packed else ((k, n), (along, beside))
    return [move(w.dtype, room, w, shape, in_steps=steps)], room, 16 if packed else n, k if packed else 1


def _more_words(x: Node, more: Sequence[Node]) -> tuple[Any, ...]:
    states, lengths = _optional(more)
    return (x if states is None else states, int(states is not None), x if lengths is None else lengths,
            0 if lengths is None else np.dtype(lengths.dtype).itemsize)


def _blocks(like: Node, rows: int, units: int, blocks: int) -> Scratch:
    return Scratch(blocks * rows * units * np.dtype(like.dtype).itemsize)


def _cost(cell: Cell, steps: int, units: int) -> float:
    return steps * units * cell.gates * (1 + units / 50)


def _launch(cell: Cell) -> Callable[[Node], list[Launch]]:
    def launch(node: Node) -> list[Launch]:
        x, w, *more = node.inputs
        rows, steps, units = x.shape[0], x.shape[1], w.shape[0]
        made, at, ldb, across = _spread(w, units, cell.gates * units, False)
        words = (node, x, at, ldb, across, steps, units, int(node.attrs["reverse"]), *_more_words(x, more), _blocks(x, rows, units, cell.forward[0]))
        return [*made, Launch(cell.name, node.dtype, words, rows, grain=ROWS, cost=_cost(cell, steps, units))]

    return launch


def _back_launch(cell: Cell) -> Callable[[Node], list[Launch]]:
    def launch(node: Node) -> list[Launch]:
        ct, y, w, *more = node.inputs
        rows, steps, units = y.shape[0], y.shape[1], w.shape[0]
        made, at, ldb, across = _spread(w, cell.gates * units, units, True)
        words = (node, node.shape[1], y, at, ldb, across, steps, units, int(node.attrs["reverse"]), *_more_words(y, more), ct, node.attrs["first"],
                 ct.shape[1], _blocks(y, rows, units, cell.backward[0] + 2 * cell.states))
        return [*made, Launch(f"{cell.name}_grad", node.dtype, words, rows, grain=ROWS, cost=_cost(cell, steps, units))]

    return launch


def _walk_launch(cell: Cell) -> Callable[[Node], list[Launch]]:
    def launch(node: Node) -> list[Launch]:
        x, w, *more = node.inputs
        rows, steps, units = x.shape[0], x.shape[1], w.shape[0]
        kernel, room, groups = place(f"{cell.name}_walk", node.dtype, rows, units, cell.forward[0])
        words = (node, x, w, rows, steps, units, int(node.attrs["reverse"]), *_more_words(x, more), room)
        return [Launch(kernel, node.dtype, words, groups, cost=ROWS * _cost(cell, steps, units))]

    return launch


def _walk_back_launch(cell: Cell) -> Callable[[Node], list[Launch]]:
    def launch(node: Node) -> list[Launch]:
        ct, y, w, *more = node.inputs
        rows, steps, units = y.shape[0], y.shape[1], w.shape[0]
        turned = Scratch(w.size * np.dtype(w.dtype).itemsize)
        kernel, room, groups = place(f"{cell.name}_walk_back", node.dtype, rows, units, cell.backward[0] + cell.states)
        words = (node, node.shape[1], y, rows, steps, units, int(node.attrs["reverse"]), *_more_words(y, more), turned, ct, node.attrs["first"],
                 ct.shape[1], room)
        return [move(w.dtype, turned, w, w.shape[::-1], in_steps=(1, w.shape[1])),
                Launch(kernel, node.dtype, words, groups, cost=ROWS * _cost(cell, steps, units))]

    return launch


# ---------------------------------------------------------------- the ops

def _cases(cell: Cell, back: bool) -> tuple[Case, ...]:
    def case(name: str, rows: int, steps: int, units: int, *more: Sample, count: int = 0, gradient: bool = True, **attrs: Any) -> Case:
        first = (Sample((rows, count or steps, units)), Sample((rows, steps, cell.parts * units), 0.1, 0.9))
        inputs = (*(first if back else (Sample((rows, steps, cell.gates * units)),)), Sample((units, cell.gates * units), -0.5, 0.5), *more)
        return Case(name, inputs, attrs if back or "first" not in attrs else {k: v for k, v in attrs.items() if k != "first"}, gradient)

    smooth = back or cell is not RNN_RELU
    return (case("ragged", 7, 3, 5, gradient=smooth), case("whole vectors", 20, 2, 16, gradient=False), case("empty batch", 0, 2, 3),
            case("gates within a panel", 3, 3, 4, gradient=False), case("gates across panels", 3, 3, 12, gradient=False),
            case("one", 1, 1, 1), case("from states, backwards, of lengths", 7, 4, 3, Sample((7, cell.states * 3)), Sample((7,), 0, 5, "int32"),
                                       count=2, gradient=smooth, reverse=True, first=1))


def _register(cell: Cell) -> None:
    for define in (define_cell, define_walks):
        define(cell.name, cell.gates, cell.states, cell.parts, cell.forward, cell.backward)
    back = _compose_back(cell)
    register(Op(f"{cell.name}_grad", shape=_back_shape(cell), oracle=back, launch=_back_launch(cell),
                cuda=_walk_back_launch(cell), public=False, cases=_cases(cell, True),
                compose=lambda node: back(*node.inputs, **node.attrs), defaults={"reverse": False, "first": 0},
                description="The cotangent carried back to the sums of the input of each step, and to the states before the first."))
    register(Op(cell.name, shape=_shape(cell), oracle=lambda x, w, *more, reverse=False: run(cell, x, w, *more, reverse=reverse),
                launch=_launch(cell), cuda=_walk_launch(cell), vjp=lambda node, ct: _vjp(cell, node, ct), public=False, cases=_cases(cell, False),
                formula=cell.formula, compose=lambda node: run(cell, *node.inputs, **node.attrs), defaults={"reverse": False},
                description=f"From step to step {cell.formula}."))


for _cell in CELLS:
    _register(_cell)
