"""Rounded operands: which jobs may ask for them, and which products get them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from engine.core import OPS, apply, leaf
from engine.data.table import Table
from engine.devices.cpu.validate import compare
from engine.errors import DeviceError
from engine.ops.matmul_grid import PRECISION, precision_of, round_operands
from engine.plan.plan import make
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


LAYERS: dict[str, list[dict[str, Any]]] = {
    "recurrent": [{"kind": "reshape", "shape": [3, 4]}, {"kind": "gru", "units": 5}],
    "attention": [{"kind": "reshape", "shape": [3, 4]}, {"kind": "multi_head_attention", "heads": 2}, {"kind": "flatten"}],
    "convolution of points": [{"kind": "reshape", "shape": [2, 2, 3]}, {"kind": "conv", "filters": 4, "kernel_size": 1}, {"kind": "flatten"}],
    "convolution": [{"kind": "reshape", "shape": [2, 2, 3]}, {"kind": "conv", "filters": 4, "kernel_size": 2}, {"kind": "flatten"}],
}


@pytest.mark.parametrize("name", LAYERS)
def test_what_goes_into_a_layer_is_rounded_where_it_is_a_matrix_product(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planned, "choose", lambda device: device)
    rows = Table.from_columns({"x": np.ones((12, 12), np.float32), "y": np.ones((12, 2), np.float32)})
    raw = spec(device="cuda", precision="tf32", optimiser="adam", model={"kind": "chain", "layers": [*LAYERS[name], {"kind": "dense", "units": 2}]})
    program = planned.plan(Job.model_validate(raw), {"d": rows}).program
    rounded = sum(precision_of(row) == "tf32" for row in program.phases["train"].plans[1].rows)
    assert rounded >= 3 and (rounded > 3) == (name != "convolution")        # three are the dense layer's, with its two gradients


def cut(x: np.ndarray, precision: str) -> np.ndarray:
    """float32 with as much of the fraction as is kept, rounded to the nearest."""
    kept = {"full": 23, "tf32": 10, "bf16": 7}[precision]
    mantissa, exponent = np.frexp(x.astype(np.float64))
    return np.ldexp(np.round(np.ldexp(mantissa, kept + 1)), exponent - kept - 1).astype(np.float32)


@pytest.mark.parametrize("made_with", ["full", "tf32", "bf16"])
@pytest.mark.parametrize("asked", ["full", "tf32", "bf16"])
def test_a_product_may_be_as_far_from_its_oracle_as_its_rounding_makes_it(asked: str, made_with: str) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((40, 700)).astype(np.float32), rng.standard_normal((700, 24)).astype(np.float32)
    left, right = leaf(a.shape, "float32"), leaf(b.shape, "float32")
    node = apply(OPS["matmul"], left, right)
    plan = make([node], {left: 0, right: a.nbytes}, a.nbytes + b.nbytes, device="cuda")
    round_operands(plan.rows, asked)
    assert {precision_of(row) for row in plan.rows} == {asked}
    arena = np.zeros(a.nbytes + b.nbytes + plan.nbytes, np.uint8)
    arena[:a.nbytes + b.nbytes] = np.concatenate([a.ravel(), b.ravel()]).view(np.uint8)
    product = cut(a, made_with) @ cut(b, made_with)

    def run(number: int) -> None:
        arena[plan.at(node):][:product.nbytes] = product.ravel().view(np.uint8)

    bits = {"full": 23, "tf32": 10, "bf16": 7}
    if bits[made_with] >= bits[asked]:
        assert compare(plan, arena, run) == 1
    else:
        with pytest.raises(DeviceError, match="differs from its oracle"):
            compare(plan, arena, run)
