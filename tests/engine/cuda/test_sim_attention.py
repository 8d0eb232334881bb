"""Attention and its way back, in the simulator: blocks of 32 queries and keys, whole and ragged, with all that may be asked of it."""

from __future__ import annotations

from typing import Any

import pytest

from engine.core import OPS, Case, Op, Sample
from engine.ops import attention  # noqa: F401  the ops
from tests.engine.cuda.simulate import check, inside, table

KEY = Sample((2,), 0, 1 << 40, "int64")


def case(name: str, queries: int, keys: int, heads: int, size: int, value_size: int, *rest: Sample, **attrs: Any) -> list[Any]:
    """A case of one sample, forwards and back."""
    shapes = (1, queries, heads * size), (1, keys, heads * size), (1, keys, heads * value_size)
    inputs, ct = (*(Sample(s) for s in shapes), *rest), Sample((1, queries, heads * value_size))
    return [pytest.param(OPS[op], Case(name, more, {"heads": heads, **attrs}), id=f"{op}: {name}")
            for op, more in (("attention", inputs), ("attention_grad", (ct, *inputs)))]


RAGGED = [*case("31 queries, 33 keys", 31, 33, 1, 3, 2), *case("33 queries, 1 key", 33, 1, 1, 2, 1),
          *case("33 of each, all of it", 33, 33, 1, 2, 2, Sample((1, 1, 33, 33)), KEY, rate=0.3, place=2, causal=True),
          *case("heads", 2, 3, 2, 2, 2, Sample((1, 2, 1, 3)), KEY, rate=0.3)]
FEW = ("one", "empty batch")     # of the way back, which is slow here


@inside
@pytest.mark.parametrize(("op", "case"), [*table("attention"), *(p for p in table("attention_grad") if p.values[1].name in FEW), *RAGGED])
def test_kernels_agree_with_the_oracle(op: Op, case: Case) -> None:
    check(op, case)


@inside
@pytest.mark.parametrize(("op", "case"), [*case("33 keys", 2, 33, 2, 2, 3, KEY, rate=0.5), case("wider than a window", 3, 5, 1, 33, 35)[0],
                                             case("windows", 2, 3, 1, 34, 1)[1]])
def test_in_float64_too(op: Op, case: Case) -> None:
    check(op, case, "float64")
