"""Rows that are weighed, scored, normalised, or chosen by numbers, in the simulator."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engine import ops  # noqa: F401
from engine.core import OPS, Case, Op, apply, leaf
from engine.ops import indexing_grid
from tests.engine import machine
from tests.engine.cuda import simulate
from tests.engine.cuda.simulate import RAGGED, TOLERANCE, check, inside, run, table
from tests.engine.test_ops import assert_near, use

NAMES = ("softmax", "softmax_grad", "log_softmax", "log_softmax_grad", "logsumexp", "softmax_cross_entropy", "softmax_cross_entropy_grad",
         "layer_norm", "layer_norm_grad", "argmax", "gather", "one_hot")
IN_STEP = ("ctc", "ctc_grad", "scatter_add")      # their threads wait for one another again and again, which takes the simulator long

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


@inside
@pytest.mark.parametrize(("op", "case"), table(*NAMES))
def test_kernels_agree_with_the_oracle(op: Op, case: Case) -> None:
    check(op, case, "float64" if case.name in ("over rows", "probabilities") else "float32")


@inside
@pytest.mark.parametrize(("op", "case"), table(*IN_STEP))
def test_kernels_in_step_agree_with_the_oracle(op: Op, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulate, "MOST_THREADS", 32)
    monkeypatch.setattr(indexing_grid, "BLOCKS", 2)
    dtype = "float64" if case.name in ("numbers", "repeated labels") else "float32"
    node, values = use(op, case, dtype)
    expected = op.oracle(*(v.astype("float64") if v.dtype.kind == "f" else v for v in values.values()), **node.attrs)
    assert_near(run(node, values), expected, TOLERANCE[dtype])


LENGTHS = [(name, n) for n, names in {1: ("softmax", "layer_norm_grad"), 31: ("logsumexp", "argmax"), 33: ("softmax", "layer_norm"),
                                      257: ("log_softmax", "argmax"), 600: ("softmax_grad", "log_softmax_grad", "layer_norm_grad", "argmax")}.items()
           for name in names]


@inside
@pytest.mark.parametrize(("name", "length"), LENGTHS)
def test_rows_of_any_length(name: str, length: int) -> None:
    dtype = "float64" if length == 33 else "float32"
    found, expected = both(name, {} if name.startswith("layer_norm") else {"axis": 1}, dtype, *[(3, length)] * (1 + name.endswith("grad")))
    assert_near(found, expected, TOLERANCE[dtype] * 10 if dtype in found.dtype.name else 0.0)


@inside
@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("softmax_cross_entropy", "softmax_cross_entropy_grad", "gather", "one_hot")])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_ragged_rows_of_ragged_lengths(name: str, dtype: str) -> None:
    for shape in [*((n, 3) for n in RAGGED), *((2, n) for n in RAGGED if n)]:
        found, expected = both(name, {} if name.startswith("layer_norm") else {"axis": 1}, dtype, *[shape] * (1 + name.endswith("grad")))
        assert_near(found, expected, TOLERANCE[dtype] * 10 if dtype in found.dtype.name else 0.0)


def both(name: str, attrs: dict[str, Any], dtype: str, *shapes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """An op of numbers between -2 and -0.2 in the simulator, and by its oracle."""
    rng = np.random.default_rng(2)
    arrays = [rng.uniform(-2, -0.2, shape).astype(dtype) for shape in shapes]
    leaves = [leaf(a.shape, dtype) for a in arrays]
    expected = OPS[name].oracle(*(a.astype("float64") for a in arrays), **attrs)
    return run(apply(name, *leaves, **attrs), dict(zip(leaves, arrays, strict=True))), expected


@inside
@pytest.mark.parametrize("classes", [31, 600])
@pytest.mark.parametrize("whole", [True, False])
def test_losses_of_any_number_of_classes(classes: int, whole: bool) -> None:
    rng = np.random.default_rng(3)
    scores, ct = rng.normal(size=(3, classes)).astype("float32"), rng.normal(size=3).astype("float32")
    labels = rng.integers(-1, classes, 3).astype("int64") if whole else rng.random((3, classes)).astype("float32")
    same_as_on_the_cpu("softmax_cross_entropy", {}, scores, labels)
    same_as_on_the_cpu("softmax_cross_entropy_grad", {}, ct, scores, labels)


def same_as_on_the_cpu(name: str, attrs: dict[str, Any], *arrays: np.ndarray) -> None:
    leaves = [leaf(a.shape, a.dtype.name) for a in arrays]
    values = dict(zip(leaves, arrays, strict=True))
    node = apply(name, *leaves, **attrs)
    assert_near(run(node, values), machine.run(node, values), 2 * TOLERANCE.get(node.dtype, 0.0))


STRANGE = np.array([[1, np.nan, 2], [np.inf, 1, -np.inf], [-np.inf] * 3, [np.nan, np.inf, 0], [np.inf, np.inf, 1], [1, -np.inf, 1]], "float32")


@inside
@pytest.mark.parametrize("name", ["softmax", "log_softmax", "logsumexp", "argmax"])
def test_nan_and_infinity_are_as_on_the_cpu(name: str) -> None:
    same_as_on_the_cpu(name, {"axis": 1}, STRANGE)


@inside
def test_losses_and_norms_of_nan_and_infinity_are_as_on_the_cpu() -> None:
    same_as_on_the_cpu("softmax_cross_entropy", {}, STRANGE, np.array([0, 1, 2, 0, 2, 0], "int32"))
    same_as_on_the_cpu("softmax_cross_entropy_grad", {}, np.ones(6, "float32"), STRANGE, np.array([0, 1, 2, 0, 2, 0], "int32"))
    same_as_on_the_cpu("layer_norm", {}, STRANGE)


@inside
@pytest.mark.parametrize(("shape", "axis"), [((2, 600), 1), ((257, 2), 0), ((33, 40), 0), ((3, 31), None)], ids=str)
def test_of_equals_the_first_is_the_greatest(shape: tuple[int, ...], axis: int | None) -> None:
    x = leaf(shape)
    value = np.random.default_rng(4).integers(0, 4, shape).astype("float32")
    np.testing.assert_array_equal(run(apply("argmax", x, axis=axis), {x: value}), np.argmax(value, axis))


# a block lists one row or several; long lists of numbers, which whole blocks add up; rows wider than a warp
@inside
@pytest.mark.parametrize(("rows", "many", "width"), [(1, 1, 1), (1, 560, 3), (9, 100, 2), (7, 31, 33), (0, 5, 2), (4, 0, 3)], ids=str)
def test_rows_are_added_up_by_their_numbers_in_order(rows: int, many: int, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexing_grid, "BLOCKS", 2)
    rng = np.random.default_rng(5)
    indices = np.where(rng.random(many) < 0.5, min(rows, 2) - 1, rng.integers(-1, rows + 1, many)).astype("int32")
    updates = rng.normal(size=(many, width)).astype("float32")
    places, x = leaf((many,), "int32"), leaf((many, width))
    node = apply("scatter_add", places, x, rows=rows)
    found = run(node, {places: indices, x: updates})
    assert_near(found, OPS["scatter_add"].oracle(indices, updates.astype("float64"), rows=rows), TOLERANCE["float32"])


@inside
@pytest.mark.parametrize("width", [1, 31, 33])
def test_rows_of_any_width_are_chosen(width: int) -> None:
    same_as_on_the_cpu("gather", {}, np.random.default_rng(6).normal(size=(5, width)), np.array([4, -1, 0, 5, 4, 2], "int64"))
    same_as_on_the_cpu("one_hot", {"classes": width}, np.array([4, 255, 0, 35, 32], "uint8"))


@inside
def test_columns_are_written_and_read_where_they_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulate, "MOST_THREADS", 32)
    rng = np.random.default_rng(7)
    table, beside, places, ct = leaf((5, 3)), leaf((4, 2)), leaf((4,), "int32"), leaf((4, 5))
    numbers, others, wide = (rng.normal(size=n.shape).astype("float32") for n in (table, beside, ct))
    rows = np.array([4, 0, 4, 2], "int32")
    joined = apply("concat", apply("gather", table, places), beside, axis=1)
    found = run(joined, {table: numbers, beside: others, places: rows})
    np.testing.assert_array_equal(found, np.concatenate([numbers[rows], others], 1))
    back = apply("scatter_add", places, apply("slice", ct, start=(0, 1), stop=(4, 4)), rows=5)
    assert_near(run(back, {ct: wide, places: rows}), OPS["scatter_add"].oracle(rows, wide[:, 1:4], rows=5), TOLERANCE["float32"])


@inside
def test_one_cotangent_for_all_rows_is_read_where_it_is() -> None:
    rng = np.random.default_rng(8)
    share, scores, labels = leaf((1,)), leaf((5, 3)), leaf((5,), "int32")
    values = {share: np.array([0.2], "float32"), scores: rng.normal(size=(5, 3)).astype("float32"), labels: np.array([0, 1, 2, 0, 1], "int32")}
    found = run(apply("softmax_cross_entropy_grad", apply("broadcast", share, shape=(5,)), scores, labels), values)
    expected = OPS["softmax_cross_entropy_grad"].oracle(np.full(5, 0.2), values[scores].astype("float64"), values[labels])
    assert_near(found, expected, TOLERANCE["float32"])
