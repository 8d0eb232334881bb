"""The fast reader of tables says what the careful one says, and large uploads are read in a process of their own."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from service.datasets import DatasetError, Limits, apart, ingest, open_table, texts
from service.datasets import csv as tables
from service.datasets.draft import Draft
from service.datasets.formats import options
from service.datasets.read import Task, read
from tests.service.uploads import GOOD

CELLS = ["1", "2.5", " 3", "-4e3", "", "?", "NA", "NaN", "inf", "1_0", "+5", ".5", "0x1", "nan", "true", "no", "Yes", "a", "b c", " x", "x ", '"q"',
         '"a,b"', '"say ""hi"""', '" lead"', '"two\nlines"', 'mid"dle', '""', '""x', ' "late"', "2024-05-31", "2024-05-31 12:30:15.25", "1.5.2024",
         "2024-05-31T12:30:00Z", "2024-02-30", "été", "٣", "\u00a01", "1e999", "00012", "\t7"]


def told(home: Path, data: bytes, quick: bool, **wanted: Any) -> Any:
    """Everything that reading says: columns, numbers, warnings, or the error."""
    home.mkdir(exist_ok=True)
    with Draft(home) as draft:
        draft.content.write_bytes(data)
        try:
            about = read(draft, Task("csv", options(**wanted), Limits(row_characters=2000, columns=100), len(data)), quick)
        except DatasetError as error:
            return error.code, error.detail, error.row, error.line, error.column
        files = {path.name: path.read_bytes() for path in draft.path.iterdir() if path.suffix in (".bin", ".text")}
        return about["columns"], about["summary"], about["warnings"], files


@settings(max_examples=120, deadline=None, derandomize=True)
@given(st.lists(st.lists(st.sampled_from(CELLS), min_size=3, max_size=3), min_size=1, max_size=30), st.sampled_from([",", ";", "\t"]),
       st.sampled_from(["\n", "\r\n", "\r"]), st.sampled_from([None, "x:text", "x:number,y:category", "z:datetime"]), st.integers(0, 2**32))
@example([["a,b", '"c', "d"]], ",", "\n", None, 0)
@example([["1", "2", "3"], ["1", "2"], ["4", "5", "6"]], ",", "\n", None, 0)
@example([["1", "2", "3"], [" "], [""], ["4", "5", "6"]], ",", "\n", None, 0)
def test_both_readers_say_the_same(tmp_path_factory, rows, delimiter, end, types, seed):
    home = tmp_path_factory.mktemp("both")
    rows = [["x", "y", "z"], *rows, *random.Random(seed).choices(rows, k=random.Random(seed).choice((0, 200)))]
    data = end.join(delimiter.join(row) for row in rows).encode()
    sizes = tables.LARGE, texts.BLOCK
    try:
        tables.LARGE, texts.BLOCK = 400, 100
        wanted = {"header": True, "delimiter": delimiter, "types": types}
        assert told(home / "quick", data, True, **wanted) == told(home / "careful", data, False, **wanted)
    finally:
        tables.LARGE, texts.BLOCK = sizes
        shutil.rmtree(home)


def test_columns_of_one_kind_are_read_quickly(tmp_path, monkeypatch):
    """No row of a plain file comes to the careful reader."""
    monkeypatch.setattr(tables.Pieces, "careful", lambda self, fresh: None if not fresh and not self.rest else pytest.fail("read carefully"))
    lines = [f'{i / 7:.6f},{i % 5 or ""},2024-05-{i % 28 + 1:02} 10:00:00,"name, {i}",{"yes" if i % 3 else "no"}' for i in range(5000)]
    columns, summary, *_ = told(tmp_path, ("a,b,when,name,ok\n" + "\n".join(lines)).encode(), True)
    assert [column["kind"] for column in columns] == ["number", "number", "datetime", "text", "boolean"]
    assert summary[1]["missing"] == 1000 and summary[2]["min"] == 1714557600.0


@pytest.mark.parametrize("name", ["csv", "gzip"])
def test_a_process_of_its_own_reads_the_same(tmp_path, name):
    here, there = (ingest(tmp_path / place, [GOOD[name]], limits=Limits(apart_bytes=size)) for place, size in (("here", None), ("there", 0)))
    assert here.record == there.record
    assert open_table(tmp_path / "here", here.sha256).preview() == open_table(tmp_path / "there", there.sha256).preview()


def test_errors_come_back_from_there(tmp_path):
    with pytest.raises(DatasetError) as caught:
        ingest(tmp_path, [b"age,name\n41,Ada\nold,Bob\n"], types="age:number", limits=Limits(apart_bytes=0))
    assert (caught.value.row, caught.value.line, caught.value.column, caught.value.status) == (1, 3, "age", 422)
    assert not list((tmp_path / "datasets").iterdir())


def test_a_reader_that_needs_too_much_memory_or_dies_is_an_answer(tmp_path, monkeypatch):
    with pytest.raises(DatasetError) as caught:
        ingest(tmp_path, [b"x\n" + b"1234567890" * 10_000_000], format="text", limits=Limits(apart_bytes=0, memory_bytes=60_000_000))
    assert caught.value.code in ("too_large", "unreadable")
    monkeypatch.setattr(apart, "QUIET", {"PYTHONPATH": str(tmp_path), "PYTHONHOME": "/nowhere"})
    with pytest.raises(DatasetError) as caught:
        ingest(tmp_path, [GOOD["csv"]], limits=Limits(apart_bytes=0))
    assert caught.value.code == "unreadable" and not list((tmp_path / "datasets").iterdir())


def test_what_is_seen_of_a_new_data_set(tmp_path):
    chance = np.random.default_rng(0)
    head = "id,user,fixed,rare,value,mixed,few"
    rows = [f"{i},u{i:05},same,{'' if i % 3 else i},{chance.normal():.4f},{i % 50 if i else 'x7'},{chance.integers(3)}" for i in range(400)]

    def codes(lines: list[str]) -> set[tuple[str, str | None]]:
        return {(warning["code"], warning.get("column")) for warning in ingest(tmp_path, ["\n".join([head, *lines]).encode()]).record["warnings"]}

    usual = {("constant", "fixed"), ("many_missing", "rare"), ("mixed_numbers", "mixed")}
    assert codes(rows) == {*usual, ("near_unique", "id"), ("near_unique", "user"), ("near_unique", "rare")}
    assert codes([*rows, *rows[:40]]) == {*usual, ("duplicate_rows", None), ("near_unique", "rare")} - {("near_unique", "rare")}
    found = ingest(tmp_path, ["\n".join([head, *rows, *rows[:40]]).encode()])
    assert found.record["warnings"][-1]["detail"].startswith("40 of 440 rows (9.1%)")
