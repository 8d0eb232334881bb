"""Columns of tables become features: what is automatic, what can be asked for, and what a prediction's rows become."""

import numpy as np
import pytest

from engine.data.encode import gather, table_of_columns, table_of_inputs, table_of_rows
from engine.data.fit import Notes
from engine.data.fitted import Fitted
from engine.data.table import Table
from engine.data.target import Goal
from engine.errors import SpecError
from engine.train.job_data import Data
from engine.train.rows.prepare import leaves_of, prepare
from tests.engine.real_tables import real_table

ROWS = [
    {"age": 20, "city": "Oslo", "member": "true", "y": 1},
    {"age": None, "city": "Rome", "member": "false", "y": 2},
    {"age": 40, "city": "Oslo", "member": "true", "y": 3},
    {"age": 60, "city": None, "member": "true", "y": 4},
]


def prepared(table, goals=(Goal(),), lookups=(), **data):
    notes = Notes()
    found = prepare(Data.model_validate({"dataset": "ds", **data}), {"ds": table}, goals, lookups, 0, "float64", notes)
    return found, notes


def features(found, part="train", leaf="x"):
    chosen = found.parts[part]
    return gather(chosen.feeds, chosen.rows, leaves_of(found.fitted, "float64"))[leaf]


def codes(error):
    return {(p.pointer, p.code) for p in error.value.problems}


def test_a_tables_numbers_are_standardised_with_an_indicator_for_missing_ones_and_its_categories_one_hot():
    found, _ = prepared(Table.from_rows(ROWS), target="y", preprocess={"city": "one_hot"})
    x = features(found)
    assert x.shape == (4, 2 + 2 + 1)
    std = np.std([20, 40, 40, 60])
    assert np.allclose(x[:, 0], (np.array([20, 40, 40, 60]) - 40) / std)
    assert x[:, 1].tolist() == [0, 1, 0, 0]
    assert x[:, 2:4].tolist() == [[1, 0], [0, 1], [1, 0], [0, 0]]
    assert x[:, 4].tolist() == [1, 0, 1, 1]


def test_what_was_fitted_survives_json_and_encodes_the_same():
    found, _ = prepared(Table.from_rows(ROWS), target="y")
    again = Fitted.model_validate_json(found.fitted.model_dump_json())
    assert again == found.fitted
    table = table_of_rows(again, ROWS)
    x = gather(again.input_feeds(table.columns), np.arange(4), leaves_of(found.fitted, "float64"))["x"]
    assert np.array_equal(x, features(found))


def test_numeric_arrays_reach_the_model_as_given():
    table = Table.from_columns({"x": [[1.5, 2], [3, 400]], "y": [0.0, 1.0]})
    assert features(prepared(table, target="y")[0]).tolist() == [[1.5, 2], [3, 400]]


def test_bytes_of_images_are_divided_by_255():
    table = Table.from_columns({"image": np.arange(8, dtype=np.uint8).reshape(2, 2, 2) * 30, "y": [0, 1]})
    x = features(prepared(table, target="y")[0])
    assert x.shape == (2, 2, 2)
    assert np.allclose(x.ravel(), np.arange(8) * 30 / 255)


@pytest.mark.parametrize(
    "kind, expected",
    [
        ("none", [0, 1, 3]),
        ({"kind": "min_max"}, [0, 1 / 3, 1]),
        ({"kind": "scale", "by": 10}, [0, 10, 30]),
        ("standardise", (np.array([0, 1, 3]) - 4 / 3) / np.std([0, 1, 3])),
        ("one_hot", [[1, 0, 0], [0, 1, 0], [0, 0, 1]]),
    ],
)
def test_each_kind_of_preprocessing_does_what_it_says(kind, expected):
    table = Table.from_rows([{"a": 0, "y": 1}, {"a": 1, "y": 2}, {"a": 3, "y": 3}])
    x = features(prepared(table, target="y", preprocess={"a": kind})[0])
    assert np.allclose(x, np.reshape(expected, (3, -1)))


def test_log_takes_the_logarithm_before_it_standardises():
    table = Table.from_rows([{"a": v, "y": v} for v in (0, 9, 99)])
    x = features(prepared(table, target="y", preprocess={"a": "log"})[0]).ravel()
    logs = np.log1p([0, 9, 99])
    assert np.allclose(x, (logs - logs.mean()) / logs.std())


