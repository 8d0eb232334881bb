"""What is suspicious about a job's data is a warning with a pointer; good data gives none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engine.data.summary import Distinct, Summary, hashes
from engine.data.table import Table
from engine.train.job import Job
from engine.train.ready.build import check

CHANCE = np.random.default_rng(0)
ROWS = 200


def table(rows: int = ROWS, **more: list[Any]) -> Table:
    chance = np.random.default_rng(rows)
    columns = {"a": chance.normal(size=rows).round(6).tolist(), "b": chance.choice(["x", "y", "z"], rows).tolist(),
               "y": chance.integers(0, 3, rows).tolist(), **more}
    return Table.from_rows([dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)])


def warned(main: Table, target: str = "y", loss: Any = "logit_cross_entropy", others: dict[str, Table] | None = None,
           **data: Any) -> dict[str, dict[str, str]]:
    """The warnings of a job by code."""
    spec = {"model": {"kind": "dense", "units": "target"}, "loss": loss, "optimiser": "adam", "data": {"dataset": "main", "target": target, **data}}
    found = check(Job.model_validate(spec), {"main": main, **(others or {})}).warnings
    return {warning["code"]: warning for warning in found}


def test_good_data_gives_no_warning() -> None:
    assert warned(table(), validation={"fraction": 0.2}, test={"fraction": 0.1}) == {}


@pytest.mark.parametrize(("column", "target", "loss", "says"), [
    (lambda y: y, "y", "logit_cross_entropy", "is equal to"),
    (lambda y: [v * 3 + 1 for v in y], "y", "logit_cross_entropy", "has a correlation of 1.000000"),
    (lambda y: ["pqr"[v] for v in y], "y", "logit_cross_entropy", "has one value for each value of"),
    (lambda y: [[5, 9, 7][v] for v in y], "y", "logit_cross_entropy", "has one value for each value of"),
])
def test_an_input_that_tells_the_target_is_named(column, target, loss, says) -> None:
    y = table().columns["y"].data.astype(int).tolist()
    found = warned(table(copy=column(y)), target, loss)["target_leak"]
    assert found["pointer"] == "/data/inputs" and f"'copy' {says}" in found["detail"] and '"!copy"' in found["detail"]
    assert "target_leak" not in warned(table(copy=column(y)), target, loss, inputs=["*", "!copy"])


def test_a_number_that_follows_the_target_is_named_and_one_that_nearly_does_is_not() -> None:
    a = table().columns["a"].data
    follows, nearly = (-2 * a + 1).tolist(), (a + 0.1 * CHANCE.normal(size=ROWS)).tolist()
    assert "'follows'" in warned(table(follows=follows), "a", "mse")["target_leak"]["detail"]
    assert "target_leak" not in warned(table(nearly=nearly), "a", "mse")


def test_rows_in_two_parts_are_counted() -> None:
    main, other = table(), table(50)
    assert "overlap" not in warned(main, others={"other": other}, validation={"dataset": "other"})
    rows = main.preview(0, ROWS)
    mixed = Table.from_rows([*other.preview(0, 50), *rows[10:13]])
    found = warned(main, others={"other": mixed}, validation={"dataset": "other"}, test={"dataset": "main"})
    assert found["overlap"]["pointer"] == "/data/test/dataset" and "200 of the 200 test rows" in found["overlap"]["detail"]
    found = warned(main, others={"other": mixed}, validation={"dataset": "other"})["overlap"]
    assert found["pointer"] == "/data/validation/dataset" and found["detail"].startswith("3 of the 53 validation rows")
    twice = Table.from_rows(rows + rows)
    assert warned(twice, validation={"fraction": 0.25})["overlap"]["pointer"] == "/data/validation"
    images = Table.from_columns({"x": CHANCE.integers(0, 255, (40, 8, 8)).astype(np.uint8), "y": np.arange(40) % 2})
    again = Table.from_columns({"x": images.columns["x"].data[5:9].copy(), "y": images.columns["y"].data[5:9].copy()})
    model = {"kind": "chain", "layers": [{"kind": "flatten"}, {"kind": "dense", "units": 2}]}
    spec = {"model": model, "loss": "logit_cross_entropy", "optimiser": "adam",
            "data": {"dataset": "main", "target": "y", "validation": {"dataset": "again"}}}
    found = check(Job.model_validate(spec), {"main": images, "again": again}).warnings
    assert [warning["detail"][:11] for warning in found if warning["code"] == "overlap"] == ["4 of the 4 "]


def test_rare_classes_are_told_unless_they_count_alike() -> None:
    rare = table(y=[0] * 150 + [1] * 45 + [2] * 5)
    found = warned(rare)["class_imbalance"]
    assert found["pointer"] == "/data/target" and "the class 2 has 5 training rows where 0 has 150" in found["detail"]
    assert "class_imbalance" not in warned(rare, sampling="balanced")
    assert "class_imbalance" not in warned(rare, loss={"kind": "logit_cross_entropy", "class_weights": "balanced"})


def test_sketches_are_exact_while_they_can_and_close_after() -> None:
    few, many = Distinct(1000), Distinct(1000)
    few.see(hashes(np.arange(900.0) % 300))
    assert few.exact and few.count == 300 and few.repeated == pytest.approx(2 / 3)
    for start in range(0, 200_000, 5_000):
        many.see(hashes(np.arange(start, start + 5_000) // 2))
    assert not many.exact and many.count == pytest.approx(100_000, rel=0.15) and many.repeated == pytest.approx(0.5, abs=0.01)
    assert len(many.values) <= 1000


def test_a_summary_of_pieces_is_that_of_the_whole() -> None:
    values = np.concatenate([CHANCE.normal(5, 2, 1000), [np.nan, np.inf]])
    summary = Summary("x", "number", "float64", ())
    for piece in np.array_split(values, 7):
        summary.see(piece)
    found, finite = summary.about(), values[np.isfinite(values)]
    assert (found["missing"], found["unique"]) == (1, len(np.unique(finite)) + 1)
    assert [found[name] for name in ("min", "max", "mean", "std")] == pytest.approx([finite.min(), finite.max(), finite.mean(), finite.std()])
