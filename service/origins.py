"""Files that a job begins with: another job's checkpoint, or a user's parameters. The job holds a link of its own, so what it came from may go.

    <home>/trash/<any>                              a link while the job is checked; `artifacts.sweep` removes one that was left
    <home>/jobs/<job_id>/initial.safetensors        parameters to start from
    <home>/jobs/<job_id>/checkpoints/…              the first checkpoint of a fork
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

from service import artifacts
from service.artifacts import Corrupt
from service.errors import crash_point

TURNS = 20      # times that a newer checkpoint may take the place of the one that was asked for


class Held:
    """A file that stays while it is held. `settle` gives it a place among a job's files; without that it goes when nobody knows this any more."""

    def __init__(self, home: Path, source: Path):
        self.home, self.path = home, home / "trash" / f"{uuid4().hex}.held"
        self.placed: Path | None = None
        self.path.parent.mkdir(exist_ok=True)
        try:
            os.link(source, self.path)
        except FileNotFoundError:
            raise
        except OSError:                     # a file system without links
            artifacts.write(self.path, source.read_bytes())
        with self.path.open("rb") as file:
            self.sha256, self.bytes = hashlib.file_digest(file, "sha256").hexdigest(), self.path.stat().st_size

    def settle(self, place: Path) -> dict[str, Any]:
        """Move it to its place below home, durably; returns its path, bytes and sha256. Its row follows."""
        final = self.home / place
        final.parent.mkdir(parents=True, exist_ok=True)
        crash_point("origin.before_rename")
        os.replace(self.path, final)
        self.placed = final
        crash_point("origin.after_rename")
        for folder in (final.parent, *final.parent.parents):
            artifacts.sync_folder(folder)
            if folder == self.home:
                break
        return {"path": str(place), "bytes": self.bytes, "sha256": self.sha256}

    def undo(self) -> None:
        """What was settled did not become a job: its folder goes."""
        if self.placed is not None:
            artifacts.remove(self.home, ["/".join(self.placed.relative_to(self.home).parts[:2])])
            self.placed = None

    def __del__(self) -> None:
        self.path.unlink(missing_ok=True)


def hold(home: Path, find: Callable[[], Mapping[str, Any]]) -> tuple[Held, Mapping[str, Any]]:
    """Hold the file of a checkpoint's row, which `find` looks up again whenever the file has just been replaced. Corrupt where it is damaged."""
    for _ in range(TURNS):
        row = find()
        try:
            held = Held(home, home / row["path"])
        except FileNotFoundError:
            continue
        if (held.bytes, held.sha256) != (row["bytes"], row["sha256"]):
            raise Corrupt([row["step"]])
        return held, row
    raise Corrupt([row["step"]])
