"""What kernels must not have is found where they have it, and PTX of the lowest architecture serves all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine import env
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
    monkeypatch.setattr(env, "CACHE", tmp_path)
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


def test_later_gpus_of_a_family_run_the_code_of_the_first() -> None:
    assert [build.kin(arch) for arch in (75, 80, 86, 89, 90, 100, 103, 120)] == [75, 80, 80, 80, 90, 100, 100, 120]
    assert build.build("tanh", "float32", 86).code == build.build("tanh", "float32", 80).code and build.is_built("tanh", "float32", 89)
