"""Array files that lie: sizes that do not fit, types that are not kept, pickles, archives. Each is refused, and nothing stays."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from service.datasets import DatasetError, Limits, ingest
from tests.service.uploads import GOOD, npy, refusal, zipped


@pytest.fixture
def refused(tmp_path: Path) -> Callable[..., DatasetError]:
    return partial(refusal, tmp_path)


def header(text: str, version: int = 1, length: int | None = None, data: bytes = b"") -> bytes:
    size = (len(text) if length is None else length).to_bytes(2 if version == 1 else 4, "little")
    return b"\x93NUMPY" + bytes([version, 0]) + size + text.encode("latin-1") + data


def said(descr: str = "'<f4'", order: str = "False", shape: str = "(2, 3)", data: bytes = bytes(24)) -> bytes:
    return header(f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}", data=data)


@pytest.mark.parametrize(("data", "code"), [
    (npy(np.array([{"a": 1}], object)), "unsupported_dtype"), (npy(np.array(["a", "b"])), "unsupported_dtype"),
    (npy(np.zeros(2, complex)), "unsupported_dtype"),
    (npy(np.zeros(2, [("a", "f4")])), "unsupported_dtype"), (npy(np.float32(3)), "no_rows"), (npy(np.zeros((0, 3))), "bad_shape"),
    (npy(np.zeros((3, 0))), "bad_shape"),
    (npy(np.zeros((1,) * 9)), "bad_shape"), (said(shape="(2, 4)"), "truncated"), (said(shape="(2, 2)"), "trailing_bytes"),
    (said(shape="(99999999999, 99999999999)"), "too_large"),
    (said(shape="(9223372036854775807, 9223372036854775807, 9223372036854775807)"), "too_large"), (said(shape="(-1, 6)"), "malformed_npy"),
    (said(shape="(2,,3)"), "malformed_npy"),
    (said(shape="(" + "9" * 400 + ",)"), "malformed_npy"), (said(descr="'<f4'*9"), "malformed_npy"),
    (said(descr="__import__('os')"), "malformed_npy"), (said(descr="'<f4', 'descr': '<f8'"), "malformed_npy"),
    (said(descr="'<f99999999'"), "unsupported_dtype"), (said(order="1"), "malformed_npy"), (header("{}", length=60000), "truncated"),
    (header("{}", version=2, length=2**32 - 1), "malformed_npy"), (header("[]"), "malformed_npy"), (header("{}", version=9), "malformed_npy"),
    (npy(np.array([2**64 - 1], np.uint64)), "out_of_range"),
])
def test_an_npy_file_that_lies_is_refused(refused, data, code):
    assert refused(data).code == code


def test_pickles_are_never_read(refused, tmp_path):
    bomb = b"cos\nsystem\n(S'touch " + str(tmp_path / "owned").encode() + b"'\ntR."
    assert refused(pickle.dumps([1, 2])).status == 415
    assert refused(said(descr="'|O'", shape="(1,)", data=bomb)).code == "unsupported_dtype"
    assert refused(zipped({"x.npy": said(descr="'|O'", shape="(1,)", data=bomb)})).code == "unsupported_dtype"
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(("first", "name"), [("[Content_Types].xml", ""), ("mimetype", "table.ods"), ("xl/a.xml", "table.XLSX")])
def test_a_workbook_is_refused_with_what_to_send(refused, first, name):
    error = refused(zipped({first: b"<x/>"}), name=name)
    assert (error.status, error.code) == (415, "unsupported_media_type") and "save the sheet as CSV" in str(error)


@pytest.mark.parametrize(("data", "code"), [
    (b"\0\0\x08\x01\0\0\0\x04" + bytes(3), "truncated"), (b"\0\0\x08\x01\0\0\0\x02" + bytes(3), "trailing_bytes"),
    (b"\0\0\x08\x02\xff\xff\xff\xff\xff\xff\xff\xff", "too_large"),
    (b"\0\0\x0a\x01\0\0\0\x02ab", "malformed_idx"), (b"\0\0\x08\x01\0\0\0\0", "bad_shape"), (b"\0\0\x08\x00", "malformed_idx"),
    (b"\0\0\x08\xff" + bytes(4 * 255), "bad_shape"),
])
def test_an_idx_file_that_lies_is_refused(refused, data, code):
    assert refused(data, format="idx").code == code


def test_an_archive_that_lies_is_refused(refused):
    good = npy(np.arange(4))
    assert refused(zipped({})).code == "no_columns"
    assert refused(zipped({"x.npy": good, "y.npy": npy(np.arange(5))})).code == "unequal_rows"
    assert refused(zipped({"x.txt": b"hello"}), format="npz").code == "malformed_npz"
    assert refused(zipped({"inner.npz": GOOD["npz"]}), format="npz").code == "malformed_npz"
    assert refused(zipped({"a\nb.npy": good})).code == "bad_name"
    assert refused(zipped({f"c{i}.npy": good for i in range(21)}), limits=Limits(entries=20)).code == "too_many_entries"
    with pytest.warns(UserWarning):
        twice = io.BytesIO()
        with zipfile.ZipFile(twice, "w") as archive:
            archive.writestr("x.npy", good)
            archive.writestr("x.npy", good)
    assert refused(twice.getvalue()).code == "duplicate_column"


def test_names_in_an_archive_are_never_paths(tmp_path):
    found = ingest(tmp_path, [zipped({"../../escape.npy": npy(np.arange(2)), "/etc/x.npy": npy(np.arange(2))})], format="npz")
    assert [column["name"] for column in found.record["columns"]] == ["../../escape", "etc/x"] or found.record["columns"][1]["name"] == "/etc/x"
    assert [path.name for path in tmp_path.iterdir()] == ["datasets"] and not list(tmp_path.parent.glob("escape*"))


def test_a_directory_that_promises_a_million_entries_is_not_read(refused):
    lie = bytearray(GOOD["npz"])
    place = lie.rfind(b"PK\x05\x06")
    struct.pack_into("<HH", lie, place + 8, 60000, 60000)
    assert refused(bytes(lie)).code == "too_many_entries"


def test_sizes_in_an_archive_are_not_believed(refused):
    lie = bytearray(zipped({"x.npy": npy(np.zeros(500_000))}))
    central = lie.rfind(b"PK\x01\x02")
    for place in (22, central + 24):
        struct.pack_into("<I", lie, place, 200)
    assert refused(bytes(lie), limits=Limits(expanded_bytes=1_000_000)).code in ("too_large", "truncated", "damaged")
