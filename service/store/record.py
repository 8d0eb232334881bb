"""What a trainer writes while it holds a job: events, curves, columns, a checkpoint; and the end. All of one call or nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, update

from service.jobs import Claim, Event, EventLike
from service.store.changes import Row, change, held, let_go
from service.store.checkpoints import keep_checkpoint, prune
from service.store.curves import Curve, append_curve
from service.store.database import Database
from service.store.models import publish_model
from service.store.tables import adjustments

COLUMNS = frozenset({"epoch", "epochs", "step", "progress", "eta_seconds", "elapsed_seconds", "metrics", "best", "evaluation", "message", "hint",
                     "warnings", "summary", "worker"})


@dataclass(frozen=True)
class Recorded:
    """The answer to a write: the job as it is now (its status says whether to stop), and files below home that no row names any more."""

    job: Row
    removed: list[str] = field(default_factory=list)

    @property
    def status(self) -> str:
        return self.job["status"]


class Record(Database):
    def record(self, claim: Claim, *, events: Iterable[EventLike] = (), curves: Mapping[str, Curve] | None = None, job: Mapping[str, Any] | None = None,
               checkpoint: Mapping[str, Any] | None = None, keep_last: int = 2, adjusted: Mapping[int, tuple[int, int]] | None = None) -> Recorded:
        """Write what happened in training.

        `events` with a key the job already has are dropped. `curves`: series -> (steps, values). `job`: columns out of COLUMNS. `checkpoint`: step, epoch,
        metrics, path, bytes, sha256, [best, kept]; beyond best, kept and the last `keep_last`, older ones go, and `removed` names their files.
        `adjusted`: number of a live change -> (epoch, step) where it took effect. StaleFence, and nothing written, when the claim is over.
        """
        with self.write("record") as connection:
            row, removed = self._note(connection, held(connection, claim), events, curves, job, checkpoint, keep_last, adjusted)
            return Recorded(row, removed)

    def finish(self, claim: Claim, status: str, *, reason: str, message: str, hint: str | None = None, error: Mapping[str, Any] | None = None,
               publish: str | None = None, events: Iterable[EventLike] = (), curves: Mapping[str, Curve] | None = None,
               job: Mapping[str, Any] | None = None, checkpoint: Mapping[str, Any] | None = None, keep_last: int = 2) -> Recorded:
        """End the job as succeeded or failed, with its last event, after what `record` would write; `publish` names its model in the same transaction."""
        with self.write("finish") as connection:
            row, removed = self._note(connection, held(connection, claim), events, curves, job, checkpoint, keep_last, None)
            if status == "succeeded":
                last = Event("job.succeeded", message, {"metrics": row["metrics"], "best": row["best"]})
            else:
                last = Event(f"job.{status}", message, {"error": dict(error or {})}, "error")
            row = let_go(connection, row, status, [last], status=status, status_reason=reason, message=message, hint=hint,
                         error=dict(error) if error else None, **({"progress": 1.0} if status == "succeeded" else {}))
            if publish is not None:
                publish_model(connection, publish, claim.job_id, "last")
            self.tell("events", claim.job_id)
            return Recorded(row, removed)

    def holds(self, claim: Claim) -> Row:
        """The job's row if the claim still holds it; else StaleFence. A cheap look for a worker between batches."""
        with self.read() as connection:
            return held(connection, claim)

    def _note(self, connection: Connection, row: Row, events: Iterable[EventLike], curves: Mapping[str, Curve] | None, columns: Mapping[str, Any] | None,
              checkpoint: Mapping[str, Any] | None, keep_last: int, adjusted: Mapping[int, tuple[int, int]] | None) -> tuple[Row, list[str]]:
        changes = dict(columns or {})
        if unknown := set(changes) - COLUMNS:
            raise ValueError(f"a trainer does not write {sorted(unknown)}")
        removed: list[str] = []
        if checkpoint is not None:
            new, replaced = keep_checkpoint(connection, row, checkpoint)
            removed = replaced + prune(connection, row["id"], keep_last)
            if new:
                changes["losses"] = 0
        for series, (steps, values) in (curves or {}).items():
            append_curve(connection, row["id"], series, steps, values)
        for number, (epoch, step) in (adjusted or {}).items():
            connection.execute(update(adjustments).where(adjustments.c.job_id == row["id"], adjustments.c.number == number, adjustments.c.step.is_(None))
                               .values(epoch=epoch, step=step))
        happened: Sequence[EventLike] = list(events)
        if happened:
            self.tell("events", row["id"])
        return change(connection, row, happened, **changes), removed


