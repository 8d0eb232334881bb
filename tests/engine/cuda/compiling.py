"""Kernels as machine code for every GPU that is checked, without one: compiled once, assembled for each, and looked through for faults.

The names are shared out among `test_compile*.py`, which run side by side.
"""

from __future__ import annotations

from importlib import import_module

import pytest

from engine.devices.cuda import build
from engine.kernels import grid
from tests.engine.cuda.simulate import SIMULATING

import_module("engine.train")           # all ops, rules and data kernels are known once it is there
FILES = 3
names = grid.names()


def share(number: int) -> pytest.MarkDecorator:
    """Every FILES-th kernel, from the one of that number on."""
    return pytest.mark.parametrize("name", names[number::FILES])


def check(name: str, dtype: str = "float32") -> None:
    """Assemble a kernel for every architecture; none may have a fault."""
    if SIMULATING:
        pytest.skip("the simulator compiles nothing")
    pytest.importorskip("cuda.core", reason="numba-cuda is not installed")
    wrong = {f"sm_{arch}": found for arch in build.ARCHITECTURES if (found := build.faults(name, dtype, build.build(name, dtype, arch).report))}
    assert not wrong, f"{name} of {dtype}: {wrong}"
