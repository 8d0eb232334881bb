"""How much arithmetic a step is, and how fast the machine multiplies matrices: together the limit that no implementation passes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from math import prod

from engine.core import Node
from engine.data.table import Table
from engine.graph.walk import order
from engine.train import Job
from engine.train.ready.planned import plan


def _product(node: Node) -> int:
    return node.size * node.inputs[0].shape[-2 if node.attrs["transpose_a"] else -1]


def _recurrence(node: Node) -> int:
    """The product of each step's state and the recurrent weights; on the way back, that of its cotangent."""
    weight = next(x for x in node.inputs if x.ndim == 2)
    steps = next(x for x in node.inputs if x.ndim == 3)
    return prod(steps.shape[:2]) * weight.size


def _attention(products: int) -> Callable[[Node], int]:
    def count(node: Node) -> int:
        query, key = node.inputs[:2] if node.op.name == "attention" else node.inputs[1:3]
        seen = 2 if node.attrs["causal"] else 1
        return products * query.size * key.shape[1] // seen

    return count


MULTIPLY_ADDS: dict[str, Callable[[Node], int]] = {
    "matmul": _product, "affine": _product, "gated_product": _product,
    "conv": lambda node: node.size * prod(node.inputs[1].shape[:-1]),
    "conv_input_grad": lambda node: node.inputs[0].size * prod(node.inputs[1].shape[:-1]),
    "conv_weight_grad": lambda node: node.inputs[1].size * prod(node.shape[:-1]),
    "gru": _recurrence, "gru_grad": _recurrence, "attention": _attention(2), "attention_grad": _attention(4),
}


def multiply_adds(job: Job, table: Table) -> int:
    """Of the products of one training step, from its graph; everything else is left out."""
    built = plan(job, {"bench": table}).built
    graph = built.make_graph(built.batch_size, True).simplified()
    return sum(MULTIPLY_ADDS[node.op.name](node) for node in order(graph.results()) if node.op.name in MULTIPLY_ADDS)


def sgemm_rate() -> float:
    """Multiply-adds per nanosecond of numpy's product of two 512 x 512 matrices on one thread: the best of 200."""
    code = ("import numpy as np, time; a = np.ones((512, 512), np.float32); best = 1e9\n"
            "for _ in range(200):\n    t = time.perf_counter_ns(); a @ a; best = min(best, time.perf_counter_ns() - t)\nprint(512**3 / best)")
    single = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return float(subprocess.run([sys.executable, "-c", code], env={**os.environ, **single}, capture_output=True, text=True, check=True).stdout)