def test_impute_fills_with_the_median_the_most_frequent_or_a_value_and_makes_no_indicator():
    table = Table.from_rows([{"a": v, "y": 1} for v in (1, 1, 4, 10, None)])
    for impute, value in (("median", 2.5), ("mean", 4), ("most_frequent", 1), (-7, -7)):
        x = features(prepared(table, target="y", preprocess={"a": {"kind": "none", "impute": impute}})[0])
        assert x.tolist() == [[1], [1], [4], [10], [value]]


def test_a_date_becomes_its_parts():
    table = Table.from_rows([{"when": "2024-05-31", "y": 1}, {"when": "2025-01-01", "y": 2}, {"when": "2023-01-02", "y": 2}])
    found, _ = prepared(table, target="y", preprocess={"when": {"kind": "datetime", "parts": ["year", "weekday"]}})
    column = found.fitted.columns[0]
    raw = features(found) / np.array(column.scale) + np.array(column.shift)
    assert np.allclose(raw, [[2024, 4], [2025, 2], [2023, 0]])


def test_more_than_32_categories_are_embedded_and_unknown_ones_have_the_last_vector():
    rows = [{"word": f"w{i % 40}", "y": i % 2} for i in range(2000)]
    found, _ = prepared(Table.from_rows(rows), target="y")
    column = found.fitted.columns[0]
    assert (column.encoding, column.units, column.vocabulary) == ("embedding", 20, 41)
    assert leaves_of(found.fitted, "float64")["codes.word"] == ((), "int32") and "x" not in leaves_of(found.fitted, "float64")
    table = table_of_rows(found.fitted, [{"word": "w3"}, {"word": "never seen"}, {"word": None}])
    batch = gather(found.fitted.input_feeds(table.columns), np.arange(3), {"codes.word": ((), "int32")})
    assert column.classes[batch["codes.word"][0]] == "w3"
    assert batch["codes.word"][1:].tolist() == [40, 40]


def test_free_text_and_nearly_unique_columns_are_left_out_with_a_warning():
    rows = [{"note": f"something quite different {i}", "name": f"n{i}", "a": i, "y": i} for i in range(30)]
    found, notes = prepared(Table.from_rows(rows), target="y")
    assert [c.name for c in found.fitted.columns] == ["a"]
    assert [w.code for w in notes.warnings] == ["left_out", "left_out"]


def test_everything_is_fitted_on_training_rows_only():
    rows = [{"a": i, "c": "late" if i > 7 else "xy"[i % 2], "y": i} for i in range(10)]
    found, notes = prepared(Table.from_rows(rows), target="y", validation={"fraction": 0.2, "by": "last"})
    number, category = found.fitted.columns
    assert number.shift == 3.5 and category.classes == ("x", "y")
    assert features(found, "valid")[:, 1:].tolist() == [[0, 0], [0, 0]]
    assert [w.code for w in notes.warnings] == ["unseen_category"]


def test_titanic_has_the_widths_its_columns_say():
    table = real_table("titanic.csv")
    found, _ = prepared(table, target="survived", inputs=["*", "!alive"])
    widths = {c.name: c.width for c in found.fitted.columns}
    assert widths == {
        "pclass": 1,
        "sex": 2,
        "age": 2,
        "sibsp": 1,
        "parch": 1,
        "fare": 1,
        "embarked": 3,
        "class": 3,
        "who": 3,
        "adult_male": 1,
        "deck": 7,
        "embark_town": 3,
        "alone": 1,
    }
    assert np.isfinite(features(found)).all()


def test_columns_are_chosen_by_patterns_and_the_target_never_by_a_star():
    table = Table.from_rows([{"a1": 1, "a2": 2, "b": 3, "y": 4}])
    assert [c.name for c in prepared(table, target="y", inputs=["a*"])[0].fitted.columns] == ["a1", "a2"]
    assert [c.name for c in prepared(table, target="y", inputs=["*", "!a1"])[0].fitted.columns] == ["a2", "b"]
    assert [c.name for c in prepared(table, target="y", inputs=["b", "a1"])[0].fitted.columns] == ["b", "a1"]


