"""From a job to a run: the program of its step, its phases, and a session that holds the initial values."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from engine.data.table import Table
from engine.devices.cpu.session import Session
from engine.plan.program import Program
from engine.plan.update import Update
from engine.train.build import Built, build
from engine.train.job import Job
from engine.train.run import Run

PASS_BATCH = 256   # passes in test mode take batches of this size at least: fewer calls for the same work


def start(job: Job, tables: Mapping[str, Table], *, threads: int = 1, checkpoint: bytes | None = None, elapsed_seconds: float = 0.0) -> Run:
    """A run of the job, from the beginning or from a checkpoint. `elapsed_seconds` is what earlier attempts took.

    Raises SpecError as `check` does, CheckpointError where the checkpoint belongs to another job.
    """
    built = build(job, tables)
    return Run(built, assemble(built, threads), elapsed_seconds=elapsed_seconds, checkpoint=checkpoint)


def assemble(built: Built, threads: int) -> Session:
    """A session that is ready for the first step of the job."""
    program = program_of(built)
    session = Session(program, seed=built.job.seed, threads=threads)
    for targets, values in ((session.parameters, built.parameters), (session.buffers, built.buffers)):
        for path, array in targets.items():
            array[...] = values[path]
    assert program.update is not None
    for name, values in program.update.initial_state().items():
        program.state[name].view(session.arena)[:] = values
    session.look()
    return session


def program_of(built: Built) -> Program:
    """The plans of the job: training, and a pass over each other part of its rows."""
    job, data = built.job, built.job.data
    shapes = {path: array.shape for path, array in built.parameters.items()}
    program = Program(shapes, {path: array.shape for path, array in built.buffers.items()}, job.dtype)
    program.train_with(Update(built.steps, shapes, built.trained))
    steps = built.steps_per_epoch if data.steps_per_epoch is not None or built.mode == "with_replacement" else None
    program.add_phase("train", built.make_graph, built.parts["train"].feeds, rows=len(built.index), batch=built.batch_size, index=_index(built.index),
                      training=True, mode=built.mode, steps=steps, drop_last=data.drop_last, repeats=data.repeat)
    tests = {name: part for name, part in built.parts.items() if name != "train"}
    if job.evaluate_train:
        tests["full_train"] = built.parts["train"]
    for name, part in tests.items():
        batch = min(len(part.rows), max(built.batch_size, PASS_BATCH))
        program.add_phase(name, built.make_graph, part.feeds, rows=len(part.rows), batch=batch, index=_index(part.rows))
    program.finish()
    return program


def _index(rows: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(rows, np.int64)
