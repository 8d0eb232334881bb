"""Taking data in: bytes are stored as they come, read into typed columns, and shown by one rename, or nothing stays."""

from __future__ import annotations

import errno
import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from engine.data.table import Table
from service.datasets import apart, npz, weights
from service.datasets import json as documents
from service.datasets.draft import Draft, described, table_of
from service.datasets.formats import Options, detect, natural, options
from service.datasets.limits import Budget, DatasetError, Limits
from service.datasets.read import Task, array, check_names, describe, put, read
from service.datasets.streams import PIECE, unpacked
from service.errors import StorageFull

Source = Path | BinaryIO | Iterable[bytes]


@dataclass(frozen=True)
class Ingested:
    """A data set that is on disk. `record` has the Dataset JSON's fields but id and time; its `sha256` is what `open_table` takes."""

    record: dict[str, Any]
    folder: Path

    @property
    def sha256(self) -> str:
        return self.record["sha256"]


class Incoming:
    """An upload in progress: `write` pieces as they come, then `finish`. Leaving the `with` block early leaves nothing behind."""

    def __init__(self, home: Path, limits: Limits | None = None):
        self.limits = limits or Limits()
        self.draft = Draft(home)
        self.file, self.hash, self.bytes = self.draft.content.open("wb"), hashlib.sha256(), 0

    def __enter__(self) -> Incoming:
        return self

    def __exit__(self, *error: Any) -> None:
        self.file.close()
        self.draft.__exit__(*error)

    def write(self, piece: bytes) -> None:
        self.bytes += len(piece)
        if self.bytes > self.limits.bytes:
            raise DatasetError("too_large", f"an upload has at most {self.limits.bytes:,} bytes", 413)
        with disk():
            self.file.write(piece)
        self.hash.update(piece)

    def finish(self, *, name: str = "", media_type: str | None = None, format: str | None = None, header: bool | None = None,
               delimiter: str | None = None, types: str | Mapping[str, str] | None = None) -> Ingested:
        """Read what was written into columns, and keep it."""
        wanted = options(format, header, delimiter, types)
        with disk():
            self.file.close()
            if not self.bytes:
                raise DatasetError("empty", "the upload has no bytes")
            budget = Budget(self.limits)
            with unpacked(self.draft.content, budget) as stream:
                found, usual = detect(stream, wanted.format, media_type, name), natural(stream)
            check_use(wanted, found)
            task = Task(found, wanted, self.limits, self.bytes)
            about = apart.read_apart(self.draft, task) if apart.wanted(self.draft, task) else read(self.draft, task)
            said = {**wanted.said(), "format": found}
            address = self.hash.hexdigest() + ("" if said == {"format": usual} else "-" + digest(said))
            return keep(self.draft, address, name, about)


def check_use(wanted: Options, found: str) -> None:
    """Options that this format does not have are refused, never ignored."""
    for option, formats in (("header", ("csv",)), ("delimiter", ("csv",)), ("types", ("csv", "ndjson", "json", "parquet"))):
        if option in wanted.said() and found not in formats:
            raise DatasetError("unused_option", f"{option}= is for {', '.join(formats)}; this upload is {found}")


def digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def keep(draft: Draft, address: str, name: str, about: Mapping[str, Any]) -> Ingested:
    """Show a draft that is described."""
    record = {"name": name or "dataset", "sha256": address, "columns": about["summary"],
              **{field: about[field] for field in ("format", "bytes", "rows", "warnings")}}
    return Ingested(record, draft.keep(address))


