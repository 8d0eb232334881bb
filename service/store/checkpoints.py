"""Checkpoints: the rows beside the files. A row is written after its file is durable and removed before its file is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Text, bindparam, cast, delete, exists, func, insert, select, update

from service import jobs as states
from service.errors import ServiceError
from service.store.changes import Row
from service.store.database import Database
from service.store.tables import checkpoints, models

_MINE = checkpoints.c.job_id == bindparam("this_job")
_ALL = select(checkpoints).where(_MINE).order_by(checkpoints.c.step.desc())
_NEWEST = select(func.max(checkpoints.c.step)).where(_MINE)
_REPLACE = delete(checkpoints).where(_MINE, checkpoints.c.step == bindparam("this_step")).returning(
    checkpoints.c.path, checkpoints.c.best, checkpoints.c.kept)
_NOT_LAST = update(checkpoints).where(_MINE, checkpoints.c.last).values(last=False)
_NOT_BEST = update(checkpoints).where(_MINE, checkpoints.c.best).values(best=False)
_KEEP = update(checkpoints).where(_MINE).values(kept=checkpoints.c.step.in_(bindparam("kept_steps", expanding=True)))
_INSERT = insert(checkpoints)
_OTHER = checkpoints.alias()
_KEPT = select(_OTHER.c.step).where(_OTHER.c.job_id == bindparam("this_job")).order_by(_OTHER.c.step.desc()).limit(2)
_BY_NAME = exists().where(models.c.job_id == _OTHER.c.job_id, models.c.checkpoint == cast(_OTHER.c.epoch, Text))
_NAMED = select(func.min(_OTHER.c.step)).where(_OTHER.c.job_id == bindparam("this_job"), _BY_NAME).group_by(_OTHER.c.epoch)
_SPARE = delete(checkpoints).where(_MINE, ~checkpoints.c.best, ~checkpoints.c.last, ~checkpoints.c.kept, checkpoints.c.step.not_in(_KEPT),
                                   checkpoints.c.step.not_in(_NAMED)).returning(checkpoints.c.path)


class Checkpoints(Database):
    def checkpoints(self, job_id: str) -> list[Row]:
        """All checkpoints of a job, newest first: step, epoch, metrics, path (below home), bytes, sha256, best, last, kept, created_at."""
        with self.read() as connection:
            return [dict(row) for row in connection.execute(_ALL, {"this_job": job_id}).mappings()]

    def checkpoint(self, job_id: str, which: str = "last") -> Row:
        """The checkpoint called "last", "best" or by its epoch; 409 `no_checkpoint` when the job has none such (yet)."""
        rows = self.checkpoints(job_id)
        for row in rows:
            if row.get(which) is True:
                return row
        if which.isdigit() and (found := [row for row in rows if row["epoch"] == int(which)]):
            return found[-1]        # the later ones are of the epoch after it
        if which == "best" and rows:
            return rows[0]
        epochs = sorted({str(row["epoch"]) for row in rows}, key=int)
        known = f"; there are last, best and epochs {', '.join(epochs)}" if epochs else " yet"
        raise ServiceError(409, "no_checkpoint", f"the job has no checkpoint {which!r}{known}")

    def checkpoint_paths(self) -> set[str]:
        """The files, below home, that some row names."""
        with self.read() as connection:
            return set(connection.execute(select(checkpoints.c.path)).scalars())


def keep_checkpoint(connection: Connection, job: Row, checkpoint: Mapping[str, Any]) -> tuple[bool, list[str]]:
    """Write the row of a checkpoint, now the last one. Returns whether it is further than every earlier one, and the file it replaced, if any.

    A replayed step takes the place of its first row: after a fall back from a damaged file the new one is the good one.
    """
    mine = {"this_job": job["id"]}
    newest = connection.execute(_NEWEST, mine).scalar()
    old = connection.execute(_REPLACE, {**mine, "this_step": checkpoint["step"]}).first()
    row = {"best": False, "kept": False, **checkpoint, "last": True, "job_id": job["id"], "fence": job["fence"], "created_at": states.now()}
    if old is not None:
        row.update(best=row["best"] or old.best, kept=row["kept"] or old.kept)
    connection.execute(_NOT_LAST, mine)
    if row["best"]:
        connection.execute(_NOT_BEST, mine)
    connection.execute(_INSERT, row)
    return newest is None or checkpoint["step"] > newest, [old.path] if old is not None and old.path != row["path"] else []


def prune(connection: Connection, job_id: str, kept: Sequence[int] | None = None) -> list[str]:
    """Forget the checkpoints that are neither best, last, kept, named by a model, nor among the newest two; returns their files.

    `kept` are the steps of all that are to be kept from now on; None leaves that as it is.
    """
    if kept is not None:
        connection.execute(_KEEP, {"this_job": job_id, "kept_steps": list(kept)})
    return list(connection.execute(_SPARE, {"this_job": job_id}).scalars())
