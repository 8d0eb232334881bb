"""From a checked job to what a run needs: arrays, feeds, graphs; and the summary that a caller sees before anything runs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from engine.core import Node
from engine.data.fitted import Fitted, FittedColumn
from engine.data.preprocess import Auto, Unchanged
from engine.data.table import Table
from engine.nn.initialisers import Initialiser
from engine.optim.step import OptimiserStep
from engine.plan.graphs import GraphMaker
from engine.train.callbacks import OnNonfinite
from engine.train.callbacks.actions import Scores
from engine.train.callbacks.callback import Callback
from engine.train.job import Job
from engine.train.ready.network import OUTPUT
from engine.train.ready.setup import Limits, Setup, set_up
from engine.train.rows.parts import Part
from engine.train.rows.suspect import suspect


@dataclass(frozen=True)
class Summary:
    """What a job will be: its spec with every default, its layers, what it needs, and what a user should know."""

    spec: dict[str, Any]
    layers: list[dict[str, Any]]
    parameters: int
    steps_per_epoch: int
    rows: dict[str, int]
    memory_bytes: int
    checkpoint_bytes: int
    seconds_per_epoch: float     # of training, a rough guess from the work of a step
    warnings: list[dict[str, str]]
    class_names: list[Any] | None
    parameter_shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    buffer_shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)


def check(job: Job, tables: Mapping[str, Table], limits: Limits | None = None) -> Summary:
    """Check a whole job with shapes alone. `tables` are keyed by reference, inline data by "inline"; `limits` has max_parameters, max_memory_bytes.

    Raises SpecError with JSON Pointers into the job.
    """
    setup = set_up(job, tables, limits)
    parts = setup.prepared.parts
    weighted = any(getattr(objective.loss, "class_weights", None) is not None for objective in setup.objectives)
    suspect(job.data, setup.prepared.fitted, parts, weighted, setup.notes)
    rows = {name: len(parts[name].rows) if name in parts else 0 for name in ("train", "valid", "test")}
    found, steps = setup.estimate, steps_per_epoch(setup)
    layers, warnings = ([item.as_dict() for item in items] for items in (setup.layers, setup.notes.warnings))
    return Summary(normalised(setup), layers, found.parameters, steps, rows, found.memory_bytes, found.checkpoint_bytes, steps * found.step_seconds,
                   warnings, class_names(setup.prepared.fitted),
                   *({path: node.shape for path, node in nodes.items()} for nodes in (setup.forward.parameters, setup.forward.buffers)))


def normalised(setup: Setup) -> dict[str, Any]:
    """The job's spec with every default, also those that the data decides: metrics by the loss, and what is monitored."""
    spec = setup.job.spec()
    if setup.job.metrics is None:
        shown = {o.name: [metric.model_dump(mode="json", exclude_none=True) for metric in o.metrics.values()] for o in setup.objectives}
        spec["metrics"] = shown[OUTPUT] if list(shown) == [OUTPUT] else shown
    if (added := [c for c in setup.prepared.fitted.columns if c.channels]):
        spec["data"] = {**spec["data"], "preprocess": shown_preprocessing(setup, added)}
    if (windows := setup.prepared.fitted.windows) is not None:
        spec["data"] = {**spec["data"], "windows": windows.model_dump(mode="json", exclude_none=True)}
    return {**spec, "monitor": setup.monitor}


def shown_preprocessing(setup: Setup, added: list[FittedColumn]) -> dict[str, Any]:
    """Preprocessing by column, with the axis that images were given."""
    given = setup.job.data.preprocess
    found: dict[str, Any] = dict(given) if isinstance(given, Mapping) else {}
    if given == "none":
        found = {column.name: Unchanged() for column in setup.prepared.fitted.columns}
    found |= {column.name: found.get(column.name, Auto()).model_copy(update={"channels": column.channels}) for column in added}
    return {name: spec.model_dump(mode="json", exclude_none=True) for name, spec in found.items()}


def class_names(fitted: Fitted) -> list[Any] | None:
    """The classes of the target, in the order of its numbers; None where there are none or several targets."""
    named = fitted.targets[0].classes if len(fitted.targets) == 1 else None
    return list(named) if named is not None else None


