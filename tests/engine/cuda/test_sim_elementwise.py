"""Elementwise ops and casts, in the simulator."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest

from engine import ops, optim  # noqa: F401
from engine.core import OPS, Case, Op, apply, leaf
from engine.devices.cuda import build
from engine.kernels import grid
from engine.ops.elementwise_grid import UNITS
from tests.engine.cuda.simulate import RAGGED, SIMULATING, aligned, check, inside, launch, run, table

ELEMENTWISE = sorted(name for name in OPS if name in grid.GRIDS and grid.GRIDS[name].units == UNITS)
SHAPES = [((6, 4), (4,)), ((6, 4), (6, 1)), ((4,), (6, 4)), ((6, 1), (1, 4)), ((3, 5), (5,)), ((3, 5), (3, 1)), ((6, 4), ()), ((), (3, 5)),
          ((0, 4), (4,))]


def cases() -> list[Any]:
    """All cases of ops, two of derivatives: those are the same text."""
    found = table(*ELEMENTWISE, "cast")
    return [one for one in found if one.values[0].public or one.values[1].name in ("ragged", "long")]


@inside
@pytest.mark.parametrize(("op", "case"), cases())
def test_kernels_agree_with_the_oracle(op: Op, case: Case) -> None:
    check(op, case)


@inside
@pytest.mark.parametrize(("op", "case"), table("divide", "where", "gelu_grad", "elu", "power"))
def test_kernels_agree_with_the_oracle_in_double_precision(op: Op, case: Case) -> None:
    check(op, case, "float64")


@inside
@pytest.mark.parametrize("name", [name for name in ELEMENTWISE if name not in ("uniform", "normal")])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_as_many_numbers_as_there_are(name: str, dtype: str) -> None:
    one = OPS[name].cases[0]
    for size in RAGGED:
        check(OPS[name], replace(one, name=f"{size}", inputs=tuple(replace(sample, shape=(size,)) for sample in one.inputs)), dtype)


NUMBERS = ("float32", "float64", "int32", "int64", "uint8")


@inside
@pytest.mark.parametrize(("source", "target"), list(product(NUMBERS, NUMBERS)))
def test_numbers_of_any_type_become_those_of_any_other(source: str, target: str) -> None:
    for size in RAGGED:
        values = np.random.default_rng(size).uniform(0, 99, size).astype(source)
        arena = aligned(1024)
        arena[512: 512 + values.nbytes] = values.view(np.uint8)
        launch(f"cast_{source}_{target}", "float32", arena, np.array([0, 0, 512, 0, 1], np.int64), size)
        width = np.dtype(target).itemsize * size
        np.testing.assert_array_equal(arena[:width].view(target), values.astype(target))
        assert not arena[width:512].any()


@inside
@pytest.mark.parametrize("shapes", SHAPES)
def test_an_operand_that_is_stretched_is_read_where_it_is(shapes: tuple[tuple[int, ...], ...]) -> None:
    rng = np.random.default_rng(1)
    leaves = [leaf(s) for s in shapes]
    values = {n: rng.normal(size=n.shape).astype("float32") for n in leaves}
    np.testing.assert_array_equal(run(apply("subtract", *leaves), values), np.subtract(*values.values()))


@inside
@pytest.mark.parametrize("size", [0, 1, 31, 33, 512])
@pytest.mark.parametrize("off", [(0, 0, 0), (4, 0, 0), (0, 8, 12), (4, 4, 4)])
def test_operands_may_begin_anywhere(size: int, off: tuple[int, ...]) -> None:
    arena = aligned(3 * 4096)
    places = [4096 * k + by for k, by in enumerate(off)]
    x, y = (arena[at: at + 4 * size].view(np.float32) for at in places[1:])
    x[:], y[:] = np.arange(size), 0.5
    words = np.array([places[0], 0, places[1], 0, 1, places[2], 0, 1], np.int64)
    launch("add", "float32", arena, words, size)
    np.testing.assert_array_equal(arena[places[0]: places[0] + 4 * size].view(np.float32), np.arange(size) + np.float32(0.5))
    assert not arena[places[0] + 4 * size: places[1]].any()


@pytest.mark.skipif(SIMULATING, reason="the simulator compiles nothing")
@pytest.mark.parametrize("name", ["tanh", "where", "rule_adam", "cast_float32_int32"])
def test_four_numbers_are_read_and_written_at_once(name: str) -> None:
    pytest.importorskip("cuda.core", reason="numba-cuda is not installed")
    _, text = build.to_ptx(name, "float32", 90)
    assert re.search(r"ld\.(global\.)?v4", text) and re.search(r"st\.(global\.)?v4", text)
