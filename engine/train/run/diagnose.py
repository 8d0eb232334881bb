"""Where a NaN was born: the step's graph is run again, node by node, on the reference machine."""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.core import Node, topological
from engine.devices.session import Session
from engine.graph import interpret
from engine.plan import control
from engine.train.ready.build import Built


def born(built: Built, session: Session) -> str | None:
    """The layer whose output was the first that is not finite, in words; None where only a gradient is, or nothing in float64.

    The batch that failed is still in the arena, and the parameters are as they were before the step.
    """
    phase = session.program.phases["train"]
    position = int(session.whole[control.POSITION // 8])
    last = position >= phase.full_steps
    rows = phase.rows * phase.source.repeats - phase.full_steps * phase.batch if last else phase.batch
    graph = built.make_graph(rows, True)
    batch = session.batch(phase, last)
    values: dict[Node, Any] = {graph.batch[name]: batch[name] for name in graph.batch}
    values |= {node: session.parameters[path] for path, node in graph.parameters.items()}
    values |= {node: session.buffers[path] for path, node in graph.buffers.items()}
    if graph.key is not None:
        values[graph.key] = session.whole[:2].copy()
    counted = {"epoch": control.EPOCH // 8, "step": control.STEP // 8}
    values |= {node: np.asarray(session.whole[counted[name]] + 1.0) for name, node in graph.counters.items()}
    named = [node for node in topological([graph.loss]) if node.name and node not in values]
    for node, value in zip(named, interpret.run(named, values), strict=True):
        if not (np.abs(value) <= np.finfo(built.job.dtype).max).all():
            return f"output of {node.name}"
    return None
