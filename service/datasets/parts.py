"""A part of an upload on its way to the disk: out of sight until it is whole and durable."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any
from uuid import uuid4

from service import unfinished
from service.datasets.draft import sync
from service.datasets.ingest import Incoming, disk
from service.datasets.limits import DatasetError
from service.datasets.streams import PIECE
from service.errors import crash_point, not_found, too_large


class IncomingPart:
    """`write` pieces as they come, then `finish`. Leaving the `with` block early leaves nothing behind."""

    def __init__(self, folder: Path, number: int, most: int):
        self.folder, self.number, self.most = folder, number, most
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{unfinished.prefix()}{uuid4().hex}"
        self.file, self.hash, self.bytes = self.path.open("wb"), hashlib.sha256(), 0

    def __enter__(self) -> IncomingPart:
        return self

    def __exit__(self, *error: Any) -> None:
        self.file.close()
        self.path.unlink(missing_ok=True)

    def write(self, piece: bytes) -> None:
        self.bytes += len(piece)
        if self.bytes > self.most:
            raise too_large(f"the parts together have more than the {self.most:,} bytes that are left")
        with disk():
            self.file.write(piece)
        self.hash.update(piece)

    def finish(self, said: str | None) -> dict[str, Any]:
        """Make the file durable, if it is what was `said` (a SHA-256). Returns what the part's row says of it."""
        found = self.hash.hexdigest()
        if not self.bytes:
            raise DatasetError("empty", f"part {self.number} has no bytes")
        if said is not None and said.lower() != found:
            raise DatasetError("checksum_mismatch", f"part {self.number} came with SHA-256 {found}, not {said.lower()}: send it again")
        name = f"{self.number}-{found[:16]}"
        with disk():
            self.file.flush()
            os.fsync(self.file.fileno())
            crash_point("part.before_rename")
            try:
                self.path.rename(self.folder / name)
                sync(self.folder)
            except FileNotFoundError:
                raise not_found("upload", self.folder.name) from None
        crash_point("part.after_rename")
        return {"number": self.number, "bytes": self.bytes, "sha256": found, "file": name}


def join(incoming: Incoming, folder: Path, parts: list[dict[str, Any]]) -> None:
    """Write parts one after the other into an upload."""
    for part in parts:
        left = part["bytes"]
        try:
            with (folder / part["file"]).open("rb") as file:
                while piece := file.read(PIECE):
                    incoming.write(piece)
                    left -= len(piece)
        except FileNotFoundError:
            pass
        if left:
            raise DatasetError("part_missing", f"part {part['number']} is damaged or gone: send it again", 409)
