"""A trained model in use: what it answers to rows, columns, arrays and tables; evaluations; derivatives on request."""

import numpy as np
import pytest

from engine.data import encode
from engine.data.table import Table
from engine.errors import CheckpointError, SpecError
from engine.train.job import Job
from engine.train.ready.build import build
from engine.train.run.checkpoint import pack
from engine.train.trained.gradients import Room, gradients, trained_gradients
from engine.train.trained.predict import Predictor
from tests.engine.real_tables import real_table

ROWS = [{"a": float(i), "city": "Oslo" if i % 3 else "Rome", "y": "yes" if i > 6 else "no", "extra": "unused"} for i in range(12)]


def spec(units=2, **changes):
    return {
        "model": {"kind": "chain", "layers": [{"kind": "dropout", "rate": 0.5}, {"kind": "dense", "units": units}]},
        "loss": "logit_cross_entropy",
        "optimiser": "adam",
        "dtype": "float64",
        "data": {"dataset": "ds", "target": "y", "inputs": ["a", "city"]},
        **changes,
    }


def trained(raw, table, parameters=None, **groups):
    """A predictor of a job whose checkpoint has these parameters, or the initial ones."""
    job = Job.model_validate(raw)
    built = build(job, {"ds": table})
    arrays = {f"parameters/{path}": np.asarray((parameters or {}).get(path, value)) for path, value in built.parameters.items()}
    arrays |= {f"buffers/{path}": value for path, value in built.buffers.items()}
    arrays |= {f"best/{path}": np.zeros_like(value) for path, value in built.parameters.items()}
    return Predictor(raw, pack(arrays, built.meta), **groups)


def fixed():
    """A model that says yes where `a` is above its mean, and looks at nothing else."""
    weight = np.zeros((3, 2))
    weight[0, 1] = 2.0
    return trained(spec(), Table.from_rows(ROWS), {"layers.1.weight": weight, "layers.1.bias": np.zeros(2)})


def codes(error):
    return {(p.pointer, p.code) for p in error.value.problems}


def test_a_prediction_has_classes_as_in_the_data_and_probabilities_by_class_name():
    answer = fixed().predict(rows=[{"a": 0, "city": "Oslo"}, {"a": "11", "city": "Rome"}])
    assert answer["class_names"] == [False, True] or answer["class_names"] == ["no", "yes"]
    assert [str(c) for c in answer["classes"]] == [str(answer["class_names"][0]), str(answer["class_names"][1])]
    probabilities = np.array(answer["probabilities"])
    logits = np.array(answer["outputs"])
    assert probabilities.shape == (2, 2) and np.allclose(probabilities, np.exp(logits) / np.exp(logits).sum(1, keepdims=True))
    assert answer["warnings"] == []


def test_dropout_is_off_in_predictions_and_the_same_rows_give_the_same_answer():
    model = trained(spec(), Table.from_rows(ROWS))
    assert model.predict(rows=ROWS)["outputs"] == model.predict(rows=ROWS)["outputs"]
    assert np.allclose(model.predict(rows=ROWS[3:4])["outputs"], model.predict(rows=ROWS)["outputs"][3:4])


def test_columns_and_a_table_answer_like_rows():
    model = fixed()
    expected = model.predict(rows=ROWS)["outputs"]
    assert model.predict(columns={"a": [r["a"] for r in ROWS], "city": [r["city"] for r in ROWS]})["outputs"] == expected
    assert model.predict(table=Table.from_rows(ROWS))["outputs"] == expected


def test_missing_values_are_imputed_unknown_categories_warned_about_and_unused_columns_ignored():
    answer = fixed().predict(rows=[{"a": 1, "city": "Oslo"}, {"a": None, "city": "Atlantis", "extra": 3, "y": "no"}, {"a": 2, "city": "Utopia"}])
    assert np.isfinite(answer["outputs"]).all()
    assert [(w["pointer"], w["code"]) for w in answer["warnings"]] == [("/1/city", "unseen_category")]
    assert "'Atlantis', 'Utopia'" in answer["warnings"][0]["detail"]
    assert [w["pointer"] for w in fixed().predict(columns={"a": [1], "city": ["Atlantis"]})["warnings"]] == ["/city"]


