"""Several inputs and outputs by name: losses, metrics, formulas and predictions; further validation sets; what precision costs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engine.data.table import Table
from engine.errors import SpecError
from engine.train import Job, check, start
from engine.train.trained.predict import Predictor

RNG = np.random.default_rng(0)
ROWS = 60
TABLE = Table.from_columns({"image": RNG.random((ROWS, 4)).astype(np.float32), "age": RNG.random(ROWS), "sex": ["fm"[k % 2] for k in range(ROWS)],
                            "price": RNG.random(ROWS) * 100, "class": ["abc"[k % 3] for k in range(ROWS)]})
DATA = {"dataset": "d", "inputs": {"image": ["image"], "facts": ["age", "sex"]}, "target": {"price": "price", "label": "class"}, "batch_size": 16}
WEIGHTED = {"kind": "weighted", "losses": {"price": "mse", "label": "logit_cross_entropy"}, "weights": {"price": 0.01}}
BOTH = "mean((y_hat.price - y.price) ** 2) * 0.01 - mean(sum(y.label * log_softmax(y_hat.label), axis=-1))"


def job(loss: Any = None, metrics: Any = None, data: Any = None, **more: Any) -> Job:
    layers = [side_by_side("concat", image=4, facts=3), side_by_side("separate", price=1, label="target")]
    return Job.model_validate({"model": {"kind": "chain", "layers": layers}, "loss": loss or WEIGHTED, "optimiser": "adam", "epochs": 2,
                               "data": {**DATA, **(data or {})}, **({"metrics": metrics} if metrics else {}), **more})


def side_by_side(connection: str, **units: Any) -> dict[str, Any]:
    return {"kind": "parallel", "connection": connection, "layers": {name: {"kind": "dense", "units": n} for name, n in units.items()}}


def ran(found: Job, tables: dict[str, Table] | None = None) -> tuple[dict[str, Any], bytes]:
    """The data of the last epoch, and the last checkpoint."""
    events = list(start(found, tables or {"d": TABLE}).events())
    return [e.data for e in events if e.type == "epoch"][-1], [e.payload for e in events if e.payload is not None][-1]


def refused(found: Job) -> set[tuple[str, str]]:
    with pytest.raises(SpecError) as error:
        check(found, {"d": TABLE, "e": TABLE})
    return {(p.pointer, p.code) for p in error.value.problems}


def test_events_and_predictions_have_the_names_of_outputs() -> None:
    found = job(metrics={"label": ["accuracy"]}, data={"validation": 0.2})
    epoch, checkpoint = ran(found)
    assert epoch["train_loss"] == pytest.approx(0.01 * epoch["train_price_loss"] + epoch["train_label_loss"])
    assert {"valid_loss", "valid_price_loss", "valid_label_loss", "valid_label_accuracy"} <= set(epoch)
    row = {"image": [0.1, 0.2, 0.3, 0.4], "age": 0.5, "sex": "f"}
    model = Predictor(found, checkpoint)
    answer = model.predict(rows=[row, row])
    assert np.shape(answer["outputs"]["price"]) == (2, 1) and len(answer["classes"]["label"]) == 2
    assert answer["class_names"]["label"] == ["a", "b", "c"]
    again = model.evaluate(TABLE, metrics={"label": ["f1"], "price": ["mae"]})
    assert again["metrics"].keys() == {"price_loss", "price_mae", "label_loss", "label_f1"}
    assert again["loss"] == pytest.approx(np.mean(model.predict(table=TABLE, losses=True)["losses"]), rel=1e-5)


def test_one_formula_is_the_loss_of_several_outputs_together() -> None:
    weighted, _ = ran(job())
    formula, _ = ran(job({"kind": "expression", "formula": BOTH}))
    assert formula["train_loss"] == pytest.approx(weighted["train_loss"], rel=1e-4)
    assert formula["train_label_accuracy"] == weighted["train_label_accuracy"] and "train_price_loss" not in formula
    penalised, _ = ran(job({"kind": "expression", "formula": BOTH + " + 0.1 * sum_squares(\"layers.1.*.weight\") + 0.1 * sum_abs('*bias')"}))
    assert penalised["train_loss"] > formula["train_loss"]


@pytest.mark.parametrize("counter", ["step", "epoch"])
def test_what_is_evaluated_later_has_the_counters_of_its_checkpoint(counter: str) -> None:
    found = job({"kind": "expression", "formula": f"({BOTH}) * {counter}"}, data={"validation": 0.2}, epochs=3)
    epoch, checkpoint = ran(found)
    again = Predictor(found, checkpoint).evaluate_split({"d": TABLE}, "validation")
    assert again["loss"] == pytest.approx(epoch["valid_loss"], rel=1e-5)


def test_a_formula_may_compare_two_outputs_with_one_target_or_with_none() -> None:
    spread = "mean(y_hat.label + (y - y_hat.price) ** 2 * exp(-2 * y_hat.label))"
    model = side_by_side("separate", price=1, label=1)
    alone = {"dataset": "d", "inputs": ["image"], "target": "age", "batch_size": 16}
    base = {"model": model, "optimiser": "adam", "epochs": 2}
    epoch, _ = ran(Job.model_validate({**base, "loss": {"kind": "expression", "formula": spread}, "data": alone}))
    assert np.isfinite(epoch["train_loss"])
    formula = {"kind": "expression", "formula": "mean((y_hat.price - mean(x, axis=1)) ** 2)"}
    del alone["target"]
    with pytest.raises(SpecError, match="different axes"):
        check(Job.model_validate({**base, "loss": formula, "data": alone}), {"d": TABLE})
    formula["formula"] = "mean((sum(y_hat.price, axis=1) - mean(x, axis=1)) ** 2) + 0 * mean(y_hat.label)"
    assert np.isfinite(ran(Job.model_validate({**base, "loss": formula, "data": alone}))[0]["train_loss"])


def test_further_sets_are_looked_at_each_epoch() -> None:
    found = job(data={"validation": {"fraction": 0.2, "also": {"twin": "e"}}}, callbacks=[{"kind": "early_stopping", "monitor": "twin_loss"}])
    assert found.references() == ["d", "e"]
    epoch, _ = ran(found, {"d": TABLE, "e": TABLE})
    assert {"twin_loss", "twin_price_mae", "twin_label_accuracy"} <= set(epoch)


def test_what_does_not_fit_by_name_is_refused_with_its_place() -> None:
    assert ("/data/target", "output_mismatch") in refused(job(data={"target": "class"}))
    assert ("/data/target", "output_mismatch") in refused(job(data={"target": {"price": "price"}}))
    assert ("/metrics/lable", "unknown_output") in refused(job(metrics={"lable": ["accuracy"]}))
    other = {"kind": "weighted", "losses": {"kind": "mse"}}
    assert ("/loss/losses/kind", "unknown_output") in refused(job(other, data={"target": {"kind": "price"}}))
    assert ("/loss/losses/label", "needs_probabilities") in refused(job({**WEIGHTED, "losses": {"price": "mse", "label": "cross_entropy"}}))
    assert ("/loss/formula", "unknown_name") in refused(job({"kind": "expression", "formula": "mean(y_hat.cost)"}))
    both = refused(job(data={"target": {"price": "prise", "label": "class"}, "validation": {"fraction": 0.2, "also": {"more": "gone"}}}))
    assert both == {("/data/validation/also/more", "unknown_dataset"), ("/data/target/price", "unknown_column")}


def test_numbers_that_float32_cannot_tell_apart_are_a_warning() -> None:
    table = Table.from_columns({"id": np.arange(2**40, 2**40 + 50), "x": RNG.random(50), "y": RNG.random(50)})
    raw = {"model": {"kind": "dense", "units": 1}, "loss": "mse", "optimiser": "adam", "data": {"dataset": "d", "target": "y"}}
    warnings = check(Job.model_validate(raw), {"d": table}).warnings
    assert [(w["code"], "'id'" in w["detail"]) for w in warnings] == [("precision_lost", True)]
    assert check(Job.model_validate({**raw, "dtype": "float64"}), {"d": table}).warnings == []


def test_an_image_without_channels_gets_an_axis_for_them_before_windows_over_two_axes() -> None:
    table = {"d": Table.from_columns({"image": RNG.integers(0, 255, (30, 6, 6), dtype=np.uint8), "y": np.arange(30) % 3})}
    raw = {"model": {"kind": "chain", "layers": [{"kind": "max_pool", "pool_size": 2}, "flatten", {"kind": "dense", "units": 3}]},
           "loss": "logit_cross_entropy", "optimiser": "adam", "data": {"dataset": "d", "target": "y"}}
    summary = check(Job.model_validate(raw), table)
    assert summary.layers[0]["input_shape"] == (6, 6, 1) and summary.spec["data"]["preprocess"]["image"]["channels"] == 1
    assert check(Job.model_validate(summary.spec), table) == summary
    raw["model"]["layers"][0]["dimensions"] = 1
    assert check(Job.model_validate(raw), table).layers[0]["input_shape"] == (6, 6)


def test_whole_numbers_are_classes_to_a_formula_where_the_model_has_as_many_units() -> None:
    table = {"d": Table.from_columns({"x": RNG.random((30, 4)), "y": np.arange(30) % 3})}
    raw = {"model": {"kind": "dense", "units": 3}, "loss": {"kind": "expression", "formula": "-mean(sum(y * log_softmax(y_hat), axis=-1))"},
           "optimiser": "adam", "data": {"dataset": "d", "target": "y"}}
    assert check(Job.model_validate(raw), table).class_names == [0, 1, 2]
    raw |= {"model": {"kind": "dense", "units": 1}, "loss": {"kind": "expression", "formula": "mean((y_hat - y) ** 2)"}}
    assert check(Job.model_validate(raw), table).class_names is None


def test_a_model_that_rebuilds_images_may_end_flat() -> None:
    table = {"d": Table.from_columns({"image": RNG.integers(0, 255, (30, 6, 6), dtype=np.uint8)})}
    raw = {"model": {"kind": "chain", "layers": ["flatten", {"kind": "dense", "units": "target"}]}, "loss": "mse", "optimiser": "adam",
           "data": {"dataset": "d", "target": "@inputs"}}
    assert check(Job.model_validate(raw), table).layers[-1]["output_shape"] == (36,)


def test_a_formula_sees_two_classes_as_nought_and_one_where_the_model_has_one_output() -> None:
    model, formula = {"kind": "dense", "units": 1}, "mean(softplus(y_hat) - y * y_hat)"
    data = {"dataset": "d", "inputs": ["image"], "target": "sex", "batch_size": "full"}
    raw = {"model": model, "optimiser": "adam", "data": data, "epochs": 2}
    ours, _ = ran(Job.model_validate({**raw, "loss": {"kind": "expression", "formula": formula}}))
    theirs, _ = ran(Job.model_validate({**raw, "loss": "logit_binary_cross_entropy"}))
    assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-5)
