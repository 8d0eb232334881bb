"""Matrix products of all sizes, in the simulator: tiles of each width, parts of long sums, operands rounded."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engine import ops  # noqa: F401
from engine.core import FLOATS, OPS, Case, Op, Sample, apply, leaf
from engine.ops import matmul_grid
from engine.ops.matmul_grid import round_operands
from engine.plan.plan import Plan, make
from tests.engine.cuda import simulate
from tests.engine.cuda.simulate import check, inside, run, table

FEW = 2000      # multiply-adds that the simulator makes in a tenth of a second


def small(*names: str) -> list[Any]:
    """Parameters (op, case) of the cases of some ops with few multiply-adds."""
    return [found for found in table(*names) if work(found.values[1]) <= FEW]


def work(case: Case) -> int:
    """Multiply-adds of a product."""
    a, b = (sample.shape for sample in case.inputs[:2])
    return int(np.prod(a, dtype=int)) * b[-2 if case.attrs.get("transpose_b") else -1]


def product(m: int, n: int, k: int, turned_a: bool = False, turned_b: bool = False, batch: tuple[int, ...] = ()) -> Case:
    left, right = (k, m) if turned_a else (m, k), (n, k) if turned_b else (k, n)
    return Case("", (Sample((*batch, *left)), Sample((*batch, *right))), {"transpose_a": turned_a, "transpose_b": turned_b})


def finished(m: int, n: int, k: int, **attrs: bool) -> list[tuple[Op, Case]]:
    """A product with a bias, with relu too, and with a gate."""
    inputs = product(m, n, k, **attrs).inputs
    turns = {"transpose_a": False, "transpose_b": False}
    return [(OPS["affine"], Case("", (*inputs, Sample((n,))), {**turns, "relu": relu})) for relu in (False, True)] + [
        (OPS["gated_product"], Case("", (*inputs, Sample((m, n))), turns))]


@inside
@pytest.mark.parametrize(("op", "case"), small("matmul", "affine", "gated_product"))
def test_products_agree_with_the_oracle(op: Op, case: Case) -> None:
    check(op, case)


@inside
@pytest.mark.parametrize(("m", "n", "k"), [(0, 3, 2), (3, 0, 2), (1, 31, 33), (33, 1, 31), (31, 33, 1), (1, 1, 65)])
def test_ragged_products_agree_with_the_oracle(m: int, n: int, k: int) -> None:
    check(OPS["matmul"], product(m, n, k), "float64")


@inside
@pytest.mark.parametrize("turns", [(False, False), (False, True), (True, False), (True, True)])
@pytest.mark.parametrize("dtype", FLOATS)
def test_rows_of_multiples_of_four_are_read_four_at_a_time(turns: tuple[bool, bool], dtype: str) -> None:
    check(OPS["matmul"], product(8, 12, 20, *turns), dtype)


@inside
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("width", "m", "n", "k"), [(32, 17, 33, 5), (32, 36, 16, 34), (64, 33, 65, 3), (64, 32, 64, 17)])
def test_wider_tiles_agree_with_the_oracle(width: int, m: int, n: int, k: int, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matmul_grid, "WIDTHS", (width,))
    check(OPS["matmul"], product(m, n, k, turned_b=m % 2 == 1), dtype)


@inside
@pytest.mark.parametrize("width", [32, 64])
def test_wider_tiles_are_finished(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matmul_grid, "WIDTHS", (width,))
    for op, case in finished(width // 2 + 1, width + 1, 1):
        check(op, case)


@inside
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("batch", [(), (2,)])
def test_long_sums_are_made_in_parts(batch: tuple[int, ...], dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matmul_grid, "LONG", 64)
    monkeypatch.setattr(matmul_grid, "PART", 64)
    check(OPS["matmul"], product(3, 5, 131, batch=batch), dtype)
    for op, case in [] if batch else finished(2, 3, 70):
        check(op, case, dtype)


@inside
@pytest.mark.parametrize("dtype", FLOATS)
def test_a_product_may_be_finished_by_a_pass_of_its_own(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matmul_grid, "WORTH_A_PASS", 0)
    for op, case in finished(5, 7, 3):
        check(op, case, dtype)


@inside
def test_relu_of_a_product_passes_nan_on() -> None:
    a, b, bias = leaf((2, 1)), leaf((1, 2)), leaf((2,))
    values = {a: np.array([[np.nan], [1]], "float32"), b: np.ones((1, 2), "float32"), bias: np.zeros(2, "float32")}
    np.testing.assert_array_equal(run(apply("affine", a, b, bias, relu=True), values), [[np.nan, np.nan], [1, 1]])


def rounded(x: np.ndarray, precision: str) -> np.ndarray:
    """x with 11 bits, half away from zero (TF32), or with 8 bits, half to even (bfloat16), the hidden one among them."""
    fraction, power = np.frexp(x.astype("float64"))
    if precision == "tf32":
        return np.ldexp(np.sign(fraction) * np.floor(np.abs(fraction) * 2**11 + 0.5), power - 11)
    return np.ldexp(np.rint(fraction * 2**8), power - 8)


@inside
@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_operands_are_rounded(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def made(*args: Any, **kwargs: Any) -> Plan:
        plan = make(*args, **kwargs)
        round_operands(plan.rows, precision)
        return plan

    monkeypatch.setattr(simulate, "make", made)
    rng = np.random.default_rng(1)
    a, b = leaf((6, 9)), leaf((9, 5))
    values = {a: rng.normal(size=(6, 9)).astype("float32"), b: rng.normal(size=(9, 5)).astype("float32")}
    found = run(apply("matmul", a, b), values)
    np.testing.assert_allclose(found, rounded(values[a], precision) @ rounded(values[b], precision), rtol=1e-5, atol=1e-6)
    assert np.abs(found - values[a] @ values[b]).max() > 1e-5
    column, one = leaf((12, 1)), leaf((1, 1))
    halves = [s * (1 + k * 2.0**-bits) for bits in (8, 11) for s in (1, -1) for k in (1, 3)]
    special = np.array([*halves, 0, 3e38, np.inf, np.nan], "float32")[:, None]
    found = run(apply("matmul", column, one), {column: special, one: np.ones((1, 1), "float32")})
    np.testing.assert_array_equal(found[:10], rounded(special[:10], precision))
    np.testing.assert_array_equal(found[10:], special[10:])


def test_small_products_take_small_tiles_and_long_sums_are_cut_by_their_shape_alone() -> None:
    def rows(m: int, n: int, k: int) -> list[tuple[str, int]]:
        node = apply("matmul", leaf((m, k)), leaf((k, n)))
        return [(launch.kernel, launch.size) for launch in node.op.launches(node, "cuda")]

    assert rows(1024, 1024, 64) == [("product_64", 256)] and rows(512, 512, 64) == [("product_32", 256)]
    assert rows(64, 100, 1024) == [("product_16", 28)] and rows(10_000, 1, 64) == [("product_16", 625)]
    assert rows(16, 16, 100_000) == [("product_16", 391), ("product_sum", 256)] and rows(0, 16, 100_000) == [("product_16", 0)]


def test_only_products_of_float32_are_rounded() -> None:
    for dtype, word in (("float32", 2), ("float64", 0)):
        a = leaf((4, 4), dtype)
        plan = make([apply("tanh", apply("matmul", a, a))], {a: 0}, 256, device="cuda")
        before = [list(row.words) for row in plan.rows]
        round_operands(plan.rows, "bf16")
        assert plan.rows[0].words[matmul_grid.PRECISION] == word and [list(row.words) for row in plan.rows][1:] == before[1:]
