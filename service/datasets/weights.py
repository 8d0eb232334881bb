"""Uploads of parameters: safetensors files, which jobs name in `initial`. They are kept as they come; only their header is read.

Names are paths as `GET /v1/jobs/{id}/model` has them ("layers.0.weight"); dense weights are [in, out].
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from service.datasets.limits import DatasetError, Limits

FORMAT, KIND = "safetensors", "parameters"
HEADER_BYTES = 1 << 20
DTYPES = {"F16": "float16", "F32": "float32", "F64": "float64", "BF16": "bfloat16", "BOOL": "bool",
          **{f"{letter}{bits}": f"{name}{bits}" for letter, name in (("I", "int"), ("U", "uint")) for bits in (8, 16, 32, 64)}}


def looks_like(head: bytes) -> bool:
    """Whether a file begins with the length of a header that we would read, and an object."""
    return len(head) > 8 and 2 <= int.from_bytes(head[:8], "little") <= HEADER_BYTES and head[8:9] == b"{"


def describe(path: Path, limits: Limits) -> list[dict[str, Any]]:
    """The arrays of a file: name, dtype, shape. Overlaps, holes and sizes that do not add up are refused, and no array is made."""
    with path.open("rb") as file:
        size, said = path.stat().st_size, int.from_bytes(file.read(8), "little")
    if said > HEADER_BYTES or said > size - 8:
        at_most = f"at most {HEADER_BYTES:,} are read" if said > HEADER_BYTES else f"the file has {size:,}"
        raise DatasetError("malformed_safetensors", f"the header says that it has {said:,} bytes; {at_most}")
    try:
        with safe_open(path, "np") as file:
            found = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  no mapping
            arrays = [{"name": name, "kind": "tensor", "dtype": DTYPES.get(item.get_dtype(), item.get_dtype()), "shape": list(item.get_shape()),
                       "missing": 0} for name, item in found.items()]
    except (SafetensorError, OSError) as error:
        why = str(error).removeprefix("Error while deserializing header: ")
        raise DatasetError("malformed_safetensors", f"this is no safetensors file: {why}") from None
    if not arrays:
        raise DatasetError("empty", "the file has no arrays")
    if len(arrays) > limits.columns:
        raise DatasetError("too_many_columns", f"a file has at most {limits.columns:,} arrays; this one has {len(arrays):,}", 413)
    return arrays


def table_json(folder: Path, version: int, bytes: int, arrays: list[dict[str, Any]]) -> dict[str, Any]:
    """Write the table.json of an upload that has no rows; returns what it says."""
    about = {"version": version, "kind": KIND, "rows": 0, "columns": [], "summary": arrays, "format": FORMAT, "bytes": bytes, "warnings": []}
    (folder / "table.json").write_text(json.dumps(about, ensure_ascii=False, allow_nan=False))
    return about


def refuse(about: Mapping[str, Any]) -> None:
    """Parameters are no rows."""
    if about["kind"] == KIND:
        raise DatasetError("wrong_format", "this upload holds parameters, not rows: a job names it in 'initial'", 422)
