"""Kernels in numba's simulator of a GPU, which must be chosen before numba is imported: `test_simulator.py` runs the files named test_sim_* in a
process that did so. What is marked `inside` runs there, and is skipped here. By hand:

    NUMBA_ENABLE_CUDASIM=1 python -m pytest -n0 tests/engine/cuda/test_sim_losses.py
"""

from __future__ import annotations

import os
from collections import defaultdict
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
import pytest

from engine.core import OPS, Case, Node, Op
from engine.kernels import grid, library
from engine.plan.plan import Plan, make
from tests.engine.cuda.turns import taking_turns
from tests.engine.test_ops import assert_near, use

SIMULATING = os.environ.get("NUMBA_ENABLE_CUDASIM") == "1"
TOLERANCE = {"float32": 5e-6, "float64": 1e-12}
MOST_BLOCKS, MOST_THREADS = 2, 64     # of the simulator, where each thread is one of Python's
POISON = 0xA5                         # the bytes of an arena before anything is written
RAGGED = (0, 1, 31, 33)

inside = pytest.mark.skipif(not SIMULATING, reason="runs in the simulator, as a process of its own")
launched: defaultdict[tuple[str, str], set[int]] = defaultdict(set)
"""The sizes of launches so far, by kernel and number type."""


def table(*names: str) -> list[Any]:
    """Parameters (op, case) of all cases of some ops, small ones only: the simulator is some 100,000 times slower than a GPU."""
    return [pytest.param(OPS[name], case, id=f"{name}: {case.name}") for name in names for case in OPS[name].cases if work(OPS[name], case) <= 40_000]


def work(op: Op, case: Case) -> int:
    """Numbers that a case has in all."""
    node, _ = use(op, case, "float32")
    return node.size + sum(x.size for x in node.inputs)


def check(op: Op, case: Case, dtype: str = "float32", *, most_blocks: int = MOST_BLOCKS) -> None:
    """Run the CUDA launches of an op in the simulator, on an arena of garbage, and compare with the oracle; and once more with threads in the
    other order, for the same bits.
    """
    node, values = use(op, case, dtype)
    wide = [v.astype("float64") if v.dtype.kind == "f" else v for v in values.values()]
    with np.errstate(all="ignore"):
        expected = np.asarray(op.oracle(*wide, **node.attrs))
    found = run(node, values, most_blocks)
    assert_near(found, expected, TOLERANCE.get(node.dtype, 0.0))
    np.testing.assert_array_equal(run(node, values, 1, backwards=True), found)


def run(node: Node, values: dict[Node, np.ndarray], most_blocks: int = MOST_BLOCKS, backwards: bool = False) -> np.ndarray:
    """The value of a node by the simulator."""
    placed, cursor = {}, 0
    for leaf, value in values.items():
        placed[leaf] = cursor
        cursor += (value.nbytes + 127) // 64 * 64
    plan = make([node], placed, cursor, device="cuda")
    arena = aligned(cursor + plan.nbytes + 64)
    arena[:] = POISON
    for leaf, value in values.items():
        arena[placed[leaf]: placed[leaf] + value.nbytes] = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
    for offset, value in plan.fixed:
        arena[offset: offset + value.nbytes] = value.reshape(-1).view(np.uint8)
    run_plan(plan, arena, most_blocks, backwards)
    at, kind = plan.at(node), np.dtype(node.dtype)
    return arena[at: at + node.size * kind.itemsize].view(kind).reshape(node.shape).copy()


def aligned(nbytes: int) -> np.ndarray:
    raw = np.zeros(nbytes + 64, np.uint8)
    return raw[-raw.ctypes.data % 64:][:nbytes]


def run_plan(plan: Plan, arena: np.ndarray, most_blocks: int = MOST_BLOCKS, backwards: bool = False) -> None:
    """Every row of a plan, one launch after the other."""
    for row in plan.rows:
        words = np.array([word if isinstance(word, int) else word.array.ctypes.data for word in row.words], np.int64)  # type: ignore[union-attr]
        launch(row.kernel, row.dtype, arena, words, row.size, row.grain, most_blocks, backwards)


def launch(name: str, dtype: str, arena: np.ndarray, words: np.ndarray, size: int, grain: int = 1, most_blocks: int = MOST_BLOCKS,
           backwards: bool = False) -> None:
    """One launch in the simulator, of few blocks and, where the kernel lets threads work by themselves, few threads."""
    turn: Any = import_module("tests.engine.cuda.blocks").now
    blocks, threads = grid.shape(name, size, grain, most_blocks)
    launched[name, dtype].add(size)
    turn.backwards = backwards
    with np.errstate(all="ignore"):
        _kernel(name, dtype)[blocks, min(threads, MOST_THREADS)](arena, words, size, grain, 0, 0)


@cache
def _kernel(name: str, dtype: str) -> Any:
    from numba import cuda

    text = taking_turns(grid.source(name, dtype, simulated=True))
    return cuda.jit(library.load_module(f"simulated_{name.replace('.', '_')}_{dtype}", text).run)
