"""Every kernel runs in numba's simulator on every change: all cases of all test_sim_* files, in a process of its own, whose last test looks back."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from engine.core import FLOATS
from engine.kernels import grid
from engine.ops.elementwise_grid import UNITS
from tests.engine.cuda.simulate import RAGGED, SIMULATING, inside, launched

ROWS = {"argmax", "bernoulli", "gather_code", "gather_indicator", "gather_number", "gather_one_hot", "keep_rows", "log_softmax", "log_softmax_grad",
        "logsumexp", "max_along", "min_along", "prod_along", "sample_rows", "softmax", "softmax_grad", "spread_rows", "sum_along", "take_batch"}
"""Kernels whose size is how many rows there are; beside those of formulas, passes and copies, whose size is that of arrays. That of others is how
many tiles, blocks or samples there are, or one: of these the cases of their ops have ragged shapes.
"""

FILES = sorted(map(str, Path(__file__).parent.glob("test_sim_*.py")))


@pytest.mark.timeout(1800)
@pytest.mark.skipif(SIMULATING, reason="this is the simulator")
def test_kernels_in_the_simulator() -> None:
    pytest.importorskip("cuda.core", reason="numba-cuda is not installed")
    command = [sys.executable, "-m", "pytest", *FILES, __file__, "-q", "-n0", "-x", "--no-header", "-p", "no:cacheprovider"]
    done = subprocess.run(command, env={**os.environ, "NUMBA_ENABLE_CUDASIM": "1"}, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


@inside
def test_every_kernel_has_been_launched_for_each_number_type_and_with_ragged_sizes_where_it_takes_any() -> None:
    import_module("engine.train")       # all ops, rules and data kernels are known once it is there
    kinds = {(name, dtype if grid.source(name, dtype) != grid.source(name, "float32") else "float32") for name in grid.names() for dtype in FLOATS}
    assert not kinds - set(launched)
    ragged = {(name, dtype) for name, dtype in kinds if name in ROWS or (name in grid.GRIDS and grid.GRIDS[name].units == UNITS)}
    assert not {kind: sizes for kind in ragged if (sizes := set(RAGGED) - launched[kind])}