def steps_per_epoch(setup: Setup) -> int:
    """Updates in one epoch: what the job says, else one pass; with replacement as many draws as there are rows."""
    data, batch = setup.job.data, setup.batch_size
    if data.steps_per_epoch is not None:
        return data.steps_per_epoch
    rows = len(setup.prepared.parts["train"].rows) * data.repeat
    if data.sampling in ("with_replacement", "balanced") or not data.drop_last:
        return math.ceil(rows / batch)
    return max(1, rows // batch)


@dataclass
class Built:
    """Everything that a run needs. `parameters` and `buffers` are initial values by path, in tree order; `trained` are the paths that are trained.

    parts         "train", and "valid" and "test" where there are: `rows` (int64 indices into the table) and `feeds`
    mode, index   how training rows are drawn: shuffle, sequential or with_replacement, from `index`
    make_graph    (rows, training) -> StepGraph
    """

    job: Job
    make_graph: GraphMaker
    parts: dict[str, Part]
    index: np.ndarray
    mode: str
    batch_size: int
    steps_per_epoch: int
    parameters: dict[str, np.ndarray]
    buffers: dict[str, np.ndarray]
    trained: list[str]
    fitted: Fitted
    scores: Scores
    monitor: str
    warnings: list[dict[str, str]]
    setup: Setup = field(repr=False)
    missed: Mapping[str, int] = field(default_factory=dict)     # updates that trained arrays were not part of

    @property
    def steps(self) -> tuple[OptimiserStep, ...]:
        """The optimiser's chain."""
        return self.job.optimiser.listed

    @property
    def class_names(self) -> list[Any] | None:
        return class_names(self.fitted)

    @property
    def meta(self) -> dict[str, Any]:
        """What a checkpoint tells of the job: enough, with the job's spec, to predict."""
        return {"fitted": self.fitted.model_dump(mode="json"), "class_names": self.class_names}

    def measure(self, sums: Mapping[str, np.ndarray]) -> dict[str, float]:
        """`loss` and metrics of what a pass has added up."""
        return self.setup.maker.measure(sums)

    @cached_property
    def callbacks(self) -> list[Callback]:
        """The job's callbacks in order, without the one about numbers that are not finite."""
        return [callback for callback in self.job.callbacks if not isinstance(callback, OnNonfinite)]

    @cached_property
    def nonfinite(self) -> OnNonfinite:
        """What happens to numbers that are not finite."""
        return next((callback for callback in self.job.callbacks if isinstance(callback, OnNonfinite)), OnNonfinite())


def build(job: Job, tables: Mapping[str, Table], limits: Limits | None = None, *, numbered: bool = False) -> Built:
    """Everything that a run of the job needs; `numbered`: whole numbers as a target are class numbers. Raises SpecError as `check` does."""
    setup = set_up(job, tables, limits, numbered=numbered)
    forward, graph = setup.forward, setup.graph
    parameters, buffers = (_arrays(job, *found) for found in ((forward.parameters, forward.initial), (forward.buffers, forward.initial_buffers)))
    index, mode = drawn(setup)
    return Built(job, setup.maker, setup.prepared.parts, index, mode, setup.batch_size, steps_per_epoch(setup), parameters, buffers,
                 [path for path in forward.parameters if path in graph.gradients], setup.prepared.fitted, setup.scores, setup.monitor,
                 [warning.as_dict() for warning in setup.notes.warnings], setup)


def _arrays(job: Job, nodes: Mapping[str, Node], initial: Mapping[str, Initialiser]) -> dict[str, np.ndarray]:
    """Initial values by path: functions of the seed and the path."""
    return {path: initial[path].array(node.shape, seed=job.seed, path=path, dtype=job.dtype) for path, node in nodes.items()}


def drawn(setup: Setup) -> tuple[np.ndarray, str]:
    """The training rows to draw from, and how. Balanced: rows of each class are repeated until all classes are as large as the largest."""
    part, sampling = setup.prepared.parts["train"], setup.job.data.sampling
    if sampling != "balanced":
        return part.rows, sampling
    labels = part.labels
    assert labels is not None, "checked: balanced sampling needs classes"
    groups = [part.rows[labels == label] for label in np.unique(labels)]
    most = max(len(group) for group in groups)
    return np.concatenate([np.resize(group, most) for group in groups]), "with_replacement"
