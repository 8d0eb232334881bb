"""What kernels must not have is found where they have it, and PTX of the lowest architecture serves all."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from engine.core import FLOATS
from engine.devices.cuda import build
from engine.kernels import grid
from tests.engine.cuda.simulate import SIMULATING

pytest.importorskip("cuda.core", reason="numba-cuda is not installed")
pytestmark = pytest.mark.skipif(SIMULATING, reason="the simulator compiles nothing")

WIDE = '''
def bad_wide(arena, words, size):
    x = view(arena, words[0], real)
    for i in range(cuda.threadIdx.x, size, cuda.blockDim.x):
        x[i] = float64(x[i]) * x[i] + x[i]
'''
LARGE = '''
def bad_large(arena, words, size):
    x, room = view(arena, words[0], real), cuda.local.array(4096, real)
    for i in range(size):
        room[(words[1] + i) % 4096] = x[i]
    for i in range(cuda.threadIdx.x, size, cuda.blockDim.x):
        x[i] = room[(words[2] * i) % 4096]
'''
CROWDED = '''
def bad_crowded(arena, words, size):
    x, sums = view(arena, words[0], real), cuda.local.array(128, real)
    for k in range(128):
        sums[k] = x[k]
    for i in range(cuda.threadIdx.x, size, cuda.blockDim.x):
        for k in range(128):
            sums[k] = sums[k] * x[i] + sums[(k + 1) % 128]
    for k in range(128):
        x[k] = sums[k]
'''


@pytest.fixture(autouse=True)
def apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Kernels that no other test sees, in a cache that is empty."""
    monkeypatch.setattr(build, "FOLDER", tmp_path)
    monkeypatch.setattr(grid, "GRIDS", dict(grid.GRIDS))
    yield


@pytest.mark.parametrize(("text", "threads", "told"), [(WIDE, 256, "on float64"), (LARGE, 256, "of local memory"), (CROWDED, 1024, "spills")])
def test_a_fault_is_found(text: str, threads: int, told: str) -> None:
    name = text.split("def ")[1].split("(")[0]
    grid.define_grid(name, text.strip(), threads)
    for arch in build.ARCHITECTURES:
        found = build.faults(name, "float32", build.build(name, "float32", arch).report)
        assert [fault for fault in found if told in fault], (arch, found)


def test_one_compilation_serves_all_and_the_cache_tells_them_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    made, original = [], build.to_ptx
    monkeypatch.setattr(build, "to_ptx", lambda name, dtype, arch: (made.append(arch), original(name, dtype, arch))[1])
    build._lowest.cache_clear()
    codes = {arch: build.build("tanh", "float32", arch).code for arch in build.ARCHITECTURES}
    assert made == [build.LOWEST] and len(set(codes.values())) == len(codes) and all(code.startswith(b"\x7fELF") for code in codes.values())
    assert build.build("tanh", "float32", 90).code == codes[90] and made == [build.LOWEST]


def test_a_kernel_that_needs_more_than_the_lowest_is_compiled_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    made, original = [], build.to_ptx

    def to_ptx(name: str, dtype: str, arch: int) -> tuple[str, str]:
        made.append(arch)
        if arch < 80:
            raise ValueError("not here")
        return original(name, dtype, arch)

    monkeypatch.setattr(build, "to_ptx", to_ptx)
    build._lowest.cache_clear()
    assert build.build("tanh", "float32", 90).code and made == [75, 90]
    build._lowest.cache_clear()


def test_the_words_that_each_number_type_has_its_own_of_are_known() -> None:
    singles, doubles = (vars(import_module(f"engine.kernels.vecmath.{dtype}")) for dtype in FLOATS)
    differing = {word for word in singles["__all__"] if singles[word] is not doubles[word]}
    assert differing | {"real", "WIDTH", "cos", "sin", "tan"} == grid.OF_TYPE
    assert grid.source("cast_int32_uint8", "float64") == grid.source("cast_int32_uint8", "float32")
    assert grid.source("sum_along", "float64") != grid.source("sum_along", "float32")


def test_signatures_that_are_remembered_are_those_that_numba_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = import_module("engine.kernels.gpu")
    names = ("softmax", "where", "rule_adam", "guard")
    remembered = [machine_code(name) for name in names]
    monkeypatch.setattr(gpu, "_remembered", gpu._signature_of)
    monkeypatch.setattr(gpu, "_equal", gpu._same_flags)
    assert [machine_code(name) for name in names] == remembered


def machine_code(name: str) -> list[str]:
    """The instructions of a kernel in PTX, without the numbers that count what was made so far."""
    entry, text = build.to_ptx(name, "float32", 75)
    return re.sub(r"_smem_\d+", "_smem", text.replace(entry, "").partition("{")[2]).splitlines()


def test_later_gpus_of_a_family_run_the_code_of_the_first() -> None:
    assert [build.kin(arch) for arch in (75, 80, 86, 89, 90, 100, 103, 120)] == [75, 80, 80, 80, 90, 100, 100, 120]
    assert build.build("tanh", "float32", 86).code == build.build("tanh", "float32", 80).code and build.is_built("tanh", "float32", 89)
