"""Parquet in: kinds of columns, row groups, lies of footers."""

from __future__ import annotations

import datetime as dt
import gzip
import io
import random
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from service.datasets import DatasetError, Limits, ingest, open_table
from tests.service.uploads import refusal

HERE = Limits(apart_bytes=None)
N = 1000


def packed(columns: dict[str, Any], **options: Any) -> bytes:
    file = io.BytesIO()
    parquet.write_table(pa.table(columns), file, **options)
    return file.getvalue()


def whole() -> dict[str, Any]:
    chance = np.random.default_rng(0)
    return {
        "id": pa.array([None, *range(1, N)], pa.int64()), "x": pa.array(chance.normal(size=N).astype(np.float32)),
        "yes": pa.array([True, None] * 500),
        "colour": pa.array(["red", None, "blue", "NA"] * 250), "note": pa.array([f"note {i}" for i in range(N)]),
        "kind": pa.array(["x", "y"] * 500).dictionary_encode(), "day": pa.array([dt.date(2024, 5, 31)] * N),
        "when": pa.array([dt.datetime(2024, 5, 31, 12, 30, 0, 250000)] * N, pa.timestamp("us", "UTC")),
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(np.arange(N * 6, dtype=np.float32)), 6),
        "matrix": pa.FixedShapeTensorArray.from_numpy_ndarray(np.arange(N * 4, dtype=np.int16).reshape(N, 2, 2)),
        "nothing": pa.nulls(N), "price": pa.array([1] * N, pa.decimal128(5, 2)), "big": pa.array([2**62] * N)}


KINDS = {"id": "number", "x": "number", "yes": "boolean", "colour": "category", "note": "text", "kind": "category", "day": "datetime",
         "when": "datetime", "vector": "tensor", "matrix": "tensor", "nothing": "number", "price": "number", "big": "number"}


@pytest.mark.parametrize("wrapped", [False, True])
def test_every_kind_of_column_is_read(tmp_path, wrapped):
    data = packed(whole(), row_group_size=300)
    found = ingest(tmp_path, [gzip.compress(data) if wrapped else data], limits=HERE)
    assert (found.record["format"], found.record["rows"]) == ("parquet", N)
    columns = {column["name"]: column for column in found.record["columns"]}
    assert {name: column["kind"] for name, column in columns.items()} == KINDS
    assert [columns[name]["missing"] for name in ("id", "yes", "colour", "nothing")] == [1, 500, 500, N]
    table = open_table(tmp_path, found.sha256)
    first, last = table.preview(0, 1)[0], table.preview(N - 1, 1)[0]
    assert (first["id"], first["colour"], first["kind"], first["day"]) == (None, "red", "x", "2024-05-31")
    assert first["when"] == "2024-05-31T12:30:00.250000Z"
    assert (last["id"], last["yes"], last["note"], last["price"], last["matrix"]) == (999, None, "note 999", 1, [[3996, 3997], [3998, 3999]])
    assert np.array_equal(table.columns["vector"].data, np.arange(N * 6).reshape(N, 6)) and table.columns["vector"].array
    warned = {(warning["code"], warning["column"]) for warning in found.record["warnings"]}
    assert {("all_missing", "nothing"), ("precision_lost", "big"), ("near_unique", "note"), ("constant", "day")} <= warned


def test_types_read_columns_as_a_csv_file_would(tmp_path):
    columns = {"code": pa.array([7, 10, None, 7]), "text": pa.array(["1", " 2", "", "4"]), "flag": pa.array([0, 1, 1, 0]),
               "day": pa.array(["2024-05-31", "1.6.2024", None, "2024-06-02"])}
    found = ingest(tmp_path, [packed(columns)], limits=HERE, types="code:category,text:number,flag:boolean,day:datetime")
    assert open_table(tmp_path, found.sha256).preview(0, 2) == [{"code": 7, "text": 1, "flag": 0, "day": "2024-05-31"},
                                                                {"code": 10, "text": 2, "flag": 1, "day": "2024-06-01"}]
    with pytest.raises(DatasetError) as caught:
        ingest(tmp_path, [packed(columns)], limits=HERE, types="day:number")
    assert (caught.value.code, caught.value.row, caught.value.column) == ("not_a_number", 0, "day")


@pytest.mark.parametrize("column", [
    pa.array([{"a": 1}]), pa.array([[1]]), pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int8())), pa.array([b"x"]),
    pa.array([b"xx"], pa.binary(2)), pa.FixedSizeListArray.from_arrays(pa.array(["a", "b"]), 2)])
def test_nested_columns_are_refused_by_name(tmp_path, column):
    error = refusal(tmp_path, packed({"plain": pa.array([1]), "odd one": column}), limits=HERE)
    assert (error.code, error.column) == ("unsupported_dtype", "odd one") and "'odd one'" in error.detail


def test_what_is_no_table_is_refused(tmp_path):
    refused = partial(refusal, tmp_path, limits=HERE, format="parquet")
    good = packed({"x": pa.array(range(10))})
    assert refused(b"PAR1....").code == "truncated" and refused(good[:-1]).code == "truncated" and refused(b"a,b\n1,2\n").code == "truncated"
    assert refused(good[:-8] + (2**31 - 1).to_bytes(4, "little") + b"PAR1").code == "malformed_parquet"
    assert refused(packed({"x": pa.array([], pa.int8())})).code == "no_rows" and refused(packed({})).code == "no_columns"
    assert refused(packed({" ": pa.array([1])})).code == "bad_name"
    assert refused(packed({"n": pa.array([2**20]).cast(pa.timestamp("s")), "x": pa.array([10**12]).cast(pa.timestamp("s"))})).code == "out_of_range"
    assert refusal(tmp_path, good, limits=Limits(apart_bytes=None, columns=0)).code == "too_many_columns"


def test_sizes_in_a_footer_are_weighed_and_what_comes_is_counted(tmp_path):
    bomb = packed({"x": pa.array(["y" * 1000] * 200_000)}, compression="zstd")
    assert len(bomb) < 100_000
    error = refusal(tmp_path, bomb, limits=Limits(apart_bytes=None, expanded_bytes=20_000_000))
    assert (error.status, error.code) == (413, "too_large")
    many = packed({"x": pa.array(np.zeros(5_000_000))}, compression="zstd")
    error = refusal(tmp_path, many, limits=Limits(apart_bytes=None, expanded_bytes=20_000_000))
    assert (error.status, error.code) == (413, "too_large") and "5,000,000 rows" in error.detail


@pytest.mark.parametrize("seed", range(60))
def test_damaged_bytes_are_an_error_or_a_table(tmp_path, seed):
    chance, data = random.Random(seed), bytearray(packed({name: column[:50] for name, column in whole().items()}, row_group_size=20))
    region = range(len(data) - 3000, len(data)) if seed % 2 else range(len(data))
    for _ in range(chance.randint(1, 6)):
        data[chance.choice(region)] = chance.randrange(256)
    try:
        found = ingest(tmp_path, [bytes(data)], format="parquet", limits=Limits(apart_bytes=None, expanded_bytes=10_000_000))
        assert found.record["rows"] <= 50
    except (DatasetError, MemoryError):
        assert not list((tmp_path / "datasets").iterdir())


def test_a_page_that_wants_all_memory_ends_its_reader_only(tmp_path: Path):
    bomb = packed({"x": pa.array(["y" * 200_000_000])}, compression="zstd", use_dictionary=False, write_statistics=False)
    error = refusal(tmp_path, bomb, limits=Limits(memory_bytes=250_000_000))
    assert len(bomb) < 100_000 and error.code in ("too_large", "unreadable") and error.status in (413, 422)
