"""Targets: the loss decides between classes and numbers; labels that do not fit are refused with what would help."""

import numpy as np
import pytest

from engine.data.encode import gather
from engine.data.fit import Notes
from engine.data.table import Table
from engine.data.target import Goal
from engine.errors import SpecError
from engine.train.job_data import Data
from engine.train.rows.prepare import leaves_of, prepare
from tests.engine.real_tables import real_table

CLASSES = Goal(classes=True)


def prepared(tables, goal=CLASSES, **data):
    notes = Notes()
    tables = {"ds": tables} if isinstance(tables, Table) else tables
    found = prepare(Data.model_validate({"dataset": "ds", "target": "y", **data}), tables, [goal], (), 0, "float64", notes)
    return found, notes


def problem(tables, goal=CLASSES, **data):
    with pytest.raises(SpecError) as error:
        prepared(tables, goal, **data)
    return error.value.problems[0]


def labelled(*labels):
    return Table.from_rows([{"a": i, "y": label} for i, label in enumerate(labels)])


@pytest.mark.parametrize(
    "labels, classes",
    [
        ((3, 1, 2, 1), (1, 2, 3)),
        (("b", "a", "b"), ("a", "b")),
        (("10", "b", "9"), ("9", "10", "b")),
        (("true", "false"), (False, True)),
        ((2.0, 1.0), (1, 2)),
    ],
)
def test_class_names_are_the_distinct_values_numbers_in_order_then_text(labels, classes):
    found, _ = prepared(labelled(*labels))
    assert found.fitted.targets[0].classes == classes
    codes = gather(found.parts["train"].feeds, found.parts["train"].rows, leaves_of(found.fitted, "float64"))["y"]
    assert [str(classes[code]).lower() for code in codes] == [str(label).removesuffix(".0") for label in labels]
    assert codes.dtype == np.int32


def test_an_array_of_numbers_is_a_class_too():
    table = Table.from_columns({"x": [[1.0], [2.0], [3.0]], "y": [7, 5, 7]})
    found, _ = prepared(table)
    assert found.fitted.targets[0].classes == (5, 7) and found.fitted.targets[0].counts == (1, 2)
    assert found.parts["train"].labels is not None and found.parts["train"].labels.tolist() == [1, 0, 1]


def test_rows_without_a_target_are_left_out_with_a_warning_and_the_count():
    found, notes = prepared(labelled("a", None, "b", None))
    assert found.parts["train"].rows.tolist() == [0, 2]
    assert notes.warnings[0].code == "missing_target" and "2 of 4" in notes.warnings[0].detail


def test_one_class_alone_is_refused():
    assert problem(labelled("a", "a", None)).code == "single_class"


def test_numbers_that_are_not_whole_or_too_many_are_no_classes():
    assert problem(labelled(1.5, 2, 3)).code == "continuous_target"
    assert problem(labelled(*range(1001))).code == "continuous_target"


def test_a_loss_for_two_classes_refuses_three():
    found = problem(labelled(0, 1, 2), Goal(classes=True, binary=True))
    assert (found.pointer, found.code) == ("/loss", "output_mismatch")


def test_a_category_is_no_target_for_a_loss_of_numbers():
    found = problem(labelled("a", "b"), Goal())
    assert found.code == "not_numbers" and found.suggestion == "logit_cross_entropy"


def test_unseen_labels_are_refused_with_both_sets_and_strip_is_suggested_where_it_helps():
    train, test = real_table("adult-train.csv", header=False, rows=400), real_table("adult-test.csv", header=False, rows=200)
    tables = {"ds": train, "ds2": test}
    found = problem(tables, target="c14", test={"dataset": "ds2"})
    assert (found.pointer, found.code) == ("/data/test", "unseen_class")
    assert "<=50K." in found.detail and "'>50K'" in found.detail
    assert found.suggestion == '"preprocess": {"c14": {"kind": "auto", "strip": "."}}'
    again, _ = prepared(tables, target="c14", test={"dataset": "ds2"}, preprocess={"c14": {"kind": "auto", "strip": "."}})
    assert again.fitted.targets[0].classes == ("<=50K", ">50K")
    assert set(again.parts["test"].labels.tolist()) == {0, 1}


def test_nothing_is_suggested_where_stripping_does_not_help():
    found = problem({"ds": labelled("a", "b"), "ds2": labelled("a", "c.")}, validation={"dataset": "ds2"})
    assert found.code == "unseen_class" and found.suggestion is None


def test_a_class_missing_from_a_part_is_a_warning():
    _, notes = prepared({"ds": labelled("a", "b"), "ds2": labelled("a", "a")}, validation={"dataset": "ds2"})
    assert [w.code for w in notes.warnings] == ["missing_class"]


def test_a_tables_number_target_is_standardised_for_distances_and_an_array_or_another_loss_is_not():
    table = labelled(1, 3, 8)
    found, _ = prepared(table, Goal(distance=True))
    target = found.fitted.targets[0]
    assert target.shift == (4.0,) and np.isclose(target.scale[0], np.std([1, 3, 8]))
    y = gather(found.parts["train"].feeds, found.parts["train"].rows, leaves_of(found.fitted, "float64"))["y"]
    assert np.allclose(y[:, 0], (np.array([1, 3, 8]) - 4) / np.std([1, 3, 8]))
    assert prepared(table, Goal())[0].fitted.targets[0].shift is None
    assert prepared(Table.from_columns({"x": [[1.0], [2.0]], "y": [1.0, 5.0]}), Goal(distance=True))[0].fitted.targets[0].shift is None


def test_several_number_columns_are_one_target():
    table = Table.from_rows([{"a": 1, "y": 1, "z": 10}, {"a": 2, "y": 3, "z": 30}])
    found, _ = prepared(table, Goal(), target=["y", "z"])
    assert gather(found.parts["train"].feeds, found.parts["train"].rows, leaves_of(found.fitted, "float64"))["y"].tolist() == [[1, 10], [3, 30]]


def test_the_inputs_themselves_may_be_the_target():
    found, _ = prepared(Table.from_rows([{"a": 1, "b": 2}, {"a": 3, "b": 5}]), Goal(), target="@inputs")
    assert found.fitted.targets[0].kind == "inputs" and "y" not in leaves_of(found.fitted, "float64")


def test_weights_are_fed_and_negative_ones_refused():
    table = Table.from_rows([{"a": 1, "w": 2, "y": 0}, {"a": 2, "w": 0.5, "y": 1}, {"a": 2, "w": None, "y": 1}])
    found, notes = prepared(table, weight="w")
    assert gather(found.parts["train"].feeds, found.parts["train"].rows, leaves_of(found.fitted, "float64"))["weight"].tolist() == [2, 0.5]
    assert [c.name for c in found.fitted.columns] == ["a"] and notes.warnings[0].code == "missing_target"
    assert problem(Table.from_rows([{"a": 1, "w": -2, "y": 0}, {"a": 2, "w": 0.5, "y": 1}]), weight="w").code == "out_of_range"
