"""The workload as a job of ours, through the same calls as the worker's."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from engine.data.table import Table
from engine.train import Job, start


def document(data: dict[str, np.ndarray], sizes: tuple[int, ...], batch: int, epochs: int) -> dict:
    """The job: the same weights, batches in order, the same optimiser."""
    layers = []
    for i, units in enumerate(sizes[1:]):
        init = {name: {"kind": "values", "values": data[f"{key}{i}"].tolist()} for name, key in (("weight", "w"), ("bias", "b"))}
        layers.append({"kind": "dense", "units": units, "init": init, "activation": "relu" if i < len(sizes) - 2 else "identity"})
    return {"model": {"kind": "chain", "layers": layers}, "loss": "logit_cross_entropy", "optimiser": {"kind": "adam", "learning_rate": 0.001},
            "data": {"dataset": "bench", "target": "y", "batch_size": batch, "sampling": "sequential"}, "epochs": epochs, "metrics": []}


def prepare(data: dict[str, np.ndarray], sizes: tuple[int, ...], batch: int, threads: int, mode: str) -> Callable[[int], float]:
    """A function that trains so many more steps and returns the mean loss of the last 20 (of batch 200: of the last epoch, as scikit-learn's)."""
    table = Table.from_columns({"x": data["x"], "y": data["y"]})
    run = start(Job.model_validate(document(data, sizes, batch, 10**6)), {"bench": table}, threads=threads)

    def train(steps: int) -> float:
        phase, before, losses = run.train, run.step, []
        while run.step - before < steps:
            count = min(steps - (run.step - before), phase.steps - run.position)
            series = np.zeros((count, 2))
            run.session.run(phase, count, np.ones(count), series)
            losses.append(series[:, 0])
            if run.position == phase.steps:
                run._next_epoch()
        return float(losses[-1].mean() if batch == 200 else np.concatenate(losses)[-20:].mean())

    return train
