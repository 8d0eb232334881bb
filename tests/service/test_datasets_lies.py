"""Input that lies: whatever is wrong with an upload, it is a DatasetError that says so, and nothing stays on the disk."""

from __future__ import annotations

import errno
import gzip
import io
import json
import random
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.datasets import DatasetError, Limits, Part, ingest, ingest_inline, ingest_parts, open_table
from service.errors import StorageFull
from service.notation import dumps
from tests.service.uploads import GOOD, npy, refusal, zipped


@pytest.fixture
def refused(tmp_path: Path) -> Callable[..., DatasetError]:
    return partial(refusal, tmp_path)


@pytest.mark.parametrize(("text", "code", "line"), [
    (b"", "empty", None), (b"\n\n  \n", "empty", None), (b"a,b\n", "no_rows", None), (b"a,b\n1,2\n1,2,3\n", "ragged_row", 3),
    (b"a,b\n1,2\n\n3\n", "ragged_row", 4),
    (b"x,y,x\n1,2,3\n", "duplicate_column", 1), (b"a,b\n1,\0\n", "nul_byte", 2), (b'a,b\n1,"open\n', "malformed_row", 2),
    (b'a,b\n1,"x"y\n', "malformed_row", 2),
    (b"a,b\n1," + b"x" * 3000 + b"\n", "row_too_long", 2), (b'a,b\n"' + b"x\n" * 2000, "malformed_row", None), (b"x" * 5000, "row_too_long", 1),
    (b",".join(b"c%d" % i for i in range(101)) + b"\n", "too_many_columns", None), (b"a\tb,c\n\x01,2\n" + b"\xff\xfe\n", "ragged_row", 3),
])
def test_a_bad_csv_file_is_refused_with_its_line(refused, text, code, line):
    error = refused(text, format="csv", header=True if b"x,y,x" in text else None, limits=Limits(row_characters=2000, columns=100))
    assert error.code == code and error.status == 422
    assert line is None or (error.line == line and (f"line {line}" in error.detail or code == "duplicate_column"))


@pytest.mark.parametrize(("options", "code"), [
    ({"types": "nope:number"}, "unknown_column"), ({"types": "name:numbr"}, "unknown_kind"), ({"types": "name"}, "bad_types"),
    ({"types": "name:number"}, "not_a_number"),
    ({"types": "id:boolean"}, "not_a_boolean"), ({"types": "name:datetime"}, "not_a_datetime"), ({"format": "csvv"}, "unknown_format"),
    ({"delimiter": "::"}, "bad_delimiter"),
    ({"delimiter": '"'}, "bad_delimiter"), ({"format": "npy"}, "malformed_npy"), ({"format": "idx"}, "malformed_idx"),
    ({"format": "json"}, "malformed_json"),
    ({"format": "npz"}, "truncated"), ({"format": "text", "header": True}, "unused_option"), ({"format": "ndjson"}, "malformed_json"),
])
def test_wrong_options_are_refused_never_ignored(refused, options, code):
    assert refused(GOOD["csv"], **options).code == code


def test_errors_teach(refused):
    error = refused(b"age,name\n41,Ada\nold,Bob\n", format="csv", types="age:number")
    assert (error.row, error.line, error.column) == (1, 3, "age") and error.detail.startswith("line 3 (row 1), column 'age': 'old' is not a number")
    assert error.as_dict("/v1/datasets")["line"] == 3
    assert refused(GOOD["csv"], types="nme:text").errors[0].suggestion == "name"


@pytest.mark.parametrize("name", GOOD)
def test_a_cut_file_is_refused_or_is_a_shorter_table(tmp_path, name):
    whole = GOOD[name]
    for cut in range(len(whole)):
        try:
            found = ingest(tmp_path, [whole[:cut]], format=None if name == "gzip" else name)
        except DatasetError:
            assert not [path for path in (tmp_path / "datasets").iterdir() if path.name.startswith(".")]
        else:
            assert name in ("csv", "text", "ndjson") and open_table(tmp_path, found.sha256).rows == found.record["rows"]


def test_an_upload_that_breaks_off_leaves_nothing(tmp_path):
    def pieces():
        yield b"a,b\n1,2\n"
        raise ConnectionResetError("the client went away")

    with pytest.raises(ConnectionResetError):
        ingest(tmp_path, pieces())
    assert list((tmp_path / "datasets").iterdir()) == []


def test_an_upload_over_the_cap_is_refused_while_it_comes(tmp_path):
    sent = 0

    def pieces():
        nonlocal sent
        while True:
            sent += 1
            yield bytes(1000)

    with pytest.raises(DatasetError) as caught:
        ingest(tmp_path, pieces(), limits=Limits(bytes=10_000))
    assert (caught.value.status, caught.value.code, sent) == (413, "too_large", 11) and list((tmp_path / "datasets").iterdir()) == []


BOMBS = {
    "rows": lambda: gzip.compress(b"a,b\n" + b"1,2\n" * 5_000_000), "an array": lambda: gzip.compress(npy(np.zeros(2_500_000))),
    "a line": lambda: gzip.compress(b"x" * 20_000_000), "one member": lambda: zipped({"x.npy": npy(np.zeros(2_500_000))}),
    "members": lambda: zipped({f"{i}.npy": npy(np.zeros(120_000)) for i in range(20)})}      # each made by who needs it


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_is_stopped_at_the_cap(refused, bomb):
    data, start = BOMBS[bomb](), time.monotonic()
    error = refused(data, limits=Limits(expanded_bytes=1_000_000))
    assert error.code in ("too_large", "row_too_long") and error.status in (413, 422) and time.monotonic() - start < 10


