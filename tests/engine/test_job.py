"""The job document: what is accepted and normalised, and every problem told with its place and the nearest name."""

import json

import numpy as np
import pytest
from pydantic import ValidationError

from engine.data.table import Table
from engine.errors import SpecError
from engine.spec import problems
from engine.train.job import Job
from engine.train.ready.build import check
from engine.train.ready.refusal import references, refusal
from tests.engine.real_tables import real_table

RNG = np.random.default_rng(0)
TABLES = {"ds": Table.from_columns({"x": RNG.random((60, 8)), "label": np.arange(60) % 3, "value": RNG.random(60)})}


def spec(**changes):
    return {
        "model": {"kind": "chain", "layers": [{"kind": "dense", "units": 16, "activation": "relu"}, {"kind": "dense", "units": 3}]},
        "loss": "logit_cross_entropy",
        "optimiser": "adam",
        "data": {"dataset": "ds", "inputs": ["x"], "target": "label"},
        **changes,
    }


def data(**changes):
    return {"dataset": "ds", "inputs": ["x"], "target": "label", **changes}


def layers(*found):
    return {"model": {"kind": "chain", "layers": list(found)}}


def dense(units, **more):
    return {"kind": "dense", "units": units, **more}


def refused(raw, tables=TABLES, limits=None):
    """{(pointer, code): suggestion} of all problems of a job that must not be accepted."""
    try:
        job = Job.model_validate(raw)
    except ValidationError as error:
        found = problems(error, raw)
    else:
        with pytest.raises(SpecError) as error:
            check(job, tables, limits)
        found = error.value.problems
    return {(p.pointer, p.code): p.suggestion for p in found}


def test_the_contracts_example_is_accepted_and_normalised_to_a_fixed_point():
    raw = {
        "name": "digits",
        **layers(dense(64, activation="relu"), {"kind": "dropout", "rate": 0.1}, dense(10)),
        "loss": "logit_cross_entropy",
        "optimiser": {"kind": "adam", "learning_rate": 0.001},
        "data": {"dataset": "sample:digits", "target": "label", "batch_size": 32, "validation": {"fraction": 0.2}},
        "epochs": 10,
        "metrics": ["accuracy"],
        "seed": 0,
    }
    job = Job.model_validate(raw)
    normalised = json.loads(json.dumps(job.spec()))
    assert Job.model_validate(normalised) == job and Job.model_validate(normalised).spec() == job.spec()
    assert normalised["limits"] == {"max_seconds": 86400.0} and normalised["max_attempts"] == 3 and normalised["data"]["sampling"] == "shuffle"
    assert job.references() == ["sample:digits"]


def test_both_spellings_and_other_names_of_kinds_are_the_same_job():
    raw = spec(loss="CrossEntropyLoss", metrics=["acc"])
    raw["optimizer"] = raw.pop("optimiser")
    assert Job.model_validate(raw) == Job.model_validate(spec(metrics=[{"kind": "accuracy"}]))
    raw["optimizer"] = {"kind": "rmsprop", "centered": True}
    assert Job.model_validate(raw).spec()["optimiser"]["centred"] is True


def test_a_job_is_frozen():
    with pytest.raises(ValidationError):
        Job.model_validate(spec()).epochs = 3


@pytest.mark.parametrize(
    "changes, pointer, code, suggestion",
    [
        (layers({"kind": "dens", "units": 3}), "/model/layers/0/kind", "unknown_kind", "dense"),
        (layers(dense(-1)), "/model/layers/0/units", "out_of_range", None),
        (layers(dense("many")), "/model/layers/0/units", "invalid_value", None),
        ({"optimizer": "adam"}, "/optimizer", "unknown_field", "optimiser"),
        ({"optimiser": {"kind": "rmsprop", "centred": True, "centered": True}}, "/optimiser/centered", "unknown_field", "centred"),
        ({"optimiser": {"kind": "adam", "lr": 0.1}}, "/optimiser/lr", "unknown_field", "learning_rate"),
        ({"optimiser": {"kind": "adam", "learning_rate": float("nan")}}, "/optimiser/learning_rate", "not_finite", None),
        ({"optimiser": ["clip_global_norm", {"kind": "adam", "learning_rate": -1}]}, "/optimiser/1/learning_rate", "out_of_range", None),
        ({"loss": {"kind": "huber", "delta": float("inf")}}, "/loss/delta", "not_finite", None),
        ({"loss": "mze"}, "/loss", "unknown_kind", "mse"),
        ({"epochs": "10"}, "/epochs", "invalid_value", None),
        ({"epochs": 0}, "/epochs", "out_of_range", None),
        ({"epoch": 3}, "/epoch", "unknown_field", "epochs"),
        ({"data": data(batchsize=3)}, "/data/batchsize", "unknown_field", "batch_size"),
        ({"data": data(batch_size="all")}, "/data/batch_size", "invalid_value", None),
        ({"data": data(target=3)}, "/data/target", "invalid_value", None),
        ({"data": data(validation={"fraction": 1.5})}, "/data/validation/fraction", "out_of_range", None),
        ({"data": data(preprocess={"x": "standard"})}, None, None, None),
        ({"data": data(preprocess={"x": "onehott"})}, "/data/preprocess/x", "unknown_kind", "one_hot"),
        ({"callbacks": ["early_stoping"]}, "/callbacks/0", "unknown_kind", "early_stopping"),
        ({"callbacks": [{"kind": "stop_when", "metric": "loss"}]}, "/callbacks/0", "invalid_value", None),
        ({"metadata": {str(i): "" for i in range(17)}}, "/metadata", "out_of_range", None),
        ({"priority": 101}, "/priority", "out_of_range", None),
    ],
)
def test_a_wrong_field_is_told_with_its_place_and_what_was_meant(changes, pointer, code, suggestion):
    if pointer is None:
        Job.model_validate(spec(**changes))
    else:
        found = refused(spec(**changes))
        assert found.get((pointer, code), "absent") == suggestion


