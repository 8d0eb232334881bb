"""Every format in, typed columns out, and the same bytes back."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest

from service import unfinished
from service.datasets import DatasetError, Incoming, Ingested, Part, content, ingest, ingest_inline, ingest_parts, open_table
from service.samples import open_sample, samples
from tests.service.uploads import idx, npy, npz

DATA = Path(__file__).parents[2].parent / "shared" / "data"
real = pytest.mark.skipif(not DATA.is_dir(), reason="the real data sets do not lie beside this checkout")


def csv(home: Path, text: str | bytes, **options) -> Ingested:
    return ingest(home, [text.encode() if isinstance(text, str) else text], format="csv", **options)


def preview(home: Path, found: Ingested) -> list[dict]:
    return open_table(home, found.sha256).preview()


def kinds(found: Ingested) -> dict[str, str]:
    return {column["name"]: column["kind"] for column in found.record["columns"]}


def test_a_table_comes_in_and_goes_out_again(tmp_path):
    text = b"name,age,ok,born\nAda,36,true,1815-12-10\nBob,?,false,\n"
    found = ingest(tmp_path, [text[:10], text[10:]], name="people.csv", media_type="text/csv; charset=utf-8")
    assert kinds(found) == {"name": "category", "age": "number", "ok": "boolean", "born": "datetime"}
    assert {k: found.record[k] for k in ("name", "format", "bytes", "rows")} == {"name": "people.csv", "format": "csv", "bytes": len(text), "rows": 2}
    assert found.sha256 == hashlib.sha256(text).hexdigest() and content(tmp_path, found.sha256).read_bytes() == text
    assert preview(tmp_path, found) == [{"name": "Ada", "age": 36, "ok": True, "born": "1815-12-10"},
                                        {"name": "Bob", "age": None, "ok": False, "born": None}]
    assert sorted(path.name for path in found.folder.iterdir()) == ["0.bin", "1.bin", "2.bin", "3.bin", "content", "table.json"]
    json.dumps(found.record, allow_nan=False)


def test_columns_are_mapped_and_cannot_be_written(tmp_path):
    column = open_table(tmp_path, csv(tmp_path, "a,b\n1,2\n3,4\n").sha256).columns["a"]
    assert isinstance(column.data, np.memmap)
    with pytest.raises(ValueError):
        column.data[0] = 1


def test_numbers_with_a_decimal_comma_are_numbers_where_commas_part_nothing(tmp_path):
    found = csv(tmp_path, "price;amount;code;city\n1,5;-1.234,50;1,5;Ulm\n;2.000;x;Bonn\n20;,;2,5;Ulm\n7,25;3,0;3,5;Ulm\n".replace(",;", "0,1;"))
    assert kinds(found) == {"price": "number", "amount": "number", "code": "category", "city": "category"}
    rows = preview(tmp_path, found)
    assert [row["price"] for row in rows] == [1.5, None, 20, 7.25] and [row["amount"] for row in rows] == [-1234.5, 2000, 0.1, 3]
    assert rows[0]["code"] == "1,5"
    told = {warning["column"]: warning["detail"] for warning in found.record["warnings"] if warning["code"] == "decimal_comma"}
    assert told.keys() == {"price", "amount"} and "types=price:category" in told["price"]
    kept = csv(tmp_path, "price;n\n1,5;1\n2,5;2\n", types={"price": "category"})
    assert kinds(kept)["price"] == "category" and preview(tmp_path, kept)[0]["price"] == "1,5"
    assert list(kinds(csv(tmp_path, "1,5;2,5\n3,5;4,5\n"))) == ["c0", "c1"]
    assert kinds(csv(tmp_path, "a;b\n" + "1,5;2,5\n" * 60)) == {"a": "number", "b": "number"}
    assert list(kinds(csv(tmp_path, "a,b,c\n1,x;y,2\n3,z;w,4\n"))) == ["a", "b", "c"]
    assert kinds(csv(tmp_path, 'a,b\n"1,5",1\n"2,5",2\n'))["a"] == "category"        # there it may be 15 as well


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_found(tmp_path, delimiter):
    rows = [("x", "y", "z"), ("1,5" if delimiter != "," else "1.5", "2", "a"), ("3", "4", "b")]
    text = "\n".join(delimiter.join(row) for row in rows)
    assert list(kinds(csv(tmp_path, text))) == ["x", "y", "z"]


def test_spaces_after_the_delimiter_are_cut_and_quotes_are_read(tmp_path):
    found = csv(tmp_path, 'id, note, city\n1, "a, ""b""\nc", Rome\n2, d, Oslo\n')
    assert preview(tmp_path, found) == [{"id": 1, "note": 'a, "b"\nc', "city": "Rome"}, {"id": 2, "note": "d", "city": "Oslo"}]


@pytest.mark.parametrize(("text", "names"), [
    ("1,a\n2,b\n", ["c0", "c1"]), ("x,y\n1,a\n2,b\n", ["x", "y"]), ("a,b\nc,d\na,e\n", ["c0", "c1"]), ("?,b\n1,d\n", ["c0", "c1"]),
    (",b\n1,2\n", ["c0", "b"]),
    ("red,1\nblue,2\n", ["c0", "c1"]), ("\ufeffx,y\n1,2\n", ["x", "y"]), ("\n\nx,y\n\n1,2\n\n", ["x", "y"]), ("city\nRome\nOslo\nRome\n", ["city"]),
])
def test_the_header_is_found(tmp_path, text, names):
    assert list(kinds(csv(tmp_path, text))) == names


def test_a_guess_at_the_header_is_said_and_can_be_overruled(tmp_path):
    assert "header_guessed" in [w["code"] for w in csv(tmp_path, "city,land\nRome,Italy\nOslo,Norway\n").record["warnings"]]
    found = csv(tmp_path, "city,land\nRome,Italy\nOslo,Norway\n", header=False)
    assert found.record["rows"] == 3 and list(kinds(found)) == ["c0", "c1"]
    assert list(kinds(csv(tmp_path, "2019,2020\n1,2\n", header=True))) == ["2019", "2020"]


def test_types_can_be_said(tmp_path):
    text = "zip,when,n\n02134,1.5.2024,1\n10001,2.5.2024,0\n"
    found = csv(tmp_path, text, types="zip:category,when:datetime,n:boolean")
    assert kinds(found) == {"zip": "category", "when": "datetime", "n": "boolean"}
    assert preview(tmp_path, found)[0] == {"zip": "02134", "when": "2024-05-01", "n": 1}
    plain = csv(tmp_path, text)
    assert plain.sha256 != found.sha256 and kinds(plain)["zip"] == "number"
    assert kinds(csv(tmp_path, text, types={"zip": "text"}))["zip"] == "text"


def test_other_encodings_are_read(tmp_path):
    text = "name,x\nJosé,1\n"
    assert preview(tmp_path, csv(tmp_path, text.encode("utf-16")))[0]["name"] == "José"
    latin = csv(tmp_path, text.encode("latin-1"))
    assert preview(tmp_path, latin)[0]["name"] == "José" and latin.record["warnings"][0]["code"] == "not_utf8"


def test_a_table_larger_than_a_block_is_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("service.datasets.texts.BLOCK", 500)
    rows = [f"{i},{'red' if i % 3 else '?'},note number {i}" for i in range(2000)]
    found = csv(tmp_path, "i,colour,note\n" + "\n".join(rows))
    table = open_table(tmp_path, found.sha256)
    assert kinds(found) == {"i": "number", "colour": "category", "note": "text"} and table.rows == 2000
    assert table.columns["i"].data.tolist() == list(range(2000))
    assert [table.columns["note"].text(i) for i in (0, 999, 1999)] == [f"note number {i}" for i in (0, 999, 1999)]
    assert table.columns["colour"].summary()["missing"] == 667


def test_text_is_one_column_of_lines(tmp_path):
    found = ingest(tmp_path, ["To be, or not to be\r\n\r\n, that ïs\nthe question".encode()], media_type="text/plain")
    table = open_table(tmp_path, found.sha256)
    assert table.kind == "text" and [row["text"] for row in table.preview()] == ["To be, or not to be", "", ", that ïs", "the question"]
    assert table.columns["text"].content.tobytes().decode() == "To be, or not to be\n\n, that ïs\nthe question\n"
    assert found.record["columns"][0]["missing"] == 0


def test_the_same_bytes_read_in_two_ways_are_two_folders(tmp_path):
    text = [b"a,b\n1,2\n"]
    table, lines = ingest(tmp_path, text, media_type="text/csv"), ingest(tmp_path, text, media_type="text/plain")
    assert open_table(tmp_path, table.sha256).kind == "table" and open_table(tmp_path, lines.sha256).kind == "text"


def test_the_same_upload_twice_is_one_folder(tmp_path):
    first, again = csv(tmp_path, "a,b\n1,2\n", name="one"), csv(tmp_path, "a,b\n1,2\n", name="two")
    assert first.folder == again.folder and (first.record["name"], again.record["name"]) == ("one", "two")
    assert [path.name for path in (tmp_path / "datasets").iterdir()] == [first.sha256]


def test_ndjson_is_a_table(tmp_path):
    lines = b'{"x": 1, "tag": "a"}\n\n{"tag": "b", "ok": true}\n{"x": "3.5"}\n'
    found = ingest(tmp_path, [lines], media_type="application/x-ndjson")
    assert found.record["format"] == "ndjson"
    assert preview(tmp_path, found) == [{"x": 1, "tag": "a", "ok": None}, {"x": None, "tag": "b", "ok": True}, {"x": 3.5, "tag": None, "ok": None}]


def test_json_columns_are_arrays_and_rows_are_a_table(tmp_path):
    columns = {"x": [[0, 0], [0, 1]], "y": [0.5, None], "label": ["no", "yes"]}
    found = ingest_inline(tmp_path, columns=columns, name="xor")
    assert open_table(tmp_path, found.sha256).kind == "arrays" and kinds(found) == {"x": "tensor", "y": "number", "label": "boolean"}
    rows = [{"x": 1, "c": "a"}, {"x": None, "c": "b"}]
    assert preview(tmp_path, ingest_inline(tmp_path, rows=rows)) == rows
    body = json.dumps({"name": "n", "columns": columns}).encode()
    assert preview(tmp_path, ingest(tmp_path, [body], media_type="application/json")) == preview(tmp_path, found)
    assert json.loads(content(tmp_path, found.sha256).read_bytes()) == {"columns": columns}


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64", "uint8", ">f4", "int16", "float16", "bool"])
def test_npy_arrays_keep_their_values(tmp_path, dtype):
    array = (np.arange(24).reshape(4, 3, 2) % 5).astype(dtype)
    for stored in (array, np.asfortranarray(array), array[:, 0, 0]):
        found = ingest(tmp_path, [npy(stored)])
        column = open_table(tmp_path, found.sha256).columns["data"]
        assert column.array and column.data.shape == stored.shape and np.array_equal(column.data, stored)
    assert found.record["format"] == "npy"


def test_npz_is_one_column_for_each_array(tmp_path):
    x, y = np.random.default_rng(0).random((50, 4)), np.arange(50) % 3 == 0
    for save in (np.savez, np.savez_compressed):
        table = open_table(tmp_path, ingest(tmp_path, [npz(save, x=x, y=y)], media_type="application/x-npz").sha256)
        assert np.array_equal(table.columns["x"].data, x) and table.columns["y"].classes == (False, True)
        assert np.array_equal(table.columns["y"].data, y)


def test_gzip_is_unwrapped(tmp_path):
    images = np.arange(2 * 3 * 3).reshape(2, 3, 3)
    found = ingest(tmp_path, [gzip.compress(idx(images))], name="t10k-images-idx3-ubyte.gz")
    column = open_table(tmp_path, found.sha256).columns["data"]
    assert (found.record["format"], column.kind, column.image) == ("idx", "tensor", True) and np.array_equal(column.data, images)
    assert csv(tmp_path, gzip.compress(b"a,b\n1,2\n")).record["rows"] == 1
    assert ingest(tmp_path, [gzip.compress(b"a,b\n1,2\n")], name="x.csv.gz", media_type="application/gzip").record["format"] == "csv"


def test_parts_become_columns(tmp_path):
    x, y = np.random.default_rng(0).random((6, 2)).astype(np.float32), np.array([0, 1, 2, 0, 1, 2])
    parts = [Part("x", io.BytesIO(npy(x)), "x.npy"), Part("label", io.BytesIO(gzip.compress(idx(y))), "y-ubyte.gz")]
    found = ingest_parts(tmp_path, parts, name="parts")
    table = open_table(tmp_path, found.sha256)
    assert list(table.columns) == ["x", "label"] and np.array_equal(table.columns["x"].data, x) and table.columns["label"].data.dtype == np.uint8
    with np.load(content(tmp_path, found.sha256), allow_pickle=False) as back:
        assert np.array_equal(back["label"], y)
    assert ingest(tmp_path, content(tmp_path, found.sha256)).sha256 == found.sha256


def test_a_part_called_file_is_the_file(tmp_path):
    found = ingest_parts(tmp_path, [Part("file", io.BytesIO(b"1;2\n3;4\n"), "wine.csv", "text/csv")], name="wine", header=True)
    assert (found.record["name"], found.record["rows"], list(kinds(found))) == ("wine", 1, ["1", "2"])


def test_pieces_come_as_they_come(tmp_path):
    with Incoming(tmp_path) as incoming:
        for piece in (b"a,b", b"\n1,2\n", b"3,4"):
            incoming.write(piece)
        assert incoming.finish(name="x").record["rows"] == 2


def test_what_a_dead_upload_left_is_swept(tmp_path):
    kept = csv(tmp_path, "a,b\n1,2\n")
    dying = Incoming(tmp_path)
    dying.write(b"half of some")
    assert unfinished.sweep(tmp_path / "datasets") == []
    dying.draft.path.rename(tmp_path / "datasets" / f"{unfinished.MARK}{os.getpid()}-1-x")     # a pid that another process had before
    (tmp_path / "datasets" / ".new-of-older-programs").mkdir()
    assert len(unfinished.sweep(tmp_path / "datasets")) == 2
    assert [path.name for path in (tmp_path / "datasets").iterdir()] == [kept.sha256]


def test_a_damaged_or_lost_folder_is_told_apart(tmp_path):
    found = csv(tmp_path, "a,b\n1,2\n")
    (found.folder / "1.bin").write_bytes(b"")
    with pytest.raises(DatasetError) as caught:
        open_table(tmp_path, found.sha256)
    assert caught.value.code == "dataset_damaged"
    for address in ("0" * 64, "../../etc/passwd", ""):
        for use in (open_table, content):
            with pytest.raises(DatasetError) as caught:
                use(tmp_path, address)
            assert (caught.value.code, caught.value.status) == ("dataset_missing", 404)


def test_the_digits_sample_is_there():
    table = open_sample("digits")
    pixels, label = table.columns["pixels"], table.columns["label"]
    assert table.rows == 1797 and pixels.data.shape == (1797, 64) and pixels.data.dtype == np.float32 and pixels.array
    assert (pixels.data.min(), pixels.data.max()) == (0, 1) and set(label.data.tolist()) == set(range(10))
    (entry,) = samples()
    assert entry["dataset"] == "sample:digits" and "CC BY 4.0" in entry["licence"] and json.dumps(entry)
    with pytest.raises(DatasetError) as caught:
        open_sample("digit")
    assert caught.value.errors[0].suggestion == "digits"


@real
def test_adult_has_fourteen_inputs_and_a_label(tmp_path):
    found = ingest(tmp_path, DATA / "adult-train.csv")
    assert found.record["rows"] == 32561 and not found.record["warnings"]
    numbers = {"c0", "c2", "c4", "c10", "c11", "c12"}
    assert kinds(found) == {f"c{i}": "number" if f"c{i}" in numbers else "category" for i in range(15)}
    assert {c["name"]: c["missing"] for c in found.record["columns"] if c["missing"]} == {"c1": 1836, "c6": 1843, "c13": 583}
    assert found.record["columns"][14]["classes"] == ["<=50K", ">50K"]
    assert ingest(tmp_path, DATA / "adult-test.csv").record["columns"][14]["classes"] == ["<=50K.", ">50K."]


@real
def test_titanic_is_read_as_a_person_would(tmp_path):
    found = ingest(tmp_path, DATA / "titanic.csv")
    numbers, booleans = ("survived", "pclass", "age", "sibsp", "parch", "fare"), ("adult_male", "alive", "alone")
    assert all(kind == ("number" if name in numbers else "boolean" if name in booleans else "category") for name, kind in kinds(found).items())
    columns = {column["name"]: column for column in found.record["columns"]}
    assert columns["adult_male"]["classes"] == [False, True] and columns["alive"]["classes"] == ["no", "yes"] and columns["deck"]["missing"] == 688
    assert columns["age"]["missing"] == 177 and columns["embark_town"]["classes"] == ["Cherbourg", "Queenstown", "Southampton"]


@real
def test_wine_and_shakespeare_are_read(tmp_path):
    wine = ingest(tmp_path, DATA / "winequality-red.csv")
    assert wine.record["rows"] == 1599 and set(kinds(wine).values()) == {"number"} and list(kinds(wine))[-1] == "c11"
    plays = ingest(tmp_path, DATA / "tinyshakespeare.txt", media_type="text/plain")
    column = open_table(tmp_path, plays.sha256).columns["text"]
    assert column.content.tobytes() == (DATA / "tinyshakespeare.txt").read_bytes() and column.rows == plays.record["rows"] == 40000


@real
def test_mnist_is_two_parts(tmp_path):
    with (DATA / "mnist/t10k-images-idx3-ubyte.gz").open("rb") as images, (DATA / "mnist/t10k-labels-idx1-ubyte.gz").open("rb") as labels:
        found = ingest_parts(tmp_path, [Part("image", images, "t10k-images-idx3-ubyte.gz"), Part("label", labels, "t10k-labels-idx1-ubyte.gz")])
    image, label = open_table(tmp_path, found.sha256).columns.values()
    assert image.data.shape == (10000, 28, 28) and image.image and label.data.shape == (10000,) and label.data.max() == 9
