"""Data as the body of an upload: a file, arrays by column, or rows."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

Source = str | Path | Mapping[str, Any] | Sequence[Mapping[str, Any]]
PIECE = 1 << 20
MEDIA_TYPES = {".csv": "text/csv", ".tsv": "text/tab-separated-values", ".txt": "text/plain", ".ndjson": "application/x-ndjson",
               ".jsonl": "application/x-ndjson", ".json": "application/json", ".npy": "application/x-npy", ".npz": "application/x-npz",
               ".parquet": "application/vnd.apache.parquet", ".zip": "application/zip"}
UNKNOWN = "application/octet-stream"        # the service looks at the bytes


@contextmanager
def body(source: Source) -> Iterator[dict[str, Any]]:
    """The arguments of one request with this data.

    source: the path of a file; arrays, or paths of array files, by column; or rows, each a dict.
    """
    with ExitStack() as files:
        if isinstance(source, str | Path):
            yield {"content": pieces(files.enter_context(open(source, "rb"))), "headers": {"Content-Type": media_type(Path(source))}}
        elif not isinstance(source, Mapping):
            yield {"content": json.dumps({"rows": list(source)}, allow_nan=False), "headers": {"Content-Type": "application/json"}}
        elif source and all(isinstance(value, str | Path) for value in source.values()):
            yield {"files": {name: (Path(path).name, files.enter_context(open(path, "rb")), UNKNOWN) for name, path in source.items()}}
        else:
            yield {"content": packed(source), "headers": {"Content-Type": MEDIA_TYPES[".npz"]}}


def media_type(path: Path) -> str:
    """By the file's name; packed files (.gz) are left for the service to look at."""
    return MEDIA_TYPES.get(path.suffix.lower(), UNKNOWN)


def pieces(file: Any) -> Iterator[bytes]:
    """The bytes of a file, never all at once."""
    while piece := file.read(PIECE):
        yield piece


def packed(columns: Mapping[str, Any]) -> bytes:
    """Arrays by column as the bytes of an .npz file."""
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **{name: np.asarray(values) for name, values in columns.items()})
    return file.getvalue()


def plain(value: Any) -> Any:
    """Arrays as lists, so that JSON takes them."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value