def test_absent_and_unknown_columns_are_problems():
    with pytest.raises(SpecError) as error:
        fixed().predict(rows=[{"a": 1, "citi": "Oslo"}])
    assert codes(error) == {("/0/city", "missing_column"), ("/0/citi", "unknown_column")}
    with pytest.raises(SpecError) as error:
        fixed().predict(table=Table.from_rows([{"a": 1}]))
    assert codes(error) == {("/city", "missing_column")}


def test_a_model_with_one_unit_gives_two_columns_of_probabilities():
    model = trained(spec(1, loss="logit_binary_cross_entropy"), Table.from_rows(ROWS), {"layers.1.weight": np.array([[3.0], [0], [0]])})
    answer = model.predict(rows=ROWS)
    p = np.array(answer["probabilities"])
    assert p.shape == (12, 2) and np.allclose(p.sum(1), 1) and np.allclose(p[:, 1], 1 / (1 + np.exp(-np.array(answer["outputs"])[:, 0])))
    assert answer["classes"] == [answer["class_names"][k] for k in p.argmax(1)]


def test_predictions_of_numbers_are_in_the_targets_units():
    rows = [{"a": float(i), "y": 100 + 10.0 * i} for i in range(10)]
    model = trained(spec(1, loss="mse", data={"dataset": "ds", "target": "y"}), Table.from_rows(rows), {"layers.1.weight": np.ones((1, 1))})
    answer = model.predict(rows=[{"a": 0}, {"a": 20}])
    assert np.allclose(answer["outputs"], [[100], [300]]) and "classes" not in answer
    found = model.evaluate(Table.from_rows(rows))
    assert found["loss"] == pytest.approx(0, abs=1e-9) and found["metrics"]["r2"] == pytest.approx(1)


def test_arrays_go_to_the_models_input_as_rows_or_by_name():
    table = Table.from_columns({"pixels": np.arange(24, dtype=np.float32).reshape(6, 4), "y": [0, 1, 2, 0, 1, 2]})
    model = trained(spec(3, data={"dataset": "ds", "target": "y"}), table)
    rows = np.arange(8.0).reshape(2, 4).tolist()
    expected = model.predict(rows=[{"pixels": row} for row in rows])["outputs"]
    for inputs in (rows, [rows], {"x": rows}):
        assert model.predict(inputs=inputs)["outputs"] == expected
    with pytest.raises(SpecError) as error:
        model.predict(inputs=[[1.0, 2.0]])
    assert codes(error) == {("/x", "shape_mismatch")}


def test_losses_of_rows_come_with_the_prediction_where_asked_for():
    answer = fixed().predict(rows=[*ROWS[:2], {"a": 3, "city": "Rome", "y": None}], losses=True)
    p = np.array(answer["probabilities"])
    assert answer["losses"][:2] == pytest.approx(-np.log(p[:2, 0])) and answer["losses"][2] is None


def test_more_rows_than_fit_into_one_chunk_are_the_same_as_one_by_one():
    rows = [{"a": i / 100, "city": "Oslo"} for i in range(1500)]
    model = fixed()
    assert np.allclose(model.predict(rows=rows)["outputs"][1499], model.predict(rows=rows[1499:])["outputs"][0])
    with pytest.raises(SpecError) as error:
        model.predict(rows=[])
    assert codes(error) == {("", "no_rows")}


def test_the_best_weights_are_taken_where_asked_for():
    assert np.allclose(trained(spec(), Table.from_rows(ROWS), best=True).predict(rows=ROWS)["outputs"], 0)


def test_a_checkpoint_of_another_model_or_a_broken_one_is_refused():
    job = Job.model_validate(spec())
    built = build(job, {"ds": Table.from_rows(ROWS)})
    with pytest.raises(CheckpointError):
        Predictor(job, pack({"parameters/layers.1.weight": np.zeros((1, 1))}, built.meta))
    with pytest.raises(CheckpointError):
        Predictor(job, b"not a checkpoint at all")


# ---------------------------------------------------------------- evaluations


