"""Which format an upload has: what the sender says, what its first bytes say, and what its name says, in that order of trust."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import PurePath
from typing import cast

from engine.data.inference import KINDS, Kind
from engine.errors import nearest
from service.datasets import weights
from service.datasets.limits import DatasetError

BY_MEDIA = {
    "text/csv": "csv", "application/csv": "csv", "text/tab-separated-values": "csv", "text/plain": "text",
    "application/x-ndjson": "ndjson", "application/ndjson": "ndjson", "application/jsonl": "ndjson", "application/json": "json",
    "application/x-npy": "npy", "application/x-npz": "npz", "application/x-idx": "idx",
    "application/vnd.apache.parquet": "parquet", "application/zip": "images",
    "application/x-safetensors": "safetensors",
}
BY_NAME = {".csv": "csv", ".tsv": "csv", ".data": "csv", ".txt": "text", ".ndjson": "ndjson", ".jsonl": "ndjson", ".json": "json",
           ".npy": "npy", ".npz": "npz", ".idx": "idx", ".parquet": "parquet", ".zip": "images", ".safetensors": "safetensors"}
FORMATS = ("csv", "text", "ndjson", "json", "npy", "npz", "idx", "parquet", "images", "safetensors")
WORKBOOK = b"[Content_Types].xml"       # what the zips of Excel and its like begin with
UNSAID = ("", "application/octet-stream", "application/x-www-form-urlencoded", "application/gzip", "application/x-gzip", "binary/octet-stream")
DELIMITERS = {"comma": ",", "tab": "\t", "\\t": "\t", "semicolon": ";", "pipe": "|", "space": " "}


@dataclass(frozen=True)
class Options:
    """How the sender wants an upload read; None and empty mean: find out."""

    format: str | None = None
    header: bool | None = None
    delimiter: str | None = None
    types: Mapping[str, Kind] = field(default_factory=dict)

    def said(self) -> dict[str, object]:
        return {name: value for name, value in asdict(self).items() if value not in (None, {})}


def options(format: str | None = None, header: bool | None = None, delimiter: str | None = None,
            types: str | Mapping[str, str] | None = None) -> Options:
    """The query parameters of an upload, checked."""
    if format is not None and format not in FORMATS:
        raise DatasetError("unknown_format", f"no format is called {format!r}; there are {', '.join(FORMATS)}", suggestion=nearest(format, FORMATS))
    delimiter = None if delimiter is None else DELIMITERS.get(delimiter, delimiter)
    if delimiter is not None and (len(delimiter) != 1 or delimiter in '"\r\n\0' or not delimiter.isascii()):
        raise DatasetError("bad_delimiter", f"a delimiter is one character, or one of {', '.join(DELIMITERS)}; got {delimiter[:20]!r}")
    return Options(format, header, delimiter, types_of(types))


def types_of(types: str | Mapping[str, str] | None) -> dict[str, Kind]:
    """`zip:category,when:datetime` as a dict."""
    if isinstance(types, str):
        pairs = [part.rpartition(":") for part in types.split(",") if part.strip()]
        if wrong := [kind for name, _, kind in pairs if not name]:
            raise DatasetError("bad_types", f"types are written column:kind, separated by commas; {wrong[0][:80]!r} has no colon")
        types = {name.strip(): kind.strip() for name, _, kind in pairs}
    for name, kind in (types or {}).items():
        if kind not in KINDS:
            detail = f"column {name!r} cannot be {kind!r}: the kinds are {', '.join(KINDS)}"
            raise DatasetError("unknown_kind", detail, column=name, suggestion=nearest(kind, KINDS))
    return cast(dict[str, Kind], dict(types or {}))


def check_types(types: Mapping[str, Kind], names: list[str]) -> None:
    for name in types:
        if name not in names:
            listed = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
            detail = f"types name a column {name!r}; the columns are {listed}"
            raise DatasetError("unknown_column", detail, column=name, suggestion=nearest(name, names))


def by_magic(head: bytes) -> str | None:
    """The format that the first bytes prove."""
    if head.startswith(b"\x93NUMPY"):
        return "npy"
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "zip"
    if head.startswith(b"PAR1"):
        return "parquet"
    if len(head) >= 4 and head[:2] == b"\0\0" and 8 <= head[2] <= 14 and 1 <= head[3] <= 8:
        return "idx"
    return None


def natural(stream: io.BufferedReader) -> str:
    """The format a file is read as when nothing else is known of it."""
    head = stream.peek(512)[:512]
    if weights.looks_like(head):
        return weights.FORMAT
    found = by_magic(head)
    if found == "zip":
        return of_zip(head)
    return found or ("json" if head.lstrip()[:1] == b"{" else "csv")


def of_zip(head: bytes) -> str:
    """Whether a zip holds arrays or images: by the name of its first entry."""
    name = head[30:30 + int.from_bytes(head[26:28], "little")]
    return "npz" if name.endswith(b".npy") or not name else "images"


def detect(stream: io.BufferedReader, said: str | None, media_type: str | None, name: str) -> str:
    """The format of the (unpacked) bytes, whose first ones are only peeked at. 415 for what is not read."""
    head = stream.peek(512)[:512]
    media = (media_type or "").split(";")[0].strip().lower()
    suffixes = [s.lower() for s in PurePath(name).suffixes if s.lower() != ".gz"]
    named = BY_NAME.get(suffixes[-1]) if suffixes else None
    if weights.looks_like(head) and said is None:
        return weights.FORMAT
    if head[:1] == b"\x80" and head[1:2] <= b"\x05" and said is None:
        detail = "this looks like a Python pickle, which is never read: save arrays with numpy.save, tables as CSV"
        raise DatasetError("unsupported_media_type", detail, 415)
    proved = by_magic(head)
    if proved == "zip" and (suffixes[-1:] in ([".xlsx"], [".ods"]) or head[30:].startswith(WORKBOOK)):
        detail = "this is a workbook of a spreadsheet, which is not read: save the sheet as CSV and send that"
        raise DatasetError("unsupported_media_type", detail, 415)
    if proved == "zip":
        proved = said or named or BY_MEDIA.get(media) or of_zip(head)
    known = said or proved or named or media in BY_MEDIA or media in UNSAID or media.startswith("text/")
    if not known:
        raise DatasetError("unsupported_media_type", f"{media!r} is not read; send {', '.join(sorted(BY_MEDIA))}, or say format=csv", 415)
    found = said or proved or BY_MEDIA.get(media) or named or natural(stream)
    return found
