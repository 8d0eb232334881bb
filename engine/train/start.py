"""From a job to a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from engine.data.table import Table
from engine.train.job import Job
from engine.train.ready.assemble import assemble
from engine.train.ready.planned import Recent, plan
from engine.train.run.live import Adjustment
from engine.train.run.loop import Run


def start(job: Job, tables: Mapping[str, Table], *, threads: int = 1, checkpoint: bytes | None = None, elapsed_seconds: float = 0.0,
          recent: Recent | None = None, adjustments: Sequence[Adjustment] = ()) -> Run:
    """A run of the job, from the beginning or from a checkpoint. `elapsed_seconds` is what earlier attempts took, `recent` what was planned before,
    `adjustments` are all live changes that took effect in earlier attempts, in order; those that the checkpoint has seen are not made again.

    Raises SpecError as `check` does, CheckpointError where the checkpoint belongs to another job.
    """
    planned = recent.planned(job, tables) if recent else plan(job, tables)
    return Run(planned.built, assemble(planned.built, planned.program, threads), elapsed_seconds=elapsed_seconds, checkpoint=checkpoint,
               adjustments=adjustments)