def test_an_evaluation_tells_loss_metrics_what_is_confused_and_where_it_is_worst():
    found = fixed().evaluate(Table.from_rows(ROWS), ["accuracy", {"kind": "f1"}])
    truth, said = [i > 6 for i in range(12)], [i > 5.5 for i in range(12)]
    counts = [[sum(t == a and s == b for t, s in zip(truth, said, strict=True)) for b in (False, True)] for a in (False, True)]
    assert found["confusion_matrix"]["counts"] == counts and found["rows"] == 12
    assert found["metrics"]["accuracy"] == pytest.approx(11 / 12) and set(found["metrics"]) == {"accuracy", "f1"}
    assert found["per_class"][1] == {"class": found["confusion_matrix"]["labels"][1], "rows": 5, "precision": 5 / 6, "recall": 1.0, "f1": 10 / 11}
    assert found["worst"][0]["row"] == 6 and found["worst"][0]["loss"] >= found["worst"][1]["loss"] and len(found["worst"]) == 10
    losses = fixed().predict(rows=ROWS, losses=True)["losses"]
    assert found["loss"] == pytest.approx(np.mean(losses))


def test_rows_without_a_target_are_left_out_and_unknown_labels_refused():
    found = fixed().evaluate(Table.from_rows([*ROWS, {"a": 3, "city": "Oslo", "y": None}]))
    assert found["rows"] == 12 and [w["code"] for w in found["warnings"]] == ["missing_target"]
    with pytest.raises(SpecError) as error:
        fixed().evaluate(Table.from_rows([{"a": 1, "city": "Oslo", "y": "perhaps"}, {"a": 1, "city": "Oslo", "y": "no"}]))
    assert codes(error) == {("/dataset", "unseen_class")}
    with pytest.raises(SpecError) as error:
        fixed().evaluate(Table.from_rows([{"a": 1, "city": "Oslo"}]))
    assert codes(error) == {("/y", "missing_column")}
    with pytest.raises(SpecError) as error:
        fixed().evaluate(Table.from_rows(ROWS), ["r2"])
    assert codes(error) == {("/metrics/0", "metric_mismatch")}


def test_a_split_is_evaluated_on_the_rows_that_the_job_kept():
    raw = spec(data={"dataset": "ds", "target": "y", "inputs": ["a", "city"], "validation": {"fraction": 0.25, "by": "last"}})
    model = trained(raw, Table.from_rows([*ROWS[6:], *ROWS[:6], {**ROWS[0], "y": "yes"}]))
    tables = {"ds": Table.from_rows([*ROWS[6:], *ROWS[:6], {**ROWS[0], "y": "yes"}])}
    assert model.evaluate_split(tables, "validation")["rows"] == 3 and model.evaluate_split(tables, "train")["rows"] == 10
    assert {w["row"] for w in model.evaluate_split(tables, "validation")["worst"]} == {10, 11, 12}
    with pytest.raises(SpecError) as error:
        model.evaluate_split(tables, "test")
    assert codes(error) == {("/split", "unknown_split")}


def test_titanic_rows_are_taken_as_they_were_uploaded():
    table = real_table("titanic.csv")
    raw = spec(1, loss="logit_binary_cross_entropy", data={"dataset": "ds", "target": "survived", "inputs": ["*", "!alive"]}, dtype="float32")
    model = trained(raw, table)
    whole = model.predict(table=table)
    some = model.predict(rows=table.preview(0, 50))
    assert np.allclose(some["outputs"], whole["outputs"][:50], atol=1e-6) and whole["class_names"] == [0, 1] and some["warnings"] == []


# ---------------------------------------------------------------- gradients

REQUEST = {
    "model": {"kind": "chain", "layers": [{"kind": "dense", "units": 3, "activation": "tanh"}, {"kind": "dense", "units": 2}]},
    "loss": "logit_cross_entropy",
    "data": {"x": [[1.0, 2.0], [3.0, -4.0], [0.5, 0.25]], "y": [0, 1, 1]},
    "of": ["parameters", "inputs"],
}


