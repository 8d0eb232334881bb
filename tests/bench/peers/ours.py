"""The workload as a job of ours, through the same calls as the worker's."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from engine.data.table import Table, text_column
from engine.train import Job, start
from tests.bench.workloads import Arrays, Workload


def document(workload: Workload, inputs: list[str], characters: int = 0) -> dict:
    """The job: batches in order, the same optimiser. `characters` of a text are a window."""
    data = {"dataset": "bench", "inputs": ["*"] if inputs == ["x"] else {name: [name] for name in inputs}, "target": "y",
            "batch_size": workload.batch, "sampling": "sequential"}
    if characters:
        data = {"dataset": "bench", "windows": {"length": characters}, "batch_size": workload.batch, "sampling": "sequential"}
    return {"model": {"kind": "chain", "layers": list(workload.layers)}, "loss": "logit_cross_entropy", "metrics": [], "data": data,
            "optimiser": {"kind": "adam", "learning_rate": 0.001}, "epochs": 10**6}


def table_of(columns: Arrays) -> Table:
    """The columns as data; windows of characters as the text they come from, number 0 as a line's end."""
    if columns["y"].ndim == 1:
        return Table.from_columns(columns)
    codes = np.append(columns["x"], columns["y"][-1, -1])
    text = "".join(chr(32 + code) if code else "\n" for code in codes)
    return Table({"text": text_column("text", [text[:-1]])}, 1, "text")     # one row, so that no line is empty; its end is added


def prepare(workload: Workload, columns: Arrays, weights: Arrays, threads: int, mode: str) -> Callable[[int], float]:
    """A function that trains so many more steps and returns the mean loss of the last 20 (of W9: of the last epoch, as scikit-learn's)."""
    device = {"device": "cuda" if mode == "cuda" else "cpu"}
    job = Job.model_validate(document(workload, [name for name in columns if name != "y"], *columns["y"].shape[1:]) | device)
    run = start(job, {"bench": table_of(columns)}, threads=threads)
    for path, values in weights.items():
        run.session.parameters[path][...] = values

    def train(steps: int) -> float:
        phase, before, losses = run.train, run.step, []
        while run.step - before < steps:
            count = min(steps - (run.step - before), phase.steps - run.position)
            series = np.zeros((count, 2))
            run.session.run(phase, count, np.ones(count), series)
            losses.append(series[:, 0])
            if run.position == phase.steps:
                run.next_epoch()
        return float(losses[-1].mean() if workload.name == "W9" else np.concatenate(losses)[-20:].mean())

    return train
