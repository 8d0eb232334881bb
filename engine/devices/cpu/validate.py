"""TRAINYARD_VALIDATE=1: every row of a plan is run by itself and its value compared with the op's oracle; the first that differs is named."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby

import numpy as np

from engine.core import CONSTANT, FLOATS, LEAF, Node
from engine.devices.cpu.machine import Table
from engine.errors import DeviceError
from engine.ops.matmul_grid import precision_of
from engine.plan.plan import Plan, Row

TOLERANCE = {"float32": 1e-4, "float64": 1e-10}
ROUNDED = {"tf32": 2.0**-9, "bf16": 2.0**-6}     # of products whose operands are rounded: four times as much as one operand may be off


def validate(plan: Plan, arena: np.ndarray) -> int:
    """Run a plan's rows one by one on a copy of the arena, as it is before the plan; how many values agreed. Raises DeviceError as `compare` does."""
    table, copy = Table([plan]), arena.copy()

    def run(number: int) -> None:
        size = plan.rows[number].size
        table.groups[0] = (number, number + 1, size, max(size, 1), max(size, 1), 0, 0)
        table.run(copy, 0, 1)

    return compare(plan, copy, run)


def compare(plan: Plan, copy: np.ndarray, run: Callable[[int], None]) -> int:
    """Compare what `run` makes of each row, by its number, in a copy of the arena as it is before the plan; how many values agreed.

    Raises DeviceError where a kernel and its oracle differ by more than 1e-4 (float32), 1e-10 (float64), or what rounding operands costs, of the
    largest value.
    """
    agreed = 0
    for _, several in groupby(enumerate(plan.makers), key=lambda item: id(item[1])):     # the rows of one node follow each other
        rows = [number for number, _ in several]
        node = plan.makers[rows[0]]
        inputs = _inputs(plan, node, copy)
        for number in rows:
            run(number)
        tolerance = max(_tolerance(plan.rows[number], node.dtype) for number in rows)
        agreed += _agrees(plan, rows[-1], node, inputs, copy, tolerance)
    return agreed


def _tolerance(row: Row, dtype: str) -> float:
    """How far a row may be from its oracle, as a share of the largest value."""
    return ROUNDED.get(precision_of(row), TOLERANCE.get(dtype, 0.0))


def _inputs(plan: Plan, node: Node, arena: np.ndarray) -> list[np.ndarray] | None:
    """The values of a node's inputs, read before it is made; None for rows that belong to no op."""
    return None if node.op in (LEAF, CONSTANT) else [_read(plan, x, arena) for x in node.inputs]


def _read(plan: Plan, node: Node, arena: np.ndarray) -> np.ndarray:
    """A value in the arena; one that its user looks through (a broadcast) is made by its oracle."""
    at = plan.offsets.get(node)
    if at is None and node.op.name == "reshape":
        return _read(plan, node.inputs[0], arena).reshape(node.shape)
    if at is None:
        return np.asarray(node.op.oracle(*(_read(plan, x, arena) for x in node.inputs), **node.attrs))
    kind = np.dtype(node.dtype)
    return arena[at: at + node.size * kind.itemsize].view(kind).reshape(node.shape).copy()


def _agrees(plan: Plan, number: int, node: Node, inputs: list[np.ndarray] | None, arena: np.ndarray, tolerance: float) -> bool:
    if inputs is None or node.dtype not in FLOATS:
        return False
    wide = [x.astype(np.float64) if x.dtype.name in FLOATS else x for x in inputs]
    with np.errstate(all="ignore"):
        expected = np.asarray(node.op.oracle(*wide, **node.attrs), np.float64)
    found = _read(plan, node, arena).astype(np.float64)
    finite = np.isfinite(expected)
    scale = np.abs(expected[finite]).max(initial=1.0)
    if (np.isfinite(found) != finite).any() or np.abs(found - expected)[finite].max(initial=0.0) > tolerance * scale:
        worst = np.abs(np.where(finite, found - expected, 0)).max(initial=0.0)
        raise DeviceError(f"row {number}, kernel {plan.rows[number].kernel!r} for {node!r}: it differs from its oracle by {worst:.3g}, "
                          f"more than {tolerance:g} of {scale:.3g}")
    return True
