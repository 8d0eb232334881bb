"""Parts of files: what `Range` asks for (RFC 9110), and a file on the disk of which a part is sent."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

from fastapi import Header
from starlette.responses import FileResponse
from starlette.types import Receive, Scope, Send

from service.errors import ServiceError

RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
Range = Annotated[str | None, Header(alias="Range", description="bytes=FIRST-LAST: a part of the file")]
IfRange = Annotated[str | None, Header(alias="If-Range", description="an `ETag`: the part if the file is still that one, else all of it")]
PARTIAL = {206: {"description": "The part of the file that `Range` names"}}


def span(part: str | None, size: int) -> tuple[int, int] | None:
    """Where the part of a file of `size` bytes begins and ends; None for all of it. A range that is none is not looked at; 416 for one beyond."""
    found = RANGE.fullmatch(part.strip()) if part else None
    if found is None or not any(found.groups()):
        return None
    first, last = found.groups()
    if first and last and int(last) < int(first):
        return None
    begin = int(first) if first else max(0, size - int(last))
    if begin >= size or (not first and int(last) == 0):
        raise ServiceError(416, "range_not_satisfiable", f"the file has {size:,} bytes", headers={"Content-Range": f"bytes */{size}"})
    return begin, min(int(last) + 1, size) if first and last else size


class Stored(FileResponse):
    """A file on the disk, or the part of it that `span` found. Starlette is told that part: of itself it refuses in plain text what is no range."""

    def __init__(self, path: Path, found: tuple[int, int] | None, **more: Any):
        super().__init__(path, **more)
        self.found = found

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(name, value) for name, value in scope["headers"] if name not in (b"range", b"if-range")]
        if self.found is not None:
            headers.append((b"range", b"bytes=%d-%d" % (self.found[0], self.found[1] - 1)))
        await super().__call__({**scope, "headers": headers}, receive, send)