def test_a_device_has_one_of_three_names_and_whether_it_is_there_is_known_where_the_job_runs():
    assert {pointer for pointer, _ in refused(spec(device="tpu"))} == {"/device"}
    for device in ("auto", "cpu", "cuda"):
        check(Job.model_validate(spec(device=device)), TABLES)


def test_all_wrong_fields_are_told_at_once():
    raw = spec(**layers(dense(-1), {"kind": "dens"}), loss="mze", epochs=-3, data=data(batchsize=1))
    assert len(refused(raw)) >= 5


# ---------------------------------------------------------------- shapes and data


@pytest.mark.parametrize(
    "changes, pointer, code",
    [
        ({"data": data(target="lable")}, "/data/target", "unknown_column"),
        ({"data": data(target="value")}, "/data/target", "continuous_target"),
        ({"data": {"dataset": "ds", "inputs": ["x"]}}, "/data/target", "missing_target"),
        ({"data": data(dataset="ds_gone")}, "/data/dataset", "unknown_dataset"),
        (layers(dense(16), dense(4)), "/model/layers/1", "output_mismatch"),
        ({"loss": "cross_entropy"}, "/loss", "needs_probabilities"),
        ({"loss": "logit_binary_cross_entropy"}, "/loss", "output_mismatch"),
        ({"loss": {"kind": "logit_cross_entropy", "class_weights": {"7": 2}}}, "/loss/class_weights/7", "unknown_class"),
        ({"metrics": ["r2"]}, "/metrics/0", "metric_mismatch"),
        ({"metrics": ["accuracy", "accuracy"]}, "/metrics/1", "duplicate_name"),
        ({"monitor": "val_loss"}, "/monitor", "unknown_metric"),
        ({"callbacks": [{"kind": "early_stopping", "monitor": "accurcy"}]}, "/callbacks/0/monitor", "unknown_metric"),
        ({"trainable": ["layers.7.*"]}, "/trainable/0", "unknown_path"),
        ({"trainable": ["!*"]}, "/trainable", "nothing_trained"),
        (
            {"optimiser": {"kind": "adam", "groups": [{"paths": ["layers.9"], "learning_rate": 0.1}]}},
            "/optimiser/groups/0/paths/0",
            "unknown_path",
        ),
        (layers({"kind": "reshape", "shape": [3, 5]}, dense(3)), "/model/layers/0", "shape_mismatch"),
        (layers({"kind": "flatten"}), "/model/layers/0", "output_mismatch"),
        ({"data": data(target="value"), "loss": "mse"}, "/model/layers/1", "output_mismatch"),
        ({"data": data(target="value", sampling="balanced"), "loss": "mse", **layers(dense(1))}, "/data/sampling", "no_classes"),
    ],
)
def test_what_does_not_fit_is_told_with_its_place(changes, pointer, code):
    assert (pointer, code) in refused(spec(**changes))


def test_a_shape_that_does_not_fit_deep_in_the_model_names_the_layer_and_both_shapes():
    inner = {"kind": "skip_connection", "layer": {"kind": "chain", "layers": [dense(6), dense(5)]}, "connection": "add"}
    with pytest.raises(SpecError) as error:
        check(Job.model_validate(spec(**layers(dense(6), inner, dense(3)))), TABLES)
    problem = error.value.problems[0]
    assert problem.pointer.startswith("/model/layers/1") and problem.code == "shape_mismatch"
    assert "layers.1" in problem.detail and "[5]" in problem.detail and "[6]" in problem.detail


