"""From a job to a run: a session that holds the initial values of its program."""

from __future__ import annotations

from collections.abc import Mapping

from engine.data.table import Table
from engine.devices.cpu.session import Session
from engine.train.job import Job
from engine.train.planned import Planned, Recent, plan
from engine.train.run import Run


def start(job: Job, tables: Mapping[str, Table], *, threads: int = 1, checkpoint: bytes | None = None, elapsed_seconds: float = 0.0,
          recent: Recent | None = None) -> Run:
    """A run of the job, from the beginning or from a checkpoint. `elapsed_seconds` is what earlier attempts took, `recent` what was planned before.

    Raises SpecError as `check` does, CheckpointError where the checkpoint belongs to another job.
    """
    planned = recent.planned(job, tables) if recent else plan(job, tables)
    return Run(planned.built, assemble(planned, threads), elapsed_seconds=elapsed_seconds, checkpoint=checkpoint)


def assemble(planned: Planned, threads: int) -> Session:
    """A session that is ready for the first step of the job."""
    built, program = planned.built, planned.program
    session = Session(program, seed=built.job.seed, threads=threads)
    for targets, values in ((session.parameters, built.parameters), (session.buffers, built.buffers)):
        for path, array in targets.items():
            array[...] = values[path]
    assert program.update is not None
    for name, values in program.update.initial_state(built.parameters).items():
        program.state[name].view(session.arena)[:] = values
    session.look()
    return session
