"""What a job will need, before anything is allocated: bytes and seconds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.core import FLOATS, Node, count
from engine.plan.graphs import StepGraph
from engine.plan.plan import make


@dataclass(frozen=True)
class Estimate:
    """Numbers that are kept, bytes of a run and of a checkpoint, and the time of a step on one core."""

    parameters: int
    memory_bytes: int
    checkpoint_bytes: int
    step_seconds: float


def estimate(train: StepGraph, states: int, rows: int, dtype: str, bests: int = 1, rolls: bool = False) -> Estimate:
    """The slabs of parameters, gradients, `bests` copies of the best weights and `states` arrays of optimiser state, what metrics keep of `rows`
    rows, and the temporaries of a step as it is planned. A run that `rolls` back keeps a checkpoint of the epoch's beginning, in memory and in other
    checkpoints.
    """
    size = np.dtype(dtype).itemsize
    parameters, buffers = (sum(node.size for node in group.values()) for group in (train.parameters, train.buffers))
    trained = sum(train.parameters[path].size for path in train.gradients)
    of_rows = sum(node.size for node in train.kept_rows.values()) * rows // train.rows
    kept = ((1 + bests) * (parameters + buffers) + states * trained + of_rows) * size
    back = kept + 65_536 if rolls else 0
    nbytes, nanoseconds = temporaries(train)
    moved = sum(node.size for node in train.batch.values()) + (states + 3) * trained
    return Estimate(parameters, kept + back + trained * size + nbytes, kept + back + 65_536, (nanoseconds + moved * NANOSECONDS_MOVED) * 1e-9)


NANOSECONDS_MOVED = 0.3    # per number of the batch, and per array of an update


def temporaries(graph: StepGraph) -> tuple[int, float]:
    """Bytes of the batch and of everything a step computes, and nanoseconds for it."""
    outputs: list[Node] = [graph.loss, *graph.gradients.values(), *graph.sums.values(), *graph.assigned.values()]
    leaves: list[Node] = [*graph.parameters.values(), *graph.buffers.values(), *graph.batch.values(), *graph.counters.values()]
    places: dict[Node, int] = dict.fromkeys(leaves if graph.key is None else [*leaves, graph.key], 0)
    batch = sum(count(node.shape) * (8 if node.dtype not in FLOATS else np.dtype(node.dtype).itemsize) for node in graph.batch.values())
    plan = make(outputs, places)
    return batch + plan.nbytes, plan.nanoseconds
