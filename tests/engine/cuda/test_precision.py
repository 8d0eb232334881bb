"""Rounded operands: which jobs may ask for them, and which products get them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from engine.data.table import Table
from engine.ops.matmul_grid import PRECISION
from engine.spec import problems
from engine.train import Job
from engine.train.ready import planned


def spec(**changes: Any) -> dict[str, Any]:
    return {"model": {"kind": "chain", "layers": [{"kind": "dense", "units": 4, "activation": "relu"}, {"kind": "dense", "units": 2}]},
            "loss": "mse", "optimiser": "muon", "data": {"dataset": "d", "inputs": ["x"], "target": "y"}, **changes}


@pytest.mark.parametrize(("changes", "says"), [
    ({}, "on a GPU only"), ({"device": "cpu"}, "on a GPU only"), ({"device": "auto"}, "on a GPU only"),
    ({"device": "cuda", "dtype": "float64"}, "float64"), ({"device": "cuda", "precision": "fp8"}, "'full', 'tf32' or 'bf16'")])
def test_rounding_is_refused_with_its_place_where_there_is_none(changes: dict[str, Any], says: str) -> None:
    raw = spec(**{"precision": "tf32", **changes})
    with pytest.raises(ValidationError) as refused:
        Job.model_validate(raw)
    found = problems(refused.value, raw)
    assert [(problem.pointer, problem.code) for problem in found] == [("/precision", "invalid_value")] and says in found[0].detail


def test_full_precision_is_for_every_device() -> None:
    for device in ("auto", "cpu", "cuda"):
        assert Job.model_validate(spec(device=device, precision="full", dtype="float64")).precision == "full"


@pytest.mark.parametrize(("precision", "word"), [("full", 0), ("tf32", 1), ("bf16", 2)])
def test_the_products_of_the_model_are_rounded_and_those_of_the_optimiser_are_not(precision: str, word: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planned, "choose", lambda device: device)
    rows = Table.from_columns({"x": np.ones((12, 3), np.float32), "y": np.ones((12, 2), np.float32)})
    program = planned.plan(Job.model_validate(spec(device="cuda", precision=precision)), {"d": rows}).program
    found = [{row.words[PRECISION] for row in plan.rows if row.kernel.startswith("product_")} for plan in program.phases["train"].plans[:5]]
    assert found == [set(), {word}, set(), {0}, set()]
