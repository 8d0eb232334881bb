"""Data that comes in parts: what was said of it, and which parts are there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from service import jobs as states
from service.errors import conflict, not_found, too_large
from service.store.asking import made, mine, sees
from service.store.changes import Row
from service.store.database import Database
from service.store.tables import upload_parts, uploads

_PARTS = (upload_parts.c.number, upload_parts.c.bytes, upload_parts.c.sha256, upload_parts.c.file, upload_parts.c.created_at)


class Uploads(Database):
    def add_upload(self, upload: Mapping[str, Any], seconds: float) -> Row:
        """Begin one: name, media_type, options, [bytes]. It is given up when nothing comes for so many seconds."""
        row = {"id": states.new_id("upload"), "bytes": None, **upload, "status": "pending", "dataset_id": None, "created_at": states.now(),
               "expires_at": states.seconds_now() + seconds}
        made(row["id"])
        with self.write("add_upload") as connection:
            connection.execute(insert(uploads), row)
        return {**row, "parts": []}

    def get_upload(self, upload_id: str) -> Row:
        """One upload with its `parts` by number; 404 when there is none."""
        with self.read() as connection:
            return _find(connection, upload_id)

    def list_uploads(self, *, after: str | None = None, limit: int = 20) -> tuple[list[Row], bool]:
        """Uploads with their parts, newest first, older than `after`; and whether there are more."""
        query = select(uploads.c.id).where(mine(uploads)).order_by(uploads.c.id.desc()).limit(limit + 1)
        with self.read() as connection:
            found = list(connection.execute(query if after is None else query.where(uploads.c.id < after)).scalars())
            return [_find(connection, upload_id) for upload_id in found[:limit]], len(found) > limit

    def pending_uploads(self, whose: str | None = None) -> int:
        """How many are on their way: all, or those of one owner."""
        query = select(func.count()).select_from(uploads).where(uploads.c.status == "pending")
        with self.read() as connection:
            return connection.execute(query if whose is None else query.where(uploads.c.owner == whose)).scalar_one()

    def put_part(self, upload_id: str, part: Mapping[str, Any], most: int, seconds: float) -> str | None:
        """Note a part (number, bytes, sha256, file) whose file is there; a second one of its number takes its place, whose file is returned.

        413 when the parts together have more than `most` bytes, or than was said at the beginning; 409 when the upload is complete.
        """
        with self.write("put_part") as connection:
            row = pending(_find(connection, upload_id))
            others = [one for one in row["parts"] if one["number"] != part["number"]]
            old = next((one["file"] for one in row["parts"] if one["number"] == part["number"]), None)
            total, said = part["bytes"] + sum(one["bytes"] for one in others), row["bytes"]
            if total > (most if said is None else said):
                what = f"an upload has at most {most:,}" if said is None else f"this upload was to have {said:,}"
                raise too_large(f"the parts together have {total:,} bytes; {what}")
            connection.execute(delete(upload_parts).where(upload_parts.c.upload_id == upload_id, upload_parts.c.number == part["number"]))
            connection.execute(insert(upload_parts), {"upload_id": upload_id, "created_at": states.now(), **part})
            connection.execute(update(uploads).where(uploads.c.id == upload_id).values(expires_at=states.seconds_now() + seconds))
            return old if old != part["file"] else None

    def touch_upload(self, upload_id: str, seconds: float) -> None:
        """There was news of it."""
        with self.write("touch_upload") as connection:
            connection.execute(update(uploads).where(uploads.c.id == upload_id).values(expires_at=states.seconds_now() + seconds))

    def end_upload(self, upload_id: str, dataset_id: str) -> None:
        """It became a dataset; its parts are not needed any more (`artifacts.remove_parts`)."""
        with self.write("end_upload") as connection:
            pending(_find(connection, upload_id))
            connection.execute(delete(upload_parts).where(upload_parts.c.upload_id == upload_id))
            connection.execute(update(uploads).where(uploads.c.id == upload_id).values(status="completed", dataset_id=dataset_id))

    def delete_upload(self, upload_id: str) -> None:
        """Remove its rows (`artifacts.delete_upload` does it all). 404 when there is none."""
        with self.write("delete_upload") as connection:
            _find(connection, upload_id)
            connection.execute(delete(upload_parts).where(upload_parts.c.upload_id == upload_id))
            connection.execute(delete(uploads).where(uploads.c.id == upload_id))

    def expired_uploads(self) -> list[str]:
        """Those that nothing came for in too long, and complete ones that nobody asks for any more."""
        with self.read() as connection:
            return list(connection.execute(select(uploads.c.id).where(uploads.c.expires_at < states.seconds_now())).scalars())

    def part_files(self) -> set[str]:
        """The files of all parts, as UPLOAD/FILE."""
        with self.read() as connection:
            return {f"{upload_id}/{file}" for upload_id, file in connection.execute(select(upload_parts.c.upload_id, upload_parts.c.file))}


def _find(connection: Connection, upload_id: str) -> Row:
    row = connection.execute(select(uploads).where(uploads.c.id == upload_id)).mappings().first()
    if row is None or not sees(row):
        raise not_found("upload", upload_id)
    parts = connection.execute(select(*_PARTS).where(upload_parts.c.upload_id == upload_id).order_by(upload_parts.c.number)).mappings()
    return {**row, "parts": [dict(part) for part in parts]}


def pending(row: Row) -> Row:
    """The upload, which is not complete yet; else 409."""
    if row["status"] != "pending":
        raise conflict(f"this upload is complete: it became {row['dataset_id']}", dataset_id=row["dataset_id"])
    return row
