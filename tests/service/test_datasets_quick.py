"""The fast reader of tables says what the careful one says, and large uploads are read in a process of their own."""

from __future__ import annotations

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
         "2024-05-31T12:30:00Z", "2024-02-30", "été", "٣", "\u00a01", "1e999", "00012", "\t7", "long" * 8,
         '"two\r\nlines"', '"a\rb"', '"\n"', '"\r\n"', '""""', '"""x"""', '"ends\r\n"', '"' + "many\n" * 20 + '"']
WRONG = ['"x"y', "\0", "a\rb", "x" * 90, '"open', "1,2"]
CUTS = [(1 << 22, 1 << 16), (400, 100), (64, 16), (7, 3), (1, 1)]     # where texts are cut for the two readers


@st.composite
def files(draw: st.DrawFn) -> tuple[bytes, str]:
    """A file and its delimiter: of a few kinds of cells, so that many files are read to their end."""
    pool = CELLS + (WRONG if draw(st.booleans()) else [])
    cells = draw(st.lists(st.sampled_from(pool), min_size=1, max_size=12))
    rows = draw(st.lists(st.lists(st.sampled_from(cells), min_size=3, max_size=3), min_size=1, max_size=30))
    rows += rows * draw(st.sampled_from([0, 0, 10]))
    delimiter, end = draw(st.sampled_from(",;\t")), draw(st.sampled_from(["\n", "\r\n", "\r"]))
    lines = [delimiter.join(row) for row in [["x", "y", "z"], *rows]]
    return (end.join(lines) + draw(st.sampled_from(["", end]))).encode(), delimiter


def told(home: Path, data: bytes, quick: bool, longest: int = 2000, **wanted: Any) -> Any:
    """Everything that reading says: columns, numbers, warnings, or the error."""
    home.mkdir(exist_ok=True)
    with Draft(home) as draft:
        draft.content.write_bytes(data)
        try:
            about = read(draft, Task("csv", options(**wanted), Limits(row_characters=longest, columns=100), len(data)), quick)
        except DatasetError as error:
            return error.code, error.detail, error.row, error.line, error.column
        files = {path.name: path.read_bytes() for path in draft.path.iterdir() if path.suffix in (".bin", ".text")}
        return about["columns"], about["summary"], about["warnings"], files


def sizes(large: int, block: int) -> pytest.MonkeyPatch:
    """Texts are read in pieces of these sizes."""
    patch = pytest.MonkeyPatch()
    patch.setattr(tables, "LARGE", large)
    patch.setattr(texts, "BLOCK", block)
    patch.setattr(texts, "WIDE", 0)
    return patch


@settings(max_examples=150, deadline=None)
@given(files(), st.sampled_from(CUTS), st.sampled_from([None, None, "x:text", "x:number,y:category", "x:number,y:number", "z:datetime"]),
       st.sampled_from([60, 2000]))
@example((b'x,y,z\n"a,b","c,d\n', ","), CUTS[1], None, 2000)
@example((b"x,y,z\n1,2,3\n1,2\n4,5,6", ","), CUTS[1], None, 2000)
@example((b"x,y,z\n1,2,3\n \n\n4,5,6", ","), CUTS[1], None, 2000)
@example((b'x,y,z\n"\n","open\n1,"",2\n3,,"\n"\n"\n4,\n"open,5,x\n', ","), CUTS[0], None, 2000)
def test_both_readers_say_the_same_wherever_texts_are_cut(tmp_path_factory, made, cuts, types, longest):
    (data, delimiter), home = made, tmp_path_factory.mktemp("both")
    said = []
    for quick, at in ((False, CUTS[0]), (False, cuts), (True, cuts)):
        patch = sizes(*at)
        said.append(told(home / f"{len(said)}", data, quick, longest, header=True, delimiter=delimiter, types=types))
        patch.undo()
    shutil.rmtree(home)
    assert said[1] == said[0] and said[2] == said[0]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("quick", [False, True])
def test_texts_of_many_lines_are_read_wherever_blocks_end(tmp_path, end, quick):
    """Nearly every block ends within quotes, and what is open is longer than a line may be only where the row is."""
    text = f"some words{end}" * 40
    data = f"id,text{end}" + "".join(f'{i},"{text}"{end}' for i in range(500))
    patch = sizes(8000, 1000)
    columns, summary, *_ = told(tmp_path, data.encode(), quick)
    assert columns[1]["kind"] in ("category", "text") and columns[1].get("classes") in (None, [text]) and len(summary) == 2
    code, detail, _, line, _ = told(tmp_path, f'{data}500,"{text * 6}"{end}501,x{end}'.encode(), quick)
    assert (code, line) == ("malformed_row", 2 + 500 * 41) and "too long" in detail
    patch.undo()


def test_a_field_is_as_long_as_a_row_may_be(tmp_path):
    data = b"a,b\n1," + b"x" * 200_000 + b"\n2,y\n"
    assert told(tmp_path, data, False, 1 << 20, header=True) == told(tmp_path, data, True, 1 << 20, header=True)


def test_the_first_wrong_row_is_told_of(tmp_path):
    for data, line in ((b"a,b\n1,2\n1,x\nx,2\n", 3), (b'a,b\n1\n1,"x"y\n', 2), (b'a,b\n1,"x"y\n1,2,3\n', 2), (b"a,b\n1,\0\n1\n", 2)):
        assert told(tmp_path, data, False, header=True, types="a:number,b:number")[3] == line


def test_columns_of_one_kind_are_read_quickly(tmp_path, monkeypatch):
    """No row of a plain file comes to the careful reader."""
    monkeypatch.setattr(tables.Pieces, "careful", lambda self, fresh: () if not fresh and not self.rest else pytest.fail("read carefully"))
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