@contextmanager
def disk():
    """A full disk is an answer of its own (507)."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull() from error
        raise


def pieces(source: Source) -> Iterable[bytes]:
    if isinstance(source, Path):
        with source.open("rb") as file:
            yield from iter(lambda: file.read(PIECE), b"")
    elif hasattr(source, "read"):
        yield from iter(lambda: source.read(PIECE), b"")  # type: ignore[union-attr]
    else:
        yield from source  # type: ignore[misc]


def ingest(home: Path, source: Source, *, name: str = "", media_type: str | None = None, format: str | None = None, header: bool | None = None,
           delimiter: str | None = None, types: str | Mapping[str, str] | None = None, limits: Limits | None = None) -> Ingested:
    """Take in one file: a path, an open file or pieces of bytes. Raises DatasetError, and StorageFull when the disk is."""
    name = name or (source.name if isinstance(source, Path) else "")
    with Incoming(home, limits) as incoming:
        for piece in pieces(source):
            incoming.write(piece)
        return incoming.finish(name=name, media_type=media_type, format=format, header=header, delimiter=delimiter, types=types)


@dataclass(frozen=True)
class Part:
    """One part of a multipart upload."""

    name: str
    file: BinaryIO
    filename: str = ""
    media_type: str | None = None


def ingest_parts(home: Path, parts: Sequence[Part], *, name: str = "", limits: Limits | None = None, **wanted: Any) -> Ingested:
    """Take in a multipart upload: one part `file`, read as `ingest` would; or array files (.npy, IDX), each a column named as its part.

    The content kept of several parts is one .npz file of them.
    """
    if len(parts) == 1 and parts[0].name == "file":
        part = parts[0]
        with Incoming(home, limits) as incoming:
            for piece in pieces(part.file):
                incoming.write(piece)
            named = part.filename or name
            found = incoming.finish(name=named, media_type=part.media_type, **wanted)
            return Ingested({**found.record, "name": name or named or "dataset"}, found.folder)
    if not parts:
        raise DatasetError("empty", "the form has no files: send one part named file, or an array file for each column")
    if unused := [option for option, value in wanted.items() if value is not None]:
        raise DatasetError("unused_option", f"{unused[0]}= is for a single part named file; these parts are array files")
    limits = limits or Limits()
    with Draft(home) as draft, disk():
        budget = Budget(limits)
        check_names([part.name for part in parts])
        for part in parts:
            with io_of(part, draft, limits, budget) as stream:
                found = detect(stream, None, part.media_type, part.filename)
                if found not in ("npy", "idx"):
                    detail = f"part {part.name!r} is {found}: several parts are .npy or IDX files, each one column"
                    raise DatasetError("not_an_array", detail, column=part.name)
                array(draft, stream, part.name, budget, found)
        npz.pack(draft, draft.content)
        (draft.path / "part").unlink()
        with draft.content.open("rb") as file:
            address = hashlib.file_digest(file, "sha256").hexdigest()
        return keep(draft, address, name, describe(draft, "npz", draft.content.stat().st_size, "arrays", []))


def io_of(part: Part, draft: Draft, limits: Limits, budget: Budget) -> io.BufferedReader:
    """The unpacked bytes of a part, by way of a file in the draft."""
    size = 0
    with (draft.path / "part").open("wb") as file:
        for piece in pieces(part.file):
            size += len(piece)
            if size > limits.bytes:
                raise DatasetError("too_large", f"an upload has at most {limits.bytes:,} bytes", 413)
            file.write(piece)
    if not size:
        raise DatasetError("empty", f"part {part.name!r} has no bytes", column=part.name)
    return unpacked(draft.path / "part", budget)


def ingest_inline(home: Path, *, columns: Mapping[str, Any] | None = None, rows: Sequence[Any] | None = None, name: str = "",
                  types: str | Mapping[str, str] | None = None, limits: Limits | None = None) -> Ingested:
    """Take in JSON columns or rows that were parsed already. Problems have pointers `/columns/x/3` or `/rows/3/x`."""
    if (columns is None) == (rows is None):
        raise DatasetError("invalid_request", 'send {"columns": {name: [values]}} or {"rows": [{name: value}]}')
    limits, part, data = limits or Limits(), "rows" if columns is None else "columns", rows if columns is None else columns
    try:
        body = json.dumps({part: data}, allow_nan=False, separators=(",", ":")).encode()
    except ValueError as error:
        raise DatasetError("invalid_request", f"the {part} cannot be kept: {error}", pointer=f"/{part}") from None
    wanted = options(types=types)
    with Draft(home) as draft, disk():
        kind = put(draft, documents.table_of(data, part, wanted.types, limits))
        draft.content.write_bytes(body)
        address = hashlib.sha256(body).hexdigest() + ("-" + digest(wanted.said()) if wanted.said() else "")
        return keep(draft, address, name, describe(draft, "json", len(body), kind, []))


def open_table(home: Path, sha256: str) -> Table:
    """The columns of a data set, mapped read-only. DatasetError `dataset_missing` (404) when its folder is gone."""
    folder = folder_of(home, sha256)
    about = described(folder)
    weights.refuse(about)
    return table_of(folder, about)


def content(home: Path, sha256: str) -> Path:
    """The file with the bytes as they were uploaded."""
    path = folder_of(home, sha256) / "content"
    if not path.is_file():
        raise DatasetError("dataset_missing", "the content of this dataset is no longer there: upload it again", 404)
    return path


def folder_of(home: Path, sha256: str) -> Path:
    if not all(c in "0123456789abcdef-" for c in sha256) or len(sha256) < 64:
        raise DatasetError("dataset_missing", f"{sha256[:80]!r} is not the address of a dataset", 404)
    return Path(home) / "datasets" / sha256