def test_three_ways_to_the_same_gradients():
    reverse = gradients(REQUEST)
    assert set(reverse["gradients"]) == {"layers.0.weight", "layers.0.bias", "layers.1.weight", "layers.1.bias", "inputs"} == set(reverse["norms"])
    for mode in ("forward", "finite_difference"):
        other = gradients({**REQUEST, "mode": mode})
        assert other["value"] == pytest.approx(reverse["value"])
        for name, gradient in reverse["gradients"].items():
            assert np.allclose(other["gradients"][name], gradient, atol=1e-7)


def test_gradients_take_given_parameters_and_rows_of_a_table():
    rows = {"rows": [{"a": 1.0, "y": 3.0}, {"a": 2.0, "y": 5.0}], "target": "y"}
    request = {"model": {"kind": "dense", "units": 1}, "loss": "mse", "data": rows, "parameters": {"weight": [[2.0]], "bias": [0.0]}}
    found = gradients(request)
    assert (
        found["value"] == pytest.approx(1.0)
        and np.allclose(found["gradients"]["weight"], [[-3.0]])
        and np.allclose(found["gradients"]["bias"], [-2.0])
    )
    for wrong, place in (
        ({"weigth": [[1.0]]}, ("/parameters/weigth", "unknown_path")),
        ({"bias": [[1.0]]}, ("/parameters/bias", "shape_mismatch")),
    ):
        with pytest.raises(SpecError) as error:
            gradients({**request, "parameters": wrong})
        assert codes(error) == {place}


def test_one_row_has_gradients_and_whole_numbers_are_class_numbers():
    model = {"kind": "dense", "units": 4}
    data = {"x": [[1.0, 2.0]], "y": [2]}
    found = gradients({"model": model, "loss": "logit_cross_entropy", "data": data, "parameters": {"weight": [[0.0] * 4] * 2}})
    assert found["value"] == pytest.approx(np.log(4)) and np.allclose(found["gradients"]["bias"], [0.25, 0.25, -0.75, 0.25])
    binary = gradients({"model": {"kind": "dense", "units": 1}, "loss": "logit_binary_cross_entropy", "data": {"x": [[0.0]], "y": [1]}})
    assert binary["value"] == pytest.approx(np.log(2)) and np.allclose(binary["gradients"]["bias"], [-0.5])


def test_a_trained_model_has_gradients_with_its_own_preprocessing():
    model = fixed()
    data = {"rows": [{"a": 3.0, "city": "Oslo", "y": "no"}, {"a": 9.0, "city": "Rome", "y": "yes"}], "target": "y"}
    found = trained_gradients(model, {"data": data, "of": ["parameters", "inputs"]})
    rows = model.predict(rows=data["rows"], losses=True)
    assert found["value"] == pytest.approx(np.mean(rows["losses"]), abs=1) and np.shape(found["gradients"]["layers.1.weight"]) == (3, 2)
    forward = trained_gradients(model, {"data": data, "of": ["parameters", "inputs"], "mode": "forward"})
    assert all(np.allclose(forward["gradients"][name], value, atol=1e-9) for name, value in found["gradients"].items())


def test_a_trained_model_with_embedded_columns_has_gradients_in_float64():
    rows = [{"a": k / 3, "b": "pqr"[k % 3], "y": k % 2} for k in range(12)]
    raw = spec(2, data={"dataset": "ds", "target": "y", "preprocess": {"b": {"kind": "embedding", "units": 3}}}, dtype="float32")
    model = trained(raw, Table.from_rows(rows))
    found = trained_gradients(model, {"data": {"rows": rows}, "of": ["parameters", "inputs"]})["gradients"]
    moved = trained_gradients(model, {"data": {"rows": rows}, "of": ["parameters", "inputs"], "mode": "finite_difference"})["gradients"]
    assert {"columns.b.weight", "inputs"} <= set(found) == set(moved)
    assert all(np.allclose(found[name], moved[name], atol=1e-8) for name in found)


@pytest.mark.parametrize("rows, place", [
    ([{"a": 3.0, "city": "Oslo", "y": None}], ("/data", "no_rows")),
    ([{"a": 3.0, "city": "Oslo", "y": "no"}, {"a": 3.0, "city": "Oslo", "y": "no", "colour": 1}], ("/colour", "unknown_column"))])
