"""Uploads that lie, against a real server: each is refused with a clear answer, nothing of it stays, and the server's memory hardly grows."""

from __future__ import annotations

import gzip
import io
import re
import socket
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet
from running import Running, problem

MB = 10**6
ZIP, PARQUET, NPZ, CSV = "application/zip", "application/vnd.apache.parquet", "application/x-npz", "text/csv"


def zipped(entries: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return file.getvalue()


def png(size: int = 4) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.zeros((size, size), np.uint8)).save(file, "PNG")
    return file.getvalue()


def huge_png() -> bytes:
    chunks = (b"IHDR" + struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0), b"IDAT" + zlib.compress(bytes(100)), b"IEND")
    packed = [struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def table(**columns: pa.Array) -> bytes:
    file = io.BytesIO()
    parquet.write_table(pa.table(columns), file, compression="zstd")
    return file.getvalue()


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def attacks() -> Iterator[tuple[str, str, bytes, str]]:
    """(what it is, media type, bytes, code)"""
    zeros, good = npy(np.zeros(5_000_000)), table(x=pa.array(range(1000)))
    yield "gzip bomb", CSV, gzip.compress(b"1,2\n" * 10_000_000, 9), "too_large"
    yield "gzip bomb of one line", CSV, gzip.compress(b"x" * 40_000_000, 9), "row_too_long"
    yield "gzip in gzip", CSV, gzip.compress(gzip.compress(b"a,b\n1,2\n")), "nested_archive"
    yield "zip bomb of arrays", NPZ, zipped({"x.npy": zeros}), "too_large"
    yield "zip bomb of images", ZIP, zipped({f"a/{i}.png": b"\x89PNG\r\n\x1a\n" + bytes(10 * MB) for i in range(5)}), "damaged_image"
    yield "thousands of tiny entries", NPZ, zipped({f"{i}.npy": b"" for i in range(5000)}), "too_many_entries"
    yield "a path", ZIP, zipped({"../../../tmp/x/1.png": png()}), "bad_name"
    yield "an absolute path", ZIP, zipped({"/etc/cron.d/1.png": png()}), "bad_name"
    yield "a huge image", ZIP, zipped({"a/1.png": huge_png()}), "too_large"
    yield "images of two sizes", ZIP, zipped({"a/1.png": png(), "b/2.png": png(5)}), "size_mismatch"
    yield "a script in a folder", ZIP, zipped({"a/1.png": b"#!/bin/sh\n"}), "not_an_image"
    yield "a zip in a zip", ZIP, zipped({"a/1.zip": zipped({"x": b""})}), "nested_archive"
    yield "a cut zip", ZIP, zipped({"a/1.png": png()})[:-9], "truncated"
    yield "a cut Parquet file", PARQUET, good[:-100], "truncated"
    yield "a lying footer", PARQUET, good[:-8] + struct.pack("<I", 2**31) + b"PAR1", "malformed_parquet"
    yield "a Parquet bomb", PARQUET, table(x=pa.array(np.zeros(5_000_000))), "too_large"
    yield "a Parquet bomb of text", PARQUET, table(x=pa.array(["y" * 100_000] * 400)), "too_large"
    yield "a nested column", PARQUET, table(x=pa.array([{"a": 1}])), "unsupported_dtype"
    yield "a pickle", "application/octet-stream", b"\x80\x04\x95" + bytes(20), "unsupported_media_type"
    yield "objects", "application/x-npy", npy(np.zeros(1)).replace(b"'<f8'", b"'|O8'"), "unsupported_dtype"
    yield "a huge shape", "application/x-npy", npy(np.zeros(123456)).replace(b"(123456,)", b"(999999999,)"[:9]), "malformed_npy"
    yield "an endless quote", CSV, b'a,b\n1,"' + b"x,\n" * 700_000, "malformed_row"
    yield "too many columns", CSV, b"," * 20_000 + b"\n", "too_many_columns"
    yield "deep JSON", "application/x-ndjson", b'{"a":' + b"[" * 100_000 + b"\n", "too_deep"


def peak(pid: int) -> int:
    return int(re.findall(r"VmHWM:\s+(\d+)", Path("/proc", str(pid), "status").read_text())[0]) * 1024


@pytest.fixture(scope="module")
def small(start_server) -> Running:
    return start_server(TRAINYARD_MAX_UPLOAD_BYTES=str(30 * MB))


SHORT = ("gzip in gzip", "thousands of tiny entries", "a path", "a huge image", "a lying footer", "a Parquet bomb", "a pickle", "objects",
         "a huge shape", "too many columns", "deep JSON")


@pytest.mark.parametrize("short", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_every_attack_has_an_answer_and_leaves_nothing(small: Running, short: bool) -> None:
    small.http.post("/v1/datasets", content=b"a,b\n1,2\n", headers={"content-type": CSV}).raise_for_status()
    before, kept = peak(small.process.pid), len(list((small.home / "datasets").iterdir()))
    for what, media_type, body, code in attacks():
        if short and what not in SHORT:
            continue
        answer = small.http.post("/v1/datasets", content=body, headers={"content-type": media_type}, timeout=120)
        assert 400 <= answer.status_code < 500, (what, answer.text)
        found = problem(answer, answer.status_code, answer.json()["code"])
        assert found["code"] == code, (what, found)
        assert len(found["detail"]) < 600 and len(list((small.home / "datasets").iterdir())) == kept, what
    assert peak(small.process.pid) - before < 150 * MB
    assert small.http.get("/v1/datasets").json()["data"][-1]["rows"] == 1 and not Path("/tmp/x/1.png").exists()


def test_uploads_that_are_cut_leave_nothing(small: Running) -> None:
    kept = sorted(path.name for path in (small.home / "datasets").iterdir())
    host, port = small.url.removeprefix("http://").split(":")
    for head, body in ((b"Content-Length: 1000000\r\n", b"a,b\n1,2\n"), (b"Transfer-Encoding: chunked\r\n", b"5\r\na,b\n1\r\n")):
        for _ in range(3):
            with socket.create_connection((host, int(port))) as connection:
                connection.sendall(b"POST /v1/datasets HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/csv\r\n" + head + b"\r\n" + body)
    for _ in range(200):
        if sorted(path.name for path in (small.home / "datasets").iterdir()) == kept:
            break
        httpx.get(f"{small.url}/healthz", trust_env=False)
    assert sorted(path.name for path in (small.home / "datasets").iterdir()) == kept


def test_a_preview_of_enormous_rows_is_refused(small: Running) -> None:
    made = small.http.post("/v1/datasets", content=npy(np.zeros((3, 1200, 1000), np.uint8)), headers={"content-type": "application/x-npy"}).json()
    problem(small.http.get(f"/v1/datasets/{made['id']}/rows"), 413, "too_large")
    made = small.http.post("/v1/datasets", content=npy(np.zeros((30, 300, 200), np.uint8)), headers={"content-type": "application/x-npy"}).json()
    page = small.http.get(f"/v1/datasets/{made['id']}/rows?limit=30").json()
    assert len(page["data"]) == 16 and page["has_more"]
