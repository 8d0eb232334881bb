"""The passes of optimisers, in the simulator: the CPU's numbers, wherever in memory the arrays begin."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engine.core import Launch, Scratch
from engine.kernels import library
from engine.optim.averages import EMA
from engine.optim.passes import PARTS, launches
from engine.optim.rules import rules
from engine.optim.transforms import transforms
from engine.plan.plan import Place, lay
from tests.engine.cuda.simulate import RAGGED, aligned, inside, run_plan

TOLERANCE = {"float32": 3e-7, "float64": 6e-16}
NAMES = sorted(PARTS)
"""All passes: rules that move x, rules that hand on their step, transforms."""


def step_of(name: str) -> Any:
    """The step that a pass belongs to; None for those of a scale alone."""
    kind = name.removeprefix("rule_").removeprefix("transform_").removesuffix("_onward")
    family = rules if name.startswith("rule_") else transforms
    return family.members[kind]() if kind in family.members else None


def both(name: str, dtype: str, size: int, off: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """All arrays of a pass after it, on the CPU and in the simulator; they begin `off` elements behind a multiple of 64 bytes."""
    step, rng, width = step_of(name), np.random.default_rng(3), np.dtype(dtype).itemsize
    count = len(step.arrays()) if step else 2
    scalars = step.table(0.7, 3) if step else np.array([0.7])
    room = (size + off) * width // 64 * 64 + 64
    arena = aligned(4096 + count * room)
    arena[:scalars.nbytes] = scalars.view(np.uint8)
    places = [4096 + k * room + off * width for k in range(count)]
    for k, at in enumerate(places):
        values = rng.normal(size=size)
        arena[at: at + size * width] = (values if k < 2 else abs(values)).astype(dtype).view(np.uint8)
    other = arena.copy()
    library.call(name, dtype, [other.ctypes.data + at for at in (*places, 0)], size)
    run_plan(lay(launches(name, dtype, [Place(at) for at in places], 0, size, 1.0, "cuda"), 1024), arena)
    return other[4096:].view(dtype), arena[4096:].view(dtype)


@inside
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", RAGGED)
def test_a_pass_gives_the_numbers_of_the_cpu(name: str, size: int) -> None:
    expected, found = both(name, "float32", size)
    np.testing.assert_allclose(found, expected, rtol=TOLERANCE["float32"], atol=TOLERANCE["float32"])


@inside
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", RAGGED)
def test_a_pass_in_double_precision(name: str, size: int) -> None:
    expected, found = both(name, "float64", size)
    np.testing.assert_allclose(found, expected, rtol=TOLERANCE["float64"], atol=TOLERANCE["float64"])


@inside
@pytest.mark.parametrize("size", [*RAGGED, 1030])
@pytest.mark.parametrize("off", [0, 1])
def test_a_pass_over_any_number_of_elements_from_any_place(size: int, off: int) -> None:
    expected, found = both("rule_adam", "float32", size, off)
    np.testing.assert_allclose(found, expected, rtol=TOLERANCE["float32"], atol=TOLERANCE["float32"])


def test_on_the_cpu_a_pass_is_one_launch() -> None:
    found, = launches("rule_adam", "float32", [1, 2, 3, 4], 5, 100, 0.5, "cpu")
    assert found == Launch("rule_adam", "float32", (1, 2, 3, 4, 5), 100, grain=16, cost=0.5)


def test_on_a_gpu_one_thread_makes_its_table_before() -> None:
    once, after = launches("transform_ema", "float32", [1, 2], 5, 100, 0.5, "cuda")
    assert (once.kernel, once.size, once.words[1]) == ("transform_ema_once", 1, 5)
    assert isinstance(once.words[0], Scratch) and after.words == (1, 2, once.words[0])
    assert "transform_" + EMA.kind_name() == after.kernel
