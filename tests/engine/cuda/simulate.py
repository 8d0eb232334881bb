"""Kernels in numba's simulator of a GPU, which must be chosen before numba is imported: a test file here runs itself again in a process that did so.

    inside, test_in_the_simulator = simulator(__file__)

`@inside` marks the tests that run there and are skipped here; the other one, which runs here, starts that process: always for some cases of each op
(see conftest.py), and as a slow test for all of them.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
import pytest

from engine.core import OPS, Case, Node, Op
from engine.kernels import grid, library
from engine.plan.plan import Plan, make
from tests.engine.test_ops import assert_near, use

SIMULATING = os.environ.get("NUMBA_ENABLE_CUDASIM") == "1"
TOLERANCE = {"float32": 5e-6, "float64": 1e-12}
MOST_BLOCKS, MOST_THREADS = 2, 64     # of the simulator, where each thread is one of Python's
POISON = 0xA5                         # the bytes of an arena before anything is written


def simulator(file: str) -> tuple[pytest.MarkDecorator, Callable[[str], None]]:
    """(mark for the tests of a file, a test that runs that file in the simulator)."""
    @pytest.mark.skipif(SIMULATING, reason="this is the simulator")
    @pytest.mark.parametrize("which", ["not slow", pytest.param("slow or not slow", marks=[pytest.mark.slow, pytest.mark.timeout(1800)])])
    def test_in_the_simulator(which: str) -> None:
        pytest.importorskip("cuda.core", reason="numba-cuda is not installed")
        command = [sys.executable, "-m", "pytest", file, "-q", "-n0", "-x", "--no-header", "-p", "no:cacheprovider", "-m", which]
        done = subprocess.run(command, env={**os.environ, "NUMBA_ENABLE_CUDASIM": "1"}, capture_output=True, text=True, timeout=1800)
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]

    return pytest.mark.skipif(not SIMULATING, reason="runs in the simulator, as a process of its own"), test_in_the_simulator


def table(*names: str) -> list[Any]:
    """Parameters (op, case) of all cases of some ops, small ones only: the simulator is some 100,000 times slower than a GPU."""
    return [pytest.param(OPS[name], case, id=f"{name}: {case.name}") for name in names for case in OPS[name].cases if work(OPS[name], case) <= 40_000]


def work(op: Op, case: Case) -> int:
    """Numbers that a case has in all."""
    node, _ = use(op, case, "float32")
    return node.size + sum(x.size for x in node.inputs)


def check(op: Op, case: Case, dtype: str = "float32", *, most_blocks: int = MOST_BLOCKS) -> None:
    """Run the CUDA launches of an op in the simulator, on an arena of garbage, and compare with the oracle; twice, for the same bits."""
    node, values = use(op, case, dtype)
    wide = [v.astype("float64") if v.dtype.kind == "f" else v for v in values.values()]
    with np.errstate(all="ignore"):
        expected = np.asarray(op.oracle(*wide, **node.attrs))
    found = run(node, values, most_blocks)
    assert_near(found, expected, TOLERANCE.get(node.dtype, 0.0))
    np.testing.assert_array_equal(run(node, values, 1), found)


def run(node: Node, values: dict[Node, np.ndarray], most_blocks: int = MOST_BLOCKS) -> np.ndarray:
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
    run_plan(plan, arena, most_blocks)
    at, kind = plan.at(node), np.dtype(node.dtype)
    return arena[at: at + node.size * kind.itemsize].view(kind).reshape(node.shape).copy()


def aligned(nbytes: int) -> np.ndarray:
    raw = np.zeros(nbytes + 64, np.uint8)
    return raw[-raw.ctypes.data % 64:][:nbytes]


def run_plan(plan: Plan, arena: np.ndarray, most_blocks: int = MOST_BLOCKS) -> None:
    """Every row of a plan, one launch after the other."""
    for row in plan.rows:
        words = np.array([word if isinstance(word, int) else word.array.ctypes.data for word in row.words], np.int64)  # type: ignore[union-attr]
        launch(row.kernel, row.dtype, arena, words, row.size, row.grain, most_blocks)


def launch(name: str, dtype: str, arena: np.ndarray, words: np.ndarray, size: int, grain: int = 1, most_blocks: int = MOST_BLOCKS) -> None:
    """One launch in the simulator, of few blocks and, where the kernel lets threads work by themselves, few threads."""
    twins: Any = import_module("engine.kernels.simulated")
    import_module("tests.engine.cuda.blocks")
    blocks, threads = grid.shape(name, size, grain, most_blocks)
    twins.begin()
    with np.errstate(all="ignore"):
        _kernel(name, dtype)[blocks, min(threads, MOST_THREADS)](arena, words, size, grain, 0, 0)


@cache
def _kernel(name: str, dtype: str) -> Any:
    from numba import cuda

    module = library.load_module(f"simulated_{name.replace('.', '_')}_{dtype}", grid.source(name, dtype, simulated=True))
    return cuda.jit(module.run)