class Quota:
    max_parameters: int | None = 1_000_000
    max_memory_bytes: int | None = 10**9


def test_a_model_larger_than_the_quota_is_refused_with_the_estimate_before_anything_is_allocated():
    with pytest.raises(SpecError) as error:
        check(Job.model_validate(spec(**layers(dense(10**9), dense(3)))), TABLES, Quota())
    problem = error.value.problems[0]
    assert (problem.pointer, problem.code) == ("/model", "model_too_large") and "12,000,000,003 parameters" in problem.detail
    assert ("/limits/max_memory_bytes", "model_too_large") in refused(spec(limits={"max_memory_bytes": 100}))


def test_the_normalised_spec_shows_the_defaults_that_the_data_decides():
    summary = check(Job.model_validate(spec(data=data(validation={"fraction": 0.2}))), TABLES)
    assert [metric["kind"] for metric in summary.spec["metrics"]] == ["accuracy"] and summary.spec["monitor"] == "valid_loss"
    again = check(Job.model_validate(summary.spec), TABLES)
    assert again == summary


def test_softmax_before_a_loss_of_logits_is_a_warning():
    summary = check(Job.model_validate(spec(**layers(dense(3, activation="softmax")))), TABLES)
    assert [w["code"] for w in summary.warnings] == ["applied_twice"]
    assert check(Job.model_validate(spec(loss="cross_entropy", **layers(dense(3, activation="softmax")))), TABLES).warnings == []


def test_a_batch_larger_than_the_rows_becomes_the_rows_with_a_warning():
    summary = check(Job.model_validate(spec(data=data(batch_size=100))), TABLES)
    assert summary.steps_per_epoch == 1 and [w["code"] for w in summary.warnings] == ["batch_size_reduced"]


# ---------------------------------------------------------------- expressions


@pytest.mark.parametrize(
    "formula",
    [
        "__import__('os').system('x')",
        "y_hat.__class__",
        "y[0]",
        "(lambda: 1)()",
        "open('x')",
        "1 if y else 2",
        "mean(y_hat",
        "a < y < y_hat",
        "f'{y}'",
        "'text'",
        "[y for y in y]",
        "mean(y_hatt)",
        "sum_squares(y)",
        "-" * 900 + "1",
        "(" * 300,
        "mean(x=y := 1)",
        "y_hat @ y",
        "1e999",
        "*y",
    ],
)
def test_a_formula_outside_the_grammar_is_refused(formula):
    assert ("/loss/formula", "invalid_expression") in refused(spec(loss={"kind": "expression", "formula": formula}))


@pytest.mark.parametrize(
    "formula, code",
    [
        ("mean(y_hat.price)", "unknown_name"),
        ("y_hat * ones", "invalid_expression"),
        ("x - y", "shape_mismatch"),
        ("sum_abs('layer.9')", "unknown_path"),
        ("matmul(y, y)", "shape_mismatch"),
        ("mean(weight)", "unknown_name"),
    ],
)
def test_a_formula_that_does_not_fit_the_job_is_refused(formula, code):
    assert ("/loss/formula", code) in refused(spec(data=data(target="value"), loss={"kind": "expression", "formula": formula}, **layers(dense(1))))


def test_adults_labels_with_a_full_stop_are_refused_with_the_strip_that_helps():
    tables = {"train": real_table("adult-train.csv", header=False, rows=500), "test": real_table("adult-test.csv", header=False, rows=300)}
    raw = spec(**layers(dense("target")), data={"dataset": "train", "target": "c14", "test": {"dataset": "test"}})
    ((place, suggestion),) = refused(raw, tables).items()
    assert place == ("/data/test", "unseen_class") and '"strip": "."' in suggestion
    raw["data"]["preprocess"] = {"c14": {"strip": "."}}
    summary = check(Job.model_validate(raw), tables)
    assert summary.class_names == ["<=50K", ">50K"] and summary.rows == {"train": 500, "valid": 0, "test": 300}


def test_wrong_fields_and_wrong_columns_are_told_together():
    raw = spec(**layers({"kind": "dens", "units": 3}), data=data(target="lable", inputs=["x", "z*", "w"]))
    assert references(raw) == ["ds"]
    with pytest.raises(ValidationError) as error:
        Job.model_validate(raw)
    found = {(p.pointer, p.code): p.suggestion for p in refusal(error.value, raw, TABLES)}
    assert found == {
        ("/model/layers/0/kind", "unknown_kind"): "dense",
        ("/data/target", "unknown_column"): "label",
        ("/data/inputs/2", "unknown_column"): None,
    }
    assert {p.code for p in refusal(error.value, raw, {})} == {"unknown_kind", "unknown_dataset"}
