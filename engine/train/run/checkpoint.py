"""Checkpoints: everything that a run needs to go on with the same bits, as one safetensors file.

Tensors: `parameters/PATH`, `buffers/PATH`, `state/NAME` (a slab of the optimiser), `sums/NAME` (what the epoch has added up or kept), `control`,
`trained/PATH` where the parameters are averages of what is trained, `best/PATH` and `best_buffers/PATH` for the best weights so far,
`shelf/PATH/NAME` for what the optimiser remembers of parameters that are frozen now, `back` for the checkpoint that a rollback goes back to.
Metadata: one JSON value under `trainyard`. Times are not in it: equal runs give equal bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from engine.errors import CheckpointError

VERSION = 2


@dataclass(frozen=True)
class Checkpoint:
    """Arrays by name and a JSON value."""

    arrays: dict[str, np.ndarray]
    meta: dict[str, Any]

    def group(self, name: str) -> dict[str, np.ndarray]:
        """The arrays under `name/`, by what follows."""
        prefix = name + "/"
        return {key.removeprefix(prefix): value for key, value in self.arrays.items() if key.startswith(prefix)}


def pack(arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> bytes:
    """The bytes of a checkpoint."""
    text = json.dumps({"version": VERSION, **meta}, sort_keys=True, separators=(",", ":"))
    return save({name: np.ascontiguousarray(array).reshape(array.shape) for name, array in arrays.items()}, {"trainyard": text})


def unpack(data: bytes) -> Checkpoint:
    """A checkpoint from its bytes. Raises CheckpointError where they are damaged or of another version."""
    try:
        size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8: 8 + size])
        meta = json.loads(header["__metadata__"]["trainyard"])
        arrays = load(data)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"the checkpoint cannot be read: {error}") from None
    check_version(meta)
    return Checkpoint(arrays, meta)


def check_version(meta: Mapping[str, Any]) -> None:
    """Raises CheckpointError for the JSON value of a checkpoint that another program wrote."""
    found = meta.get("version")
    if found != VERSION:
        program = "a newer program" if isinstance(found, int) and found > VERSION else "an older program"
        raise CheckpointError(f"the checkpoint was written by {program} (version {found}, this one reads {VERSION})")


def written(values: Mapping[str, float]) -> dict[str, float | str]:
    """Numbers as JSON has them: what is not finite becomes text."""
    return {name: value if np.isfinite(value) else repr(float(value)) for name, value in values.items()}


def numbers(values: Mapping[str, float | str]) -> dict[str, float]:
    """What `written` wrote."""
    return {name: float(value) for name, value in values.items()}
