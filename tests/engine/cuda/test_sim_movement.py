"""Copies with strides, and random numbers, in the simulator."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engine import ops  # noqa: F401
from engine.core import OPS, Case, Op, apply, bits, leaf
from engine.kernels import library
from tests.engine.cuda.simulate import RAGGED, aligned, check, inside, launch, run, table
from tests.engine.test_ops import use

COPIES = {"move", "move_bytes", "turn", "turn_bytes"}


def copies() -> list[Any]:
    """Parameters of the cases of ops that are copies with strides, and nothing else."""
    cases = [(parameter, use(*parameter.values, "float32")[0]) for parameter in table(*OPS)]
    kernels = [(parameter, {x.kernel for x in node.op.launches(node, "cuda")}) for parameter, node in cases]
    return [parameter for parameter, found in kernels if found and found <= COPIES]


@inside
@pytest.mark.parametrize(("op", "case"), [*copies(), *table("uniform", "normal", "bernoulli")])
def test_kernels_agree_with_the_oracle(op: Op, case: Case) -> None:
    check(op, case)


@inside
@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "uint8"])
@pytest.mark.parametrize("make", [
    lambda x: apply("transpose", x), lambda x: apply("transpose", x.reshape(2, 17, 36), axes=(0, 2, 1)),
    lambda x: apply("broadcast", x.reshape(34, 1, 36), shape=(34, 2, 36)), lambda x: apply("broadcast", x[:, :1], shape=(34, 8)),
    lambda x: x[:, 4:12], lambda x: x[1:, 3:9], lambda x: apply("flip", x, axis=0), lambda x: apply("flip", x, axis=1),
], ids=["matrix", "batched", "middle", "columns", "in fours", "uneven", "rows turned", "columns turned"])
def test_numbers_of_any_width_move_one_by_one_and_in_fours(make: Any, dtype: str) -> None:
    x = leaf((34, 36), dtype)
    values = {x: (np.arange(x.size) % 251).reshape(x.shape).astype(dtype)}
    node = make(x)
    plain = np.asarray(node.op.oracle(*(run(i, values) for i in node.inputs), **node.attrs))
    np.testing.assert_array_equal(run(node, values), plain)


@inside
@pytest.mark.parametrize("dtype", ["float32", "float64", "uint8"])
@pytest.mark.parametrize("size", RAGGED)
def test_as_many_numbers_move_as_there_are(size: int, dtype: str) -> None:
    x, wide = leaf((size,), dtype), leaf((size, 33), dtype)
    values = {n: (np.arange(n.size) % 251).reshape(n.shape).astype(dtype) for n in (x, wide)}
    np.testing.assert_array_equal(run(apply("flip", x, axis=0), {x: values[x]}), values[x][::-1])
    np.testing.assert_array_equal(run(apply("transpose", wide), {wide: values[wide]}), values[wide].T)


@inside
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["uniform", "normal", "bernoulli"])
@pytest.mark.parametrize(("size", "off"), [(0, 0), (1, 0), (31, 0), (33, 4), (70, 0)])
def test_random_numbers_are_those_of_the_cpu(name: str, dtype: str, size: int, off: int) -> None:
    arena = aligned(2048)
    arena[:16].view(np.int64)[:] = 2**40 + 5, 77
    words = np.array([64 + off, 0, 123456, 20000, bits(1.25)], np.int64)     # the last two are the threshold and the value of bernoulli
    other = arena.copy()
    library.call(name, dtype, words, size, other.ctypes.data)
    launch(name, dtype, arena, words, size, grain=8)
    found, expected = (a[64 + off: 64 + off + size * np.dtype(dtype).itemsize].view(dtype) for a in (arena, other))
    np.testing.assert_allclose(found, expected, rtol=3e-6 if name == "normal" else 0, atol=3e-6 if name == "normal" else 0)
    assert not arena[64 + off + found.nbytes:].any()
