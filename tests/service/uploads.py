"""Uploads for the tests of data sets: good ones of each format, and what must hold when a bad one is refused."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from service.datasets import DatasetError, ingest


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def npz(save=np.savez, **arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    save(file, **arrays)
    return file.getvalue()


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape) + array.astype(np.uint8).tobytes()


def zipped(entries: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return file.getvalue()


GOOD = {
    "csv": b"id,name,when\n1,Ada,2024-01-01\n2,Bob,2024-01-02\n3,Cy,2024-02-03\n",
    "text": "Some lines,\nof tëxt.\n".encode(),
    "ndjson": b'{"x": 1, "y": "a"}\n{"x": 2, "y": "b"}\n',
    "json": b'{"columns": {"x": [[1, 2], [3, 4]], "y": ["a", "b"]}}',
    "npy": npy(np.arange(6, dtype=np.float32).reshape(2, 3)),
    "npz": zipped({"x.npy": npy(np.arange(6).reshape(2, 3)), "y.npy": npy(np.arange(2))}),
    "idx": b"\0\0\x08\x03\0\0\0\x02\0\0\0\x02\0\0\0\x02" + bytes(range(8)),
    "gzip": gzip.compress(b"a,b\n1,2\n3,4\n" * 50),
}


def refusal(home: Path, data: bytes, **options) -> DatasetError:
    """The error of an upload that must be refused, after a look that nothing of it stays."""
    with pytest.raises(DatasetError) as caught:
        ingest(home, [data], **options)
    assert list((home / "datasets").iterdir()) == []
    assert caught.value.detail and caught.value.errors and json.dumps(caught.value.as_dict("/v1/datasets"))
    return caught.value