def test_named_inputs_have_leaves_of_their_own():
    table = Table.from_columns({"image": np.zeros((2, 3, 3), np.uint8), "age": [1.0, 2.0], "y": [0.0, 1.0]})
    found, _ = prepared(table, target="y", inputs={"image": ["image"], "facts": ["age"]})
    assert leaves_of(found.fitted, "float64") == {"x.image": ((3, 3), "float64"), "x.facts": ((1,), "float64"), "y": ((1,), "float64")}


@pytest.mark.parametrize(
    "data, pointer, code",
    [
        ({"target": "lable"}, "/data/target", "unknown_column"),
        ({"target": "y", "inputs": ["a", "bb"]}, "/data/inputs/1", "unknown_column"),
        ({"target": "y", "preprocess": {"z": "none"}}, "/data/preprocess/z", "unknown_column"),
        ({"target": "y", "weight": "w"}, "/data/weight", "unknown_column"),
        ({"target": "y", "preprocess": {"c": "log"}}, "/data/preprocess/c", "not_numbers"),
        ({"target": "y", "preprocess": {"a": {"kind": "log", "impute": "often"}}}, "/data/preprocess/a", "invalid_impute"),
        ({"target": "y", "inputs": ["c"], "preprocess": {"c": "ignore"}}, "/data/inputs", "no_inputs"),
        ({"target": "y", "preprocess": {"c": "datetime"}}, "/data/preprocess/c", "not_datetime"),
        ({"target": "c"}, "/data/target", "not_numbers"),
    ],
)
def test_a_wrong_choice_of_columns_is_a_problem_with_its_place(data, pointer, code):
    table = Table.from_rows([{"a": i, "c": "pq"[i % 2], "y": i} for i in range(8)])
    with pytest.raises(SpecError) as error:
        prepared(table, **data)
    assert (pointer, code) in codes(error)


# ---------------------------------------------------------------- rows of a prediction


def test_rows_are_read_as_uploaded():
    found, _ = prepared(Table.from_rows(ROWS), target="y", preprocess={"city": "one_hot"})
    table = table_of_rows(
        found.fitted, [{"age": "40", "city": " Rome ", "member": True, "y": 3}, {"age": None, "city": "Atlantis", "member": "false"}]
    )
    x = gather(found.fitted.input_feeds(table.columns), np.arange(2), leaves_of(found.fitted, "float64"))["x"]
    assert x.tolist() == [[0, 0, 0, 1, 1], [0, 1, 0, 0, 0]]
    assert [c.unseen(table.columns[c.name]) for c in found.fitted.columns] == [[], ["Atlantis"], []]


def test_an_absent_input_column_an_unknown_one_and_a_bad_number_are_problems_with_their_row():
    found, _ = prepared(Table.from_rows(ROWS), target="y")
    with pytest.raises(SpecError) as error:
        table_of_rows(found.fitted, [{"age": 1, "city": "Oslo", "member": "true"}, {"age": 1, "citty": "Oslo", "member": "true"}])
    assert codes(error) == {("/1/city", "missing_column"), ("/1/citty", "unknown_column")}
    with pytest.raises(SpecError) as error:
        table_of_rows(found.fitted, [{"age": "old", "city": "Oslo", "member": "true"}])
    assert codes(error) == {("/0/age", "not_a_number")}


def test_columns_and_arrays_encode_like_rows():
    found, _ = prepared(Table.from_rows([{"a": 1, "b": 5, "y": 0}, {"a": 3, "b": 9, "y": 1}]), target="y")

    def x(table):
        return gather(found.fitted.input_feeds(table.columns), np.arange(table.rows), leaves_of(found.fitted, "float64"))["x"].tolist()

    expected = x(table_of_rows(found.fitted, [{"a": 1, "b": 9}, {"a": 2, "b": 7}]))
    assert x(table_of_columns(found.fitted, {"a": [1, 2], "b": [9, 7]})) == expected
    assert x(table_of_inputs(found.fitted, [[1, 9], [2, 7]])) == expected
    assert x(table_of_inputs(found.fitted, [[[1, 9], [2, 7]]])) == expected
    assert x(table_of_inputs(found.fitted, {"x": [[1, 9], [2, 7]]})) == expected
    with pytest.raises(SpecError) as error:
        table_of_inputs(found.fitted, [[1, 9, 3]])
    assert codes(error) == {("/x", "shape_mismatch")}
