"""Jobs made ready to run: checked, built, their step planned. A run changes nothing of that, so whoever runs a job many times plans it once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from engine.data.table import Table
from engine.devices import choose
from engine.plan.program import Program
from engine.plan.update import Update
from engine.train.job import LABELS, Job
from engine.train.ready.build import Built, build

PASS_BATCH = 256        # passes in test mode take batches of this size at least: fewer calls for the same work
MOST_BYTES = 2**20      # of one job's parameters and rows: to plan a larger one takes no time beside its training


@dataclass(frozen=True)
class Planned:
    """A job and its program. `tables` are those it was planned for: their addresses are in the plans."""

    tables: Mapping[str, Table]
    built: Built
    program: Program

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in (*self.program.outside, *self.built.parameters.values(), *self.built.buffers.values()))

    def renewed(self, job: Job) -> Planned:
        """The same for another run, of this job or of one that differs in labels; what callbacks remember of the last run is gone."""
        return replace(self, built=replace(self.built, job=job))


class Recent:
    """The small jobs planned last, by everything that a plan depends on: the whole spec but its labels, and the very tables."""

    def __init__(self, most: int = 16):
        self.most = most
        self._kept: OrderedDict[tuple[str, ...], Planned] = OrderedDict()

    def planned(self, job: Job, tables: Mapping[str, Table]) -> Planned:
        """`plan(job, tables)`, from memory where it can be. Raises SpecError as `check` does."""
        key = (job.model_dump_json(exclude=set(LABELS)), *(f"{name}:{id(table)}" for name, table in tables.items()))
        found = self._kept.pop(key, None) or plan(job, tables)
        if found.nbytes <= MOST_BYTES:
            self._kept[key] = found
        if len(self._kept) > self.most:
            self._kept.popitem(last=False)
        return found.renewed(job)


def plan(job: Job, tables: Mapping[str, Table]) -> Planned:
    """The job ready to run. Raises SpecError as `check` does."""
    built = build(job, tables)
    return Planned(dict(tables), built, program_of(built))


def program_of(built: Built) -> Program:
    """The plans of the job: training, and a pass over each other part of its rows."""
    job, data = built.job, built.job.data
    shapes = {path: array.shape for path, array in built.parameters.items()}
    program = Program(shapes, {path: array.shape for path, array in built.buffers.items()}, job.dtype, choose(job.device),
                      job.precision)
    program.train_with(Update(built.steps, shapes, built.trained, built.missed))
    steps = built.steps_per_epoch if data.steps_per_epoch is not None or built.mode == "with_replacement" else None
    passes = -(-steps * built.batch_size // len(built.index)) if steps else 0       # each with an order of its own
    program.add_phase("train", built.make_graph, built.parts["train"].feeds, rows=len(built.index), batch=built.batch_size, index=_index(built.index),
                      training=True, mode=built.mode, steps=steps, drop_last=data.drop_last, repeats=max(data.repeat, passes),
                      changes=built.setup.prepared.changes)
    tests = {name: part for name, part in built.parts.items() if name != "train"}
    if job.evaluate_train:
        tests["full_train"] = built.parts["train"]
    for name, part in tests.items():
        batch = min(len(part.rows), built.batch_size if data.windows else max(built.batch_size, PASS_BATCH))
        program.add_phase(name, built.make_graph, part.feeds, rows=len(part.rows), batch=batch, index=_index(part.rows))
    program.finish()
    return program


def _index(rows: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(rows, np.int64)
