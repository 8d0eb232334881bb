"""From a job to a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from engine.data.table import Table
from engine.errors import CheckpointError
from engine.train.job import Job
from engine.train.ready.assemble import assemble
from engine.train.ready.planned import Recent, plan
from engine.train.run.adopt import Carried, adopt
from engine.train.run.live import Adjustment
from engine.train.run.loop import Run


def start(job: Job, tables: Mapping[str, Table], *, threads: int = 1, checkpoint: bytes | None = None, elapsed_seconds: float = 0.0,
          recent: Recent | None = None, adjustments: Sequence[Adjustment] = (), initial: Mapping[str, np.ndarray] = {},
          carried: Carried | None = None) -> Run:
    """A run of the job, from the beginning or from a checkpoint. `elapsed_seconds` is what earlier attempts took, `recent` what was planned before,
    `adjustments` are all live changes that took effect in earlier attempts, in order; those that the checkpoint has seen are not made again.
    `initial` are parameters and buffers, by path, to begin with. `carried`: the checkpoint is another job's, of which this is what stays good.

    Raises SpecError as `check` does, CheckpointError where the checkpoint belongs to another job.
    """
    planned = recent.planned(job, tables) if recent else plan(job, tables)
    built = planned.built
    if initial and checkpoint is None:
        built = replace(built, parameters=_begun(built.parameters, initial), buffers=_begun(built.buffers, initial))
    run = Run(built, assemble(built, planned.program, threads), elapsed_seconds=elapsed_seconds, checkpoint=None if carried else checkpoint,
              adjustments=adjustments)
    if carried and checkpoint is not None:
        adopt(run, checkpoint, carried)
    return run


def _begun(arrays: Mapping[str, np.ndarray], initial: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Initial values, some of which are given. CheckpointError where one has another shape."""
    if wrong := [path for path in arrays if path in initial and initial[path].shape != arrays[path].shape]:
        raise CheckpointError(f"the initial {wrong[0]} has shape {list(initial[wrong[0]].shape)}, expected {list(arrays[wrong[0]].shape)}")
    return {path: initial[path].astype(array.dtype) if path in initial else array for path, array in arrays.items()}
