"""Threads that take turns: where one reads what another has yet to write it is seen, and so is a wait for threads that never come."""

from __future__ import annotations

import numpy as np
import pytest

from engine.kernels import grid
from tests.engine.cuda.simulate import aligned, inside, launch
from tests.engine.cuda.turns import taking_turns

NEIGHBOURS = '''
def {name}(arena, words, size):
    x, room = view(arena, words[0], real), cuda.shared.array(64, real)
    room[cuda.threadIdx.x] = x[cuda.threadIdx.x]
    {wait}
    x[cuda.threadIdx.x] = room[(cuda.threadIdx.x + 1) % 64] + real(cuda.shfl_xor_sync(-1, cuda.threadIdx.x, 1))
'''


def after(monkeypatch: pytest.MonkeyPatch, name: str, wait: str, backwards: bool) -> np.ndarray:
    """What 64 threads make of 0 to 63, each of its neighbours' numbers."""
    monkeypatch.setattr(grid, "GRIDS", {known: kernel for known, kernel in grid.GRIDS.items() if known != name})
    grid.define_grid(name, NEIGHBOURS.format(name=name, wait=wait).strip(), threads=64)
    arena = aligned(256)
    arena.view(np.float32)[:] = np.arange(64)
    launch(name, "float32", arena, np.array([0], np.int64), 1, backwards=backwards)
    return arena.view(np.float32)


@inside
@pytest.mark.parametrize("backwards", [False, True])
def test_threads_that_wait_see_what_the_others_wrote(monkeypatch: pytest.MonkeyPatch, backwards: bool) -> None:
    found = after(monkeypatch, "turns_waiting", "cuda.syncthreads()", backwards)
    np.testing.assert_array_equal(found, (np.arange(64) + 1) % 64 + (np.arange(64) ^ 1))


@inside
def test_a_wait_that_is_missing_gives_other_numbers_in_the_other_order(monkeypatch: pytest.MonkeyPatch) -> None:
    unsynchronised = "cuda.shared.array(1, real)[0] = 0"
    forwards, backwards = (after(monkeypatch, "turns_missing", unsynchronised, order).copy() for order in (False, True))
    assert not np.array_equal(forwards, backwards)


@inside
def test_a_wait_for_threads_that_never_come_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match="never come"):
        after(monkeypatch, "turns_alone", "if cuda.threadIdx.x == 0: cuda.syncthreads()", False)


def test_functions_that_wait_are_generators_and_so_are_those_that_call_them() -> None:
    functions = ("def swap(x):\n    return cuda.shfl_xor_sync(-1, x, 1)", "def plain(x):\n    return x",
                 "def run(y):\n    y[0] = swap(plain(y[0]))\n    cuda.syncthreads()")
    assert taking_turns("\n".join(functions)).split("\n\n") == [
        "def swap(x):\n    return (yield ('shfl_xor_sync', -1, x, 1))", "def plain(x):\n    return x",
        "def run(y):\n    y[0] = (yield from swap(plain(y[0])))\n    yield ('syncthreads',)"]
