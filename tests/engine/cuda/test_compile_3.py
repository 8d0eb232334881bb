"""Kernels are machine code without faults for every GPU that is checked: share 3 of 3."""

from __future__ import annotations

from tests.engine.cuda.compiling import check, share


@share(2)
def test_a_kernel_compiles_without_faults(name: str) -> None:
    check(name)


@share(2)
def test_a_kernel_compiles_in_double_precision(name: str) -> None:
    check(name, "float64")
