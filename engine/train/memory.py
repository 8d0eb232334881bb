"""What a job will need, before anything is allocated."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.core import FLOATS, Node, count
from engine.plan.graphs import StepGraph
from engine.plan.plan import make


@dataclass(frozen=True)
class Estimate:
    """Numbers that are kept, and bytes of a run and of a checkpoint."""

    parameters: int
    memory_bytes: int
    checkpoint_bytes: int


def estimate(train: StepGraph, states: int, dtype: str) -> Estimate:
    """The slabs of parameters, gradients, best weights and `states` arrays of optimiser state, and the temporaries of a step as it is planned."""
    size = np.dtype(dtype).itemsize
    parameters, buffers = (sum(node.size for node in group.values()) for group in (train.parameters, train.buffers))
    trained = sum(train.parameters[path].size for path in train.gradients)
    kept = (2 * (parameters + buffers) + states * trained) * size
    return Estimate(parameters, kept + trained * size + temporaries(train), kept + 65_536)


def temporaries(graph: StepGraph) -> int:
    """Bytes of the batch and of everything a step computes."""
    outputs: list[Node] = [graph.loss, *graph.gradients.values(), *graph.sums.values(), *graph.assigned.values()]
    leaves: list[Node] = [*graph.parameters.values(), *graph.buffers.values(), *graph.batch.values(), *graph.counters.values()]
    places: dict[Node, int] = dict.fromkeys(leaves if graph.key is None else [*leaves, graph.key], 0)
    batch = sum(count(node.shape) * (8 if node.dtype not in FLOATS else np.dtype(node.dtype).itemsize) for node in graph.batch.values())
    return batch + make(outputs, places).nbytes