def test_rows_for_gradients_have_targets_and_no_other_columns(rows, place):
    with pytest.raises(SpecError) as error:
        trained_gradients(fixed(), {"data": {"rows": rows}})
    assert codes(error) == {place}


def test_a_model_too_large_for_gradients_is_refused_before_it_is_made():
    huge = {**REQUEST, "model": {"kind": "chain", "layers": [{"kind": "dense", "units": 1_000_000_000}, {"kind": "dense", "units": 2}]}}
    wide = {**REQUEST, "model": {"kind": "chain", "layers": [{"kind": "reshape", "shape": [2, 1]}, {"kind": "upsample", "scale": [10**9]},
                                                             {"kind": "global_mean_pool"}, {"kind": "flatten"}, {"kind": "dense", "units": 2}]}}
    for request in (huge, wide):
        with pytest.raises(SpecError) as error:
            gradients({**request, "of": ["inputs"]})
        assert codes(error) == {("/model", "model_too_large")}
    with pytest.raises(SpecError) as error:
        gradients({**REQUEST, "data": {**REQUEST["data"], "target": []}})
    assert {place for place, _ in codes(error)} == {"/data/target"}


def test_rows_and_derivatives_too_many_for_a_request_are_refused():
    for room, wrong in ((Room(max_memory_bytes=100), ("/data", "too_many_rows")), (Room(max_numbers=1), ("/of", "too_many_numbers"))):
        with pytest.raises(SpecError) as error:
            trained_gradients(fixed(), {"data": {"rows": ROWS}}, room)
        assert codes(error) == {wrong}


@pytest.mark.parametrize(("weights", "code"), [(["some", "text"], "not_numbers"), ([-1.0, 2.0], "out_of_range"), ([0.0, 0.0], "out_of_range"),
                                               ([1.0, None], None)])
def test_what_no_training_would_be_weighted_by_weights_no_evaluation(weights, code):
    rows = [{"a": k / 3, "y": k % 2, "w": 1.0 + k} for k in range(12)]
    model = trained(spec(data={"dataset": "ds", "target": "y", "weight": "w"}), Table.from_rows(rows))
    table = Table.from_rows([{**row, "w": weights[k % 2]} for k, row in enumerate(rows)])
    if code is None:
        found = model.evaluate(table)
        assert np.isfinite(found["loss"]) and found["rows"] == 6 and "no target or weight" in found["warnings"][0]["detail"]
        return
    with pytest.raises(SpecError) as error:
        model.evaluate(table)
    assert codes(error) == {("/dataset", code)}


def test_a_loss_of_all_rows_together_has_none_for_each():
    raw = spec(1, loss={"kind": "expression", "formula": "mean((y_hat - y) ** 2)"}, data={"dataset": "ds", "target": "a", "inputs": ["city"]})
    model = trained(raw, Table.from_rows(ROWS))
    with pytest.raises(SpecError) as error:
        model.predict(rows=ROWS[:3], losses=True)
    assert codes(error) == {("", "no_losses")}


def test_tables_without_rows_are_not_predicted():
    with pytest.raises(SpecError) as error:
        fixed().predict(columns={"a": np.zeros(0), "city": np.zeros(0)})
    assert codes(error) == {("", "no_rows")}


def test_a_wrong_request_for_gradients_is_told_with_its_place():
    for changes, place in (
        ({"mode": "sideways"}, ("/mode", "invalid_value")),
        ({"model": {"kind": "dens"}}, ("/model/kind", "unknown_kind")),
        ({"data": {"dataset": "ds_1", "target": "y"}}, ("/data/dataset", "inline_only")),
    ):
        with pytest.raises(SpecError) as error:
            gradients({**REQUEST, **changes})
        assert place in codes(error)


def test_inputs_that_hold_other_things_than_numbers_are_refused_whatever_they_are() -> None:
    for bad in ([1, {}, {"a": 2.0}], [None, "x"], [[1, 2], [None, {}]], [10**400, {}]):
        with pytest.raises(SpecError) as refused:
            encode._array(bad, "/x")
        assert refused.value.problems[0].code in ("not_numbers", "ragged")
