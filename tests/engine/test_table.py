"""Columns and tables: what kind a list of values is, and that values come back as they went in."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.data import Column, Table
from engine.data.inference import BadCell, Guess, Reading, ordered, seconds
from engine.errors import SpecError


def rows(**columns: list) -> Table:
    return Table.from_rows([dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)])


def kind(values: list) -> str:
    return rows(x=values).columns["x"].kind


@pytest.mark.parametrize(("values", "expected"), [
    ([1, 2.5, None], "number"), (["1", " 2e3 ", "?"], "number"), (["0", "1"], "number"), (["NaN", "", "NA"], "number"),
    (["true", "False"], "boolean"), ([True, False], "boolean"), (["yes", "No"], "boolean"), (["true", "no"], "category"),
    (["2024-05-31", "2024/6/1 12:30"], "datetime"), (["31.5.2024", "?"], "datetime"), (["2024-05-31T01:02:03+02:00"], "datetime"),
    (["5/31/2024"], "category"),
    (["a", "b", "a"], "category"), ([1, "a"], "category"), (["1_000", "2"], "category"), ([f"word {i}" for i in range(40)], "text"),
    ([f"word {i % 40}" for i in range(199)], "text"),
    ([f"word {i % 40}" for i in range(200)], "category"), (["x" * 300, "y"], "text"),
])
def test_values_are_of_the_kind_a_person_would_say(values, expected):
    assert kind(values) == expected


def test_rows_come_back_as_they_were_uploaded():
    uploaded = [{"n": 1, "f": 2.5, "b": True, "c": "red", "d": "2024-05-31", "t": None},
                {"n": None, "f": 3.25, "b": False, "c": None, "d": "2024-05-31T12:30:00Z", "t": "z"}]
    assert Table.from_rows(uploaded).preview() == uploaded
    assert Table.from_rows(uploaded).preview(1, 5) == uploaded[1:]


def test_an_absent_field_is_missing():
    table = Table.from_rows([{"a": 1}, {"b": "x"}])
    assert table.preview() == [{"a": 1, "b": None}, {"a": None, "b": "x"}]
    assert math.isnan(table.columns["a"].data[1]) and table.columns["b"].data.tolist() == [-1, 0]


def test_lists_of_numbers_stay_arrays_with_their_shape():
    table = Table.from_columns({"x": [[[1, 2]], [[3, 4]]], "y": [0.5, None], "z": [True, False], "w": ["cat", "dog"]})
    x, y, z, w = table.columns.values()
    assert (x.kind, x.data.dtype, x.data.shape, x.array) == ("tensor", np.int64, (2, 1, 2), True)
    assert (y.kind, y.data.dtype, y.array) == ("number", np.float64, True) and np.isnan(y.data[1])
    assert (z.kind, z.classes, w.kind, w.classes) == ("boolean", (False, True), "category", ("cat", "dog"))
    assert table.preview() == [{"x": [[1, 2]], "y": 0.5, "z": True, "w": "cat"}, {"x": [[3, 4]], "y": None, "z": False, "w": "dog"}]


@pytest.mark.parametrize(("stored", "kept"), [("int8", "int32"), (">i2", "int32"), ("uint32", "int64"), ("float16", "float32"), (">f8", "float64"),
("uint8", "uint8")])
def test_arrays_are_kept_in_the_nearest_type_that_holds_them(stored, kept):
    column = Table.from_columns({"x": np.arange(6).reshape(3, 2).astype(stored)}).columns["x"]
    assert column.data.dtype == kept and column.data.flags.c_contiguous and column.data.tolist() == [[0, 1], [2, 3], [4, 5]]


def test_only_bytes_with_two_axes_or_more_are_images():
    bytes_ = {"images": np.zeros((2, 4, 4), np.uint8), "flat": np.zeros((2, 16), np.uint8), "real": np.zeros((2, 4, 4), np.float32)}
    assert [column.image for column in Table.from_columns(bytes_).columns.values()] == [True, False, False]


@pytest.mark.parametrize(("columns", "code", "pointer"), [
    ({"x": [[1, 2], [3]]}, "ragged", "/x/1"), ({"x": [[1, 2], 3]}, "ragged", "/x/1"), ({"x": [[[1, 2], [3]], [[1, 2], [3, 4]]]}, "ragged", "/x/0"),
    ({"x": [1, 2], "y": [1]}, "unequal_rows", "/y"), ({"x": []}, "no_rows", "/x"), ({"x": [[], []]}, "no_rows", "/x"),
    ({"a/b": 5}, "not_a_list", "/a~1b"),
    ({"x": [["a", "b"]]}, "not_numbers", "/x"), ({"x": [{}, 1]}, "not_a_cell", "/x/0"), ({"x": [2**70]}, "out_of_range", "/x"),
    ({}, "no_columns", ""),
    ({"x": np.zeros(3, complex)}, "unsupported_dtype", "/x"), ({"x": np.array([None])}, "unsupported_dtype", "/x"),
    ({"x": np.array(3)}, "no_rows", "/x"),
    ({"x": np.array([2**63], np.uint64)}, "out_of_range", "/x"),
])
def test_columns_that_do_not_fit_are_refused_with_their_place(columns, code, pointer):
    with pytest.raises(SpecError) as caught:
        Table.from_columns(columns)
    assert [(p.code, p.pointer) for p in caught.value.problems] == [(code, pointer)]


def test_lists_nested_beyond_all_sense_are_refused():
    deep: list = [1]
    for _ in range(50):
        deep = [deep]
    with pytest.raises(SpecError, match="nested"):
        Table.from_columns({"x": deep})


def test_a_cell_that_is_no_value_is_named_by_row_and_column():
    with pytest.raises(SpecError) as caught:
        Table.from_rows([{"x": 1}, {"x": {"y": 2}}])
    assert caught.value.problems[0].pointer == "/1/x"
    with pytest.raises(SpecError) as caught:
        Table.from_rows([{"x": "1"}, {"x": "old"}], {"x": "number"})
    assert (caught.value.problems[0].pointer, caught.value.problems[0].code) == ("/1/x", "not_a_number")
    with pytest.raises(SpecError, match="not an object"):
        Table.from_rows([{"x": 1}, [2]])  # type: ignore[list-item]


def test_a_kind_that_is_asked_for_wins():
    table = Table.from_rows([{"zip": "02134", "pclass": 3, "seen": "1", "note": "a"}, {"zip": "10001", "pclass": 1, "seen": "0", "note": "b"}],
                            {"zip": "category", "pclass": "category", "seen": "boolean", "note": "text"})
    assert [(c.kind, c.classes) for c in table.columns.values()] == [("category", ("02134", "10001")), ("category", (1, 3)), ("boolean", (0, 1)),
    ("text", None)]
    assert table.preview(0, 1) == [{"zip": "02134", "pclass": 3, "seen": 1, "note": "a"}]


def test_a_kind_that_does_not_fit_is_an_error_with_the_row():
    for wanted, values in [("number", ["1", "x"]), ("datetime", ["2024-01-01", "5/31/2024"]), ("boolean", ["true", "maybe"])]:
        with pytest.raises(SpecError) as caught:
            Table.from_rows([{"x": value} for value in values], {"x": wanted})  # type: ignore[dict-item]
        assert caught.value.problems[0].pointer == "/1/x"


def test_texts_lie_in_one_piece_of_utf8():
    column = rows(x=[f"wört {i} €" for i in range(40)] + [None]).columns["x"]
    assert column.kind == "text" and column.content is not None and column.rows == 41
    assert column.text(3) == "wört 3 €" and column.python(40) is None
    assert column.content.tobytes().decode().splitlines() == [f"wört {i} €" for i in range(40)]


def test_half_a_surrogate_pair_cannot_get_in():
    assert rows(x=["a\ud800", "b"]).columns["x"].classes == ("a?", "b")


def test_classes_are_in_order_numbers_first():
    assert ordered({"10", "9", "1"}) == (1, 9, 10)
    assert ordered({"10", "9", "b", "a"}) == ("9", "10", "a", "b")
    assert ordered({"007", "1"}) == ("1", "007")
    assert ordered({"1.0", "2.5"}) == (1, 2.5)


def test_an_unseen_class_is_unknown():
    assert Reading("category", ("a", "b")).encode(["b", "c", "?", " a "]).tolist() == [1, -1, -1, 0]
    assert Reading("category", (1, 2.5)).encode(["1.0", "2.5", "3"]).tolist() == [0, 1, -1]
    assert Reading("boolean", (False, True)).encode(["TRUE", "false", "maybe"]).tolist() == [1, 0, -1]


def test_guessing_in_blocks_is_guessing_at_once():
    values = ["1", "2", "?", "x"] * 30 + [f"name {i}" for i in range(50)]
    whole, blocks = Guess(), Guess()
    whole.see(values)
    for start in range(0, len(values), 7):
        blocks.see(values[start : start + 7])
    assert whole.reading() == blocks.reading() and whole.rows == blocks.rows == len(values)


def test_one_stray_word_in_a_column_of_numbers_is_said():
    guess = Guess()
    guess.see([str(i / 7) for i in range(100)] + ["oops"])
    assert guess.reading().kind == "text"
    assert guess.warnings() == [("mixed_numbers", "nearly all values are numbers, but row 100 has 'oops': leave it empty if it means missing")]


def test_infinite_numbers_are_missing_and_said():
    guess = Guess()
    guess.see(["1", "inf", "-Infinity"])
    assert np.isnan(guess.reading().encode(["1", "inf"])).tolist() == [False, True] and guess.warnings()[0][0] == "infinite"


def test_memory_for_distinct_values_is_bounded():
    guess = Guess(most=100)
    guess.see([f"t{i}" for i in range(500)])
    assert guess.distinct is None and guess.reading().kind == "text"
    with pytest.raises(BadCell):
        forced = Guess("category", most=100)
        forced.see([f"t{i}" for i in range(500)])
        forced.reading()


def test_dates_without_a_zone_are_utc():
    assert seconds("1970-01-02") == 86400 and seconds("1970-01-01T01:00:00+01:00") == 0 and seconds("1.2.1970 00:00:01") == 31 * 86400 + 1
    for wrong in ("2024-13-01", "31.2.2024", "0001-01-01T00:00:00+23:59", "tomorrow", "2024"):
        with pytest.raises(ValueError):
            seconds(wrong)


def test_a_summary_says_what_numpy_says():
    data = np.random.default_rng(0).normal(5, 2, 3_000_000).astype(np.float32)
    data[7] = np.nan
    found = Column("x", "number", data, array=True).summary()
    clean = data[~np.isnan(data)].astype(np.float64)
    assert found["missing"] == 1 and found["shape"] == [] and found["dtype"] == "float32" and "unique" not in found
    assert found["mean"] == pytest.approx(clean.mean(), rel=1e-12) and found["std"] == pytest.approx(clean.std(), rel=1e-12)
    assert (found["min"], found["max"]) == (clean.min(), clean.max())


def test_a_summary_is_json_whatever_the_numbers():
    wild = {"x": np.array([np.inf, -np.inf, np.nan]), "y": np.array([1e308, -1e308, 1e308]), "z": np.array([np.nan] * 3)}
    for column in Table.from_columns(wild).columns.values():
        json.dumps([column.summary(), column.python(0), column.python(1)], allow_nan=False)


def test_a_summary_counts_classes_and_missing():
    column = rows(x=["a", "b", None, "a"]).columns["x"]
    assert column.summary() == {"name": "x", "kind": "category", "dtype": "int32", "shape": [], "missing": 1, "unique": 2, "classes": ["a", "b"]}


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
JSON_VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=4), max_leaves=8)


@given(st.dictionaries(st.text(max_size=3), st.lists(JSON_VALUES, max_size=5), max_size=3))
def test_any_json_becomes_a_table_or_a_spec_error(columns):
    try:
        table = Table.from_columns(columns)
    except SpecError as error:
        assert error.problems and all(problem.detail for problem in error.problems)
        return
    json.dumps([table.preview(), [column.summary() for column in table.columns.values()]], allow_nan=False)


@given(st.lists(st.dictionaries(st.sampled_from("abc"), JSON_VALUES, max_size=3), min_size=1, max_size=6))
def test_any_rows_become_a_table_or_a_spec_error(rows):
    try:
        table = Table.from_rows(rows)
    except SpecError:
        return
    json.dumps([table.preview(), [column.summary() for column in table.columns.values()]], allow_nan=False)
    assert table.rows == len(rows)
