"""A trained model as a file to take away: its arrays by path, and the facts: the spec, the preprocessing, the class names, the hash of the arrays."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from safetensors.numpy import save

from engine.train.run.checkpoint import Checkpoint

Arrays = dict[str, np.ndarray]
MEDIA_TYPES = {"safetensors": "application/octet-stream", "npz": "application/x-npz", "onnx": "application/octet-stream"}
VERSION = 2     # of the files: the same model has the same bytes until this changes


def arrays_of(checkpoint: Checkpoint, best: bool) -> Arrays:
    """Parameters and buffers, those of the best weights where they are asked for and known."""
    groups = ("best", "best_buffers") if best and checkpoint.group("best") else ("parameters", "buffers")
    return {path: array for name in groups for path, array in checkpoint.group(name).items()}


def facts_of(spec: Mapping[str, Any], which: str, epoch: int, meta: Mapping[str, Any], arrays: Arrays) -> dict[str, Any]:
    """What a file says beside the arrays. `meta` is that of the checkpoint, which is of `epoch`; `sha256` is that of the arrays in any form."""
    best = meta.get("best") if which == "best" else None
    known = {name: meta[name] for name in ("fitted", "class_names") if name in meta}
    return {"checkpoint": which, "epoch": best["epoch"] if best else epoch, "sha256": digest(arrays), "spec": dict(spec), **known}


def digest(arrays: Arrays) -> str:
    """SHA-256 of the arrays: of path, type, shape and bytes of each, in the order of paths."""
    found = hashlib.sha256()
    for path, array in sorted(arrays.items()):
        found.update(f"{path} {array.dtype.name}{list(array.shape)}\n".encode())
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()


def pack(arrays: Arrays, facts: Mapping[str, Any], form: str) -> bytes:
    """Safetensors with the facts under `trainyard` in its metadata, or npz with an array `trainyard` of their UTF-8 bytes."""
    text = json.dumps(facts, ensure_ascii=False)
    if form == "safetensors":
        return save(arrays, {"trainyard": text})
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **{**dict(sorted(arrays.items())), "trainyard": np.frombuffer(text.encode(), np.uint8)})
    return file.getvalue()


def tag_of(sha256: str, which: str, form: str, spec: Mapping[str, Any]) -> str:
    """The ETag of the file of a checkpoint with this hash."""
    known = json.dumps([VERSION, sha256, which, form, spec], sort_keys=True).encode()
    return f'"{hashlib.sha256(known).hexdigest()[:32]}.{form}"'