def test_gzip_within_gzip_and_damaged_gzip_are_refused(refused):
    assert refused(gzip.compress(gzip.compress(b"a,b\n1,2\n"))).code == "nested_archive"
    damaged = bytearray(GOOD["gzip"])
    damaged[-6] ^= 255
    assert refused(bytes(damaged)).code == "damaged"
    assert refused(GOOD["gzip"][:-9]).code == "truncated"


def test_reading_too_long_is_refused(refused):
    assert refused(GOOD["csv"], limits=Limits(seconds=-1)).code == "too_slow"


@pytest.mark.parametrize(("body", "code"), [
    (b'{"columns": {"x": [NaN]}}', "malformed_json"), (b'{"columns": {"x": [1e999]}}', "malformed_json"),
    (b'{"columns": {"x": [1' + b"0" * 5000 + b"]}}", "malformed_json"),
    (b'{"columns": {"x": ' + b"[" * 100_000, "too_deep"), (b'{"columns": {"x": ' + b"[" * 20 + b"1" + b"]" * 20 + b"}}", "bad_shape"),
    (b"[1]", "invalid_request"),
    (b'{"columns": {}, "rows": []}', "invalid_request"), (b'{"columns": {}}', "no_rows"), (b'{"rows": {"x": 1}}', "invalid_request"),
    (b'{"columns": {"": [1]}}', "bad_name"),
    (b'{"columns": {"x": [1]}, "colour": 1}', "unknown_field"), (b'{"columns": {"x": [[1], [2, 3]]}}', "ragged"), (b'{"rows": [1]}', "not_an_object"),
    (b'{"columns": {"' + b"n" * 300 + b'": [1]}}', "bad_name"), (b'{"columns": {"x": [1], "y": [1, 2]}}', "unequal_rows"),
    (b'{"rows": [{}]}', "no_columns"), (b'{"rows": [{"\\ud800": 1}]}', "invalid_text"), (b'{"\\udfff": 1, "columns": {"x": [1]}}', "invalid_text"),
    ('{"columns": {"\\ud800": ["\\ud83d\\ude00"]}}'.encode("utf-16"), "invalid_text"), (b'{"columns": {"\xed\xa0\x80": [1]}}', "malformed_json"),
    (b'{"columns": {"a\\u0000": [1]}}', "invalid_text"),
])
def test_bad_json_is_refused(refused, body, code):
    error = refused(body, format="json")
    assert error.code == code and dumps(error.as_dict("/v1/datasets"))


def test_names_of_half_characters_are_refused_in_lines_too(refused):
    error = refused(b'{"a": 1}\n{"a": 2, "\\udc00b": "x"}\n', format="ndjson", types="c:number")
    assert error.code == "invalid_text" and error.detail.startswith("line 2: ") and dumps(error.as_dict("/v1/datasets"))


def test_problems_of_inline_data_point_into_the_request(tmp_path):
    for data, pointer in (({"columns": {"x": [[1], [2, 3]]}}, "/columns/x/1"), ({"rows": [{"a": 1}, {"a": {}}]}, "/rows/1/a"),
    ({"columns": {"x": ["\ud800", {}]}}, "/columns/x/1")):
        with pytest.raises(DatasetError) as caught:
            ingest_inline(tmp_path, **data)  # type: ignore[arg-type]
        assert [problem.pointer for problem in caught.value.errors] == [pointer] and list((tmp_path / "datasets").iterdir()) == []


def test_media_that_is_not_read_is_said_so(refused):
    assert refused(b"\x89PNG\r\n\x1a\n", media_type="image/png").status == 415


def test_bad_parts_leave_nothing(tmp_path):
    good, short = npy(np.arange(3)), npy(np.arange(2))
    for parts, code in [([], "empty"), ([("x", good), ("y", short)], "unequal_rows"), ([("x", good), ("x", good)], "duplicate_column"),
    ([("x", good[:-1])], "truncated"),
                        ([("x", good), ("y", b"a,b\n1,2\n")], "not_an_array"), ([("", good)], "bad_name"), ([("x", b"")], "empty")]:
        with pytest.raises(DatasetError) as caught:
            ingest_parts(tmp_path, [Part(name, io.BytesIO(data)) for name, data in parts])
        assert caught.value.code == code
        assert not (tmp_path / "datasets").exists() or list((tmp_path / "datasets").iterdir()) == []


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("service.datasets.draft.os.fsync", full)
    with pytest.raises(StorageFull):
        ingest(tmp_path, [GOOD["csv"]])
    assert list((tmp_path / "datasets").iterdir()) == []


@pytest.mark.parametrize("name", GOOD)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_flipped_bytes_give_a_table_or_a_dataset_error(tmp_path_factory, name, data):
    home = tmp_path_factory.mktemp("flips")
    seed = data.draw(st.integers(0, 2**32))
    chance, bytes_ = random.Random(seed), bytearray(GOOD[name])
    for _ in range(chance.randint(1, 4)):
        bytes_[chance.randrange(len(bytes_))] = chance.choice((0, 10, 34, 44, 255, chance.randrange(256)))
    limits = Limits(expanded_bytes=1_000_000, row_characters=10_000)
    for said_format in (None, None if name == "gzip" else name):
        try:
            found = ingest(home, [bytes(bytes_)], format=said_format, limits=limits)
        except DatasetError:
            continue
        json.dumps([found.record, open_table(home, found.sha256).preview()], allow_nan=False)
    assert not list((home / "datasets").glob(".new-*"))
