"""What a trainer tells the store in one write: events, curves, columns, a checkpoint, live changes taken up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

from sqlalchemy import Connection, update

from service.jobs import EventLike
from service.store.changes import Row, change
from service.store.checkpoints import keep_checkpoint, prune
from service.store.tables import adjustments

if TYPE_CHECKING:  # who has curves to write imports numpy; the supervisor has none
    from service.store.curves import Curve

COLUMNS = frozenset({"epoch", "epochs", "step", "progress", "eta_seconds", "elapsed_seconds", "metrics", "best", "evaluation", "message", "hint",
                     "warnings", "summary", "worker"})


class Note(TypedDict, total=False):
    """All parts may be left out."""

    events: Iterable[EventLike]                     # those with a key the job already has are dropped
    curves: Mapping[str, Curve]                     # by series
    job: Mapping[str, Any]                          # columns of the job, out of COLUMNS
    checkpoint: Mapping[str, Any]                   # step, epoch, metrics, path, bytes, sha256, [best, kept]; its file is durable already
    kept: Sequence[int]                             # with a checkpoint: the steps of those that are to be kept from now on, no others
    adjusted: Mapping[int, tuple[int, int]]         # number of a live change -> (epoch, step) where it took effect


def write_note(connection: Connection, row: Row, note: Note) -> tuple[Row, list[str]]:
    """Write a note on a job held in this transaction. Returns the row as it is now and the files below home that no row names any more."""
    columns, removed = dict(note.get("job", {})), []
    if unknown := set(columns) - COLUMNS:
        raise ValueError(f"a trainer does not write {sorted(unknown)}")
    if checkpoint := note.get("checkpoint"):
        further, removed = keep_checkpoint(connection, row, checkpoint)
        removed += prune(connection, row["id"], note.get("kept"))
        if further:
            columns["losses"] = 0
    for series, curve in note.get("curves", {}).items():
        curve.append(connection, row["id"], series)
    for number, (epoch, step) in note.get("adjusted", {}).items():
        mine = (adjustments.c.job_id == row["id"], adjustments.c.number == number, adjustments.c.step.is_(None))
        connection.execute(update(adjustments).where(*mine).values(epoch=epoch, step=step))
    return change(connection, row, note.get("events", ()), columns), removed
