"""Every op on every one of its cases: kernels against oracles, derivatives against differences, parts against wholes."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from engine import ops
from engine.autodiff.forward import pushforward
from engine.autodiff.reverse import pullback
from engine.core import CONSTANT, FLOATS, LEAF, OPS, Case, Node, Op, apply, leaf
from engine.graph import interpret
from engine.kernels import library
from tests.engine import machine

TABLE = [(op, case) for op in OPS.values() for case in op.cases]
SMOOTH = [(op, case) for op, case in TABLE if case.gradient and (op.vjp or op.compose)]
TOLERANCE = {"float32": 3e-6, "float64": 1e-13}


def names(table: list[tuple[Op, Case]]) -> list[str]:
    return [f"{op.name}: {case.name}" for op, case in table]


def use(op: Op, case: Case, dtype: str = "float64") -> tuple[Node, dict[Node, np.ndarray]]:
    """A node of the op on one of its cases, and the values of its leaves."""
    rng = np.random.default_rng(zlib.crc32(f"{op.name} {case.name}".encode()))
    arrays = [sample.array(rng, dtype) for sample in case.inputs]
    leaves = [leaf(a.shape, a.dtype.name) for a in arrays]
    return apply(op, *leaves, **case.attrs), dict(zip(leaves, arrays, strict=True))


def assert_near(found: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * max(1.0, _largest(expected)) / 2)


def _largest(x: np.ndarray) -> float:
    finite = np.abs(x[np.isfinite(x)]) if x.dtype.kind == "f" else np.abs(x)
    return float(finite.max(initial=0.0))


# ---------------------------------------------------------------- kernels

@pytest.mark.parametrize(("op", "case"), TABLE, ids=names(TABLE))
@pytest.mark.parametrize("dtype", FLOATS)
def test_a_kernel_computes_what_the_oracle_says_however_its_range_is_cut(op: Op, case: Case, dtype: str) -> None:
    node, values = use(op, case, dtype)
    wide = [v.astype("float64") if v.dtype.kind == "f" else v for v in values.values()]
    with np.errstate(all="ignore"):
        expected = np.asarray(op.oracle(*wide, **node.attrs))
    assert expected.shape == node.shape
    whole = machine.run(node, values)
    assert whole.dtype.name == node.dtype
    assert_near(whole, expected, TOLERANCE.get(node.dtype, 0.0))
    for cuts in (2, 5):
        np.testing.assert_array_equal(machine.run(node, values, cuts), whole)


@pytest.mark.parametrize("shapes", [((6, 4), (4,)), ((6, 4), (6, 1)), ((4,), (6, 4)), ((6, 1), (1, 4)), ((3, 2, 4), (2, 4)), ((3, 2, 4), (3, 1, 1)),
                                    ((3, 2, 4), (2, 1)), ((6, 4), ()), ((), (6, 4)), ((1,), (1,)), ((0, 4), (4,)), ((6, 4), (1, 1))])
@pytest.mark.parametrize("name", ["subtract", "tanh_grad"])
def test_an_operand_that_is_stretched_is_read_where_it_is(name: str, shapes: tuple[tuple[int, ...], ...]) -> None:
    rng = np.random.default_rng(1)
    arrays = [rng.normal(size=s) for s in shapes]
    leaves = [leaf(s, "float64") for s in shapes]
    node = apply(name, *leaves)
    expected = OPS[name].oracle(*arrays)
    for cuts in (1, 3):
        np.testing.assert_allclose(machine.run(node, dict(zip(leaves, arrays, strict=True)), cuts), expected, rtol=1e-14)


def test_a_bias_row_a_column_and_a_number_need_no_copy() -> None:
    x, row, column = leaf((6, 4)), leaf((4,)), leaf((6, 1))
    for other in (row, column):
        words = (x + other).op.launch(x + other)[0].words
        assert any(w is other for w in words) and not any(isinstance(w, Node) and w.op.name == "broadcast" for w in words)
    launch = (x * 2.0).op.launch(x * 2.0)[0]
    assert launch.words[5].op is CONSTANT and launch.words[6:8] == (0, 0)


def test_two_broadcasts_that_ask_for_other_row_lengths_cannot_both_be_read_in_place() -> None:
    a, b, c = leaf((2, 1, 1)), leaf((4,)), leaf((2, 3, 4))
    node = apply("where", c, a, b)
    rng = np.random.default_rng(2)
    values = {n: rng.normal(size=n.shape).astype("float32") for n in (a, b, c)}
    np.testing.assert_array_equal(machine.run(node, values, 2), np.where(values[c] != 0, values[a], values[b]))


# ---------------------------------------------------------------- derivatives

def float_leaves(node: Node) -> list[Node]:
    return [n for n in node.inputs if n.dtype in FLOATS and n.op is LEAF]


def by_differences(node: Node, values: dict[Node, np.ndarray], direction: dict[Node, np.ndarray]) -> np.ndarray:
    """The derivative of a node along a direction, from the oracle at four points: an error of the fifth order in the step."""
    step = 1e-3
    at = [interpret.run([node], {n: v + k * step * direction[n] if n in direction else v for n, v in values.items()})[0] for k in (-2, -1, 1, 2)]
    return (at[0] - 8 * at[1] + 8 * at[2] - at[3]) / (12 * step)


def assert_derivatives(node: Node, values: dict[Node, np.ndarray], tolerance: float = 1e-6) -> None:
    rng = np.random.default_rng(3)
    direction = {n: rng.normal(size=n.shape) for n in float_leaves(node)}
    expected = by_differences(node, values, direction)
    tangents = {n: leaf(n.shape, "float64") for n in direction}
    known = {**values, **{t: direction[n] for n, t in tangents.items()}}
    forward = pushforward([node], tangents)[0]
    found = np.zeros(node.shape) if forward is None else interpret.run([forward], known)[0]
    assert_near(found, expected, tolerance)
    ct, weight = leaf(node.shape, "float64"), rng.normal(size=node.shape)
    back = pullback(node, ct, list(direction))
    pairs = [(b, d) for b, d in zip(back, direction.values(), strict=True) if b is not None]
    along = sum(float((interpret.run([b], {**values, ct: weight})[0] * d).sum()) for b, d in pairs)
    size = max(1.0, float(np.abs(weight * expected).sum()))
    np.testing.assert_allclose(along, float((weight * expected).sum()), rtol=tolerance, atol=tolerance * size)


@pytest.mark.parametrize(("op", "case"), SMOOTH, ids=names(SMOOTH))
def test_reverse_and_forward_mode_agree_with_differences(op: Op, case: Case) -> None:
    assert_derivatives(*use(op, case))


TELLING = [(op, case) for op, case in SMOOTH if op.public and not any(0 in sample.shape for sample in case.inputs)]
TWICE = list({op.name: (op, case) for op, case in reversed(TELLING)}.values())      # the first case of each op


@pytest.mark.parametrize(("op", "case"), TWICE, ids=names(TWICE))
def test_second_derivatives_agree_with_differences_of_the_first(op: Op, case: Case) -> None:
    node, values = use(op, case)
    rng = np.random.default_rng(4)
    weight = leaf(node.shape, "float64", value=rng.normal(size=node.shape))
    for x, first in zip(float_leaves(node), pullback(node, weight, float_leaves(node)), strict=True):
        if first is None:
            continue
        direction = rng.normal(size=x.shape)
        ct = leaf(x.shape, "float64", value=rng.normal(size=x.shape))
        second = pullback(first, ct, [x])[0]
        found = 0.0 if second is None else float((interpret.run([second], values)[0] * direction).sum())
        expected = float((by_differences(first, values, {x: direction}) * ct.value).sum())
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


KEPT = [(op, case) for op, case in TABLE if op.compose]


@pytest.mark.parametrize(("op", "case"), KEPT, ids=names(KEPT))
def test_an_op_kept_whole_is_worth_its_parts(op: Op, case: Case) -> None:
    node, values = use(op, case)
    assert op.compose
    parts = op.compose(node)
    assert (parts.shape, parts.dtype) == (node.shape, node.dtype)
    if case.name != "unknown classes":
        assert_near(interpret.run([parts], values)[0], interpret.run([node], values)[0], 1e-12)


@pytest.mark.parametrize("change", [lambda g: g * 1.001, lambda g: -g, lambda g: g + 1e-3], ids=["scaled", "negative", "moved"])
@pytest.mark.parametrize("mode", ["reverse", "forward", "second"])
def test_a_wrong_derivative_is_caught(mode: str, change: Callable[[Node], Node]) -> None:
    right, grad = OPS["tanh"], OPS["tanh_grad"]
    assert right.vjp and right.jvp and grad.compose
    vjp, jvp, parts = right.vjp, right.jvp, grad.compose
    second = replace(grad, vjp=lambda node, ct: [change(g) for g in pullback(parts(node), ct, node.inputs) if g is not None])
    op = {"reverse": replace(right, vjp=lambda node, ct: [change(g) for g in vjp(node, ct) if g is not None]),
          "forward": replace(right, jvp=lambda node, ts: change(jvp(node, ts))),   # type: ignore[arg-type]
          "second": replace(right, vjp=lambda node, ct: [apply(second, ct, node)])}[mode]
    with pytest.raises(AssertionError):
        (test_second_derivatives_agree_with_differences_of_the_first if mode == "second" else test_reverse_and_forward_mode_agree_with_differences)(
            op, right.cases[0])


def test_a_wrong_kernel_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    sources = {**library.KERNELS, "tanh_wrong": library.Source(library.KERNELS["tanh"].text.replace("tanh(x)", "tanh(x) * 1.0001"), frozenset())}
    monkeypatch.setattr(library, "KERNELS", sources)
    op = replace(OPS["tanh"], launch=lambda node: [replace(OPS["tanh"].launch(node)[0], kernel="tanh_wrong")])
    with pytest.raises(AssertionError):
        test_a_kernel_computes_what_the_oracle_says_however_its_range_is_cut(op, op.cases[0], "float64")


def test_every_op_says_what_it_is_and_has_cases() -> None:
    for op in OPS.values():
        assert op.description.endswith("."), op
        if op not in (LEAF, CONSTANT):
            assert len(op.cases) >= 2, op
            if op.public:
                assert getattr(ops, op.name) is op
