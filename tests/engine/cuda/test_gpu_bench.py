"""The measurements of a GPU go through up to the driver's door; without a GPU they end with the reason."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import driver
from tests.serving import ROOT

KERNELS = '''
from tests.bench.gpu import kernels, table
kernels.LARGE = 1 << 12
table.show([*kernels.bandwidth(), *kernels.launch_cost()])
'''
ALONE = '''
import numpy as np
from engine import ops
from engine.core import OPS
from tests.engine.cuda.alone import Alone
from tests.engine.test_ops import use
for name in ("softmax", "matmul", "add"):
    op = OPS[name]
    alone = Alone(*use(op, op.cases[0], "float32"))
    assert alone.launches and alone.value().shape == alone.value(as_graph=True).shape == alone.node.shape
'''


def python(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, env={**os.environ, **variables}, capture_output=True, text=True, timeout=280)


def test_without_a_gpu_the_reason_is_told() -> None:
    done = python("-m", "tests.bench", "--device", "cuda", CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2 and done.stdout == "" and done.stderr.startswith("there is no GPU to measure: no NVIDIA")


@driver.needed
def test_a_workload_is_measured_on_the_cuda_device(tmp_path: Path) -> None:
    done = python("-m", "tests.bench", "W4", "--device", "cuda", "--against", "none", "--json", str(tmp_path / "found.json"),
                  **driver.environment(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "gpu null, 9.0" in done.stdout and "W4         ours     cuda " in done.stdout and "target" in done.stdout
    assert '"mode": "cuda"' in (tmp_path / "found.json").read_text()


@driver.needed
@pytest.mark.parametrize("program", [KERNELS, ALONE], ids=["figures", "single nodes"])
def test_kernels_are_launched_by_themselves(program: str, tmp_path: Path) -> None:
    done = python("-c", program, **driver.environment(tmp_path))
    assert done.returncode == 0, done.stderr[-3000:]
    if program is KERNELS:
        lines = [line for line in done.stdout.splitlines() if line]
        assert len(lines) == 1 + 8 + 1 and all("at least 0.85" in line for line in lines[1:-1]) and "at most 3" in lines[-1]
