"""A job with its data, checked whole: every problem is found with shapes alone, before any array of the model is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

from engine.data.fit import Notes
from engine.data.fitted import Fitted
from engine.data.table import Table
from engine.errors import DtypeError, Problem, ShapeError, SpecError, nearest
from engine.nn.layer import Layer, LayerInfo
from engine.nn.losses import losses as known_losses
from engine.nn.paths import selected
from engine.plan.graphs import StepGraph
from engine.train.callbacks.actions import Scores
from engine.train.callbacks.changes import check_callbacks, check_paths
from engine.train.callbacks.stopping import monitors
from engine.train.expression import Expression
from engine.train.job import Job
from engine.train.ready.goals import goals_of, objectives_of
from engine.train.ready.memory import Estimate, estimate
from engine.train.ready.network import OUTPUT, Forward, Network
from engine.train.ready.objective import Objective
from engine.train.ready.sizes import branch_of, images, lookups, resolve, vocabularies
from engine.train.ready.step import StepMaker
from engine.train.rows.prepare import Prepared, leaves_of, prepare


class Limits(Protocol):
    """What a service allows one job; None for no limit."""

    max_parameters: int | None
    max_memory_bytes: int | None


@dataclass
class Setup:
    """A job ready to be built."""

    job: Job
    prepared: Prepared
    network: Network
    objectives: list[Objective]
    maker: StepMaker
    layers: list[LayerInfo]
    scores: Scores
    monitor: str
    batch_size: int
    graph: StepGraph       # of a full batch in train mode
    forward: Forward       # of one row
    notes: Notes

    @cached_property
    def estimate(self) -> Estimate:
        callbacks = self.job.callbacks
        rolls = any(callback.kind == "on_nonfinite" and callback.action == "rollback" for callback in callbacks)
        states = sum(len(step.state) for step in self.job.optimiser.listed)
        rows = sum(len(part.rows) for part in self.prepared.parts.values())
        return estimate(self.graph, states, rows, self.job.dtype, len(monitors(callbacks, self.scores)), rolls)


def set_up(job: Job, tables: Mapping[str, Table], limits: Limits | None = None, *, numbered: bool = False) -> Setup:
    """Check a job with its data. `numbered`: whole numbers are class numbers. Raises SpecError with JSON Pointers into the job."""
    notes = Notes()
    goals = goals_of(job, tables, notes, numbered)
    names = list(job.data.inputs) if isinstance(job.data.inputs, Mapping) else ["x"]
    prepared = prepare(job.data, tables, goals, lookups(job.model, names), job.seed, job.dtype, notes, images(job.model, names))
    objectives = objectives_of(job, prepared.fitted, notes)
    network, forward = trace_network(job, prepared, objectives, notes)
    notes.warnings += [warning.under("/model") for warning in forward.warnings]
    check_outputs(network.model, forward, objectives, notes)
    _stop(notes)
    _check_groups(job, forward, notes)
    trainable = _trainable(job, forward, notes)
    batch_size = _batch_size(job, prepared, notes)
    maker = StepMaker(network, objectives, trainable)
    graph = _step(maker, batch_size, notes)
    _check_last(job, network, prepared, batch_size, notes)
    _check_gradients(graph, notes)
    if job.data.sampling == "balanced" and prepared.parts["train"].labels is None:
        notes.problem("/data/sampling", "no_classes", "balanced sampling needs a target of classes")
    scores = _scores(job, prepared, objectives, notes)
    shapes = {path: node.shape for path, node in forward.parameters.items()}
    check_callbacks(job.callbacks, job.optimiser.listed, shapes, list(graph.gradients), notes)
    setup = Setup(job, prepared, network, objectives, maker, forward.layers, scores, scores.monitor, batch_size, graph, forward, notes)
    if limits or job.limits.max_memory_bytes is not None:
        _check_quota(job, setup.estimate, batch_size, limits, notes)
    _stop(notes)
    return setup


def _stop(notes: Notes) -> None:
    if notes.problems:
        raise SpecError(notes.problems)


# ---------------------------------------------------------------- the model

def network_of(job: Job, fitted: Fitted, objectives: list[Objective]) -> Network:
    """The job's model with the sizes that its data gives."""
    model = resolve(job.model, widths(objectives, fitted), vocabularies(fitted))
    return Network(model, fitted, leaves_of(fitted, job.dtype), job.dtype)


def trace_network(job: Job, prepared: Prepared, objectives: list[Objective], notes: Notes) -> tuple[Network, Forward]:
    """The model with its sizes resolved, and its graph for one row."""
    network = network_of(job, prepared.fitted, objectives)
    try:
        return network, network.forward(1, False)
    except (ShapeError, DtypeError, SpecError) as error:
        raise SpecError([*notes.problems, *model_problems(error, "/model")]) from None


def model_problems(error: Exception, prefix: str) -> list[Problem]:
    """What a trace complained of, as problems with pointers."""
    if isinstance(error, SpecError):
        return [problem.under(prefix) for problem in error.problems]
    return [Problem(prefix + getattr(error, "pointer", ""), "shape_mismatch", str(error))]


def widths(objectives: list[Objective], fitted: Fitted) -> dict[str, int]:
    """How many units the last layer of each output needs, for `units: "target"`."""
    found = {}
    for objective in objectives:
        target = objective.target
        if target is None:
            continue
        if target.kind == "inputs":
            found[objective.name] = fitted.inputs[0].width
        elif target.kind == "class":
            found[objective.name] = 1 if objective.loss.target == "binary" else len(target.classes or ())
        else:
            found[objective.name] = target.shape[-1]
    return {"x" if name == OUTPUT else name: width for name, width in found.items()}


def check_outputs(model: Layer, forward: Forward, objectives: list[Objective], notes: Notes) -> None:
    """The model's outputs against losses and classes."""
    for objective in objectives:
        if objective.name not in forward.outputs:
            where = "/loss/formula" if objective.joint else "/loss" if objective.name == OUTPUT else f"/loss/losses/{objective.name}"
            detail = f"the model has no output {objective.name!r}; it has {', '.join(forward.outputs)}"
            notes.problem(where, "unknown_name" if objective.joint else "unknown_output", detail, nearest(objective.name, forward.outputs))
            continue
        _check_width(forward, objective, notes)
        _check_ending(ending(model, objective.name), objective, notes)


def ending(model: Layer, output: str) -> str | None:
    """The activation that an output went through last, if the layers know: with several outputs that of the branch of its name."""
    if output == OUTPUT:
        return model.last_activation()
    branch = branch_of(model, output)
    return branch.last_activation() if branch else None


def _check_width(forward: Forward, objective: Objective, notes: Notes) -> None:
    target, shape, loss = objective.target, forward.outputs[objective.name].shape[1:], objective.loss
    if target is None or target.kind == "inputs" or isinstance(loss, Expression) or not loss.aligned:
        return
    last = next((row for row in reversed(forward.layers) if row.output_shape == shape), forward.layers[-1])
    gives = f"the last layer ({last.path or last.kind}) gives {list(shape)}"
    classes, each = len(target.classes or ()), list(target.shape)
    if target.kind == "number":
        fits, wants = shape == target.shape or (*shape, 1) == target.shape, f"the target has rows of {list(target.shape)}"
        better = '"units": "target"'
    elif loss.target == "binary":
        fits, wants, better = shape in ((1,), ()), f"{loss.kind_name()} needs 1 unit", "logit_cross_entropy" if shape == (classes,) else None
    else:
        fits = shape == (*each, classes) or (target.numbered and len(shape) == 1 and shape[0] >= classes)
        wants, better = f"the target has {classes} classes" + (f" for each of {each}" if each else ""), '"units": "target"'
        if target.text and len(shape) == 1:
            better = '"return_sequences": true'
    if not fits:
        notes.problem("/model" + last.pointer, "output_mismatch", f"{wants}, {gives}", better)


def _check_ending(ending: str | None, objective: Objective, notes: Notes) -> None:
    """Losses of probabilities need softmax or sigmoid at the end; losses of logits apply it themselves."""
    loss, where = objective.loss, "/loss" if objective.name == OUTPUT else f"/loss/losses/{objective.name}"
    ends = ending in ("softmax", "sigmoid", "sigmoid_fast", "hard_sigmoid")
    better = f"logit_{loss.kind_name()}"
    if loss.needs == "probabilities" and ending is not None and not ends:
        if better in known_losses.members:
            detail = f"{loss.kind_name()} needs a model that ends in softmax or sigmoid, this one ends in {ending}"
            notes.problem(where, "needs_probabilities", detail, better)
        else:
            notes.warn(where, "needs_probabilities", f"{loss.kind_name()} is for probabilities, and the model ends in {ending}")
    if loss.needs == "logits" and ends:
        notes.warn(where, "applied_twice", f"{loss.kind_name()} applies softmax or sigmoid itself, and the model ends in {ending} already")


# ---------------------------------------------------------------- the step

def _check_groups(job: Job, forward: Forward, notes: Notes) -> None:
    """The paths of an optimiser's groups must choose parameters."""
    paths, steps = list(forward.parameters), job.optimiser.listed
    for step, rule in enumerate(steps):
        prefix = f"/optimiser/{step}" if len(steps) > 1 else "/optimiser"
        for place, group in enumerate(getattr(rule, "groups", None) or ()):
            check_paths(group["paths"], paths, f"{prefix}/groups/{place}/paths", notes)


def _trainable(job: Job, forward: Forward, notes: Notes) -> frozenset[str] | None:
    """The paths to be trained; None for all."""
    if job.trainable is None:
        return None
    paths = list(forward.parameters)
    check_paths(job.trainable, paths, "/trainable", notes)
    chosen = frozenset(path for path in paths if selected(path, job.trainable))
    if not chosen:
        notes.problem("/trainable", "nothing_trained", "no parameter is left to be trained")
    _stop(notes)
    return chosen


def _batch_size(job: Job, prepared: Prepared, notes: Notes) -> int:
    rows, asked = len(prepared.parts["train"].rows), job.data.batch_size
    if asked == "full":
        return rows
    if asked > rows:
        notes.warn("/data/batch_size", "batch_size_reduced", f"the batch size {asked} is more than the {rows} training rows, and becomes {rows}")
    return min(asked, rows)


def _step(maker: StepMaker, rows: int, notes: Notes) -> StepGraph:
    try:
        return maker(rows, True)
    except SpecError as error:
        raise SpecError([*notes.problems, *(p.under("/loss") for p in error.problems)]) from None
    except (ShapeError, DtypeError) as error:
        where = "/model" + error.pointer if isinstance(error, ShapeError) and error.pointer else "/loss"
        raise SpecError([*notes.problems, Problem(where, "shape_mismatch" if where != "/loss" else "output_mismatch", str(error))]) from None


def _check_last(job: Job, network: Network, prepared: Prepared, batch_size: int, notes: Notes) -> None:
    """A last batch of one row must be enough for every layer."""
    rows = len(prepared.parts["train"].rows) * job.data.repeat
    if job.data.drop_last or job.data.steps_per_epoch is not None or rows % batch_size != 1:
        return
    try:
        network.forward(1, True)
    except ShapeError as error:
        notes.problem("/data/drop_last", "batch_too_small", f"the last of an epoch's batches has one row: {error}", "true")


def _check_gradients(graph: StepGraph, notes: Notes) -> None:
    if not graph.parameters:
        notes.problem("/model", "nothing_trained", "the model has no parameters")
    elif not graph.gradients:
        notes.problem("/loss", "nothing_trained", "the loss does not depend on any trained parameter")


def _check_quota(job: Job, found: Estimate, batch_size: int, limits: Limits | None, notes: Notes) -> None:
    most, own = limits.max_memory_bytes if limits else None, job.limits.max_memory_bytes
    shown = f"{found.parameters:,} parameters and about {found.memory_bytes / 1e6:,.0f} MB at batch size {batch_size}"
    if limits and limits.max_parameters is not None and found.parameters > limits.max_parameters:
        notes.problem("/model", "model_too_large", f"the model needs {shown}; at most {limits.max_parameters:,} parameters are allowed")
    elif most is not None and found.memory_bytes > most:
        notes.problem("/model", "model_too_large", f"the model needs {shown}; at most {most / 1e6:,.0f} MB are allowed")
    elif own is not None and found.memory_bytes > own:
        notes.problem("/limits/max_memory_bytes", "model_too_large", f"the model needs {shown}; the job allows itself {own / 1e6:,.0f} MB")


# ---------------------------------------------------------------- what is watched

def _scores(job: Job, prepared: Prepared, objectives: list[Objective], notes: Notes) -> Scores:
    """The numbers that `epoch` events will have, and the one that decides which epoch is best."""
    names: dict[str, bool] = {"loss": False}
    for objective in objectives:
        names |= {} if objective.joint else {f"{objective.prefix}loss": False}
        names |= {objective.prefix + name: metric.direction == "up" for name, metric in objective.metrics.items()}
    judged = [name for name in prepared.parts if name not in ("train", "test")]
    parts = ["train", *judged, *(["full_train"] if job.evaluate_train else [])]
    scores = Scores({f"{part}_{name}": up for part in parts for name, up in names.items()}, "valid" in prepared.parts)
    scores = replace(scores, monitor=scores.full(job.monitor or "loss"))
    watched: dict[str, Any] = {"/monitor": job.monitor} if job.monitor else {}
    watched |= {"/publish/when/metric": job.publish.when.metric} if job.publish and job.publish.when else {}
    for place, callback in enumerate(job.callbacks):
        watched |= {f"/callbacks/{place}/{name}": metric for name, metric in callback.reads().items()}
    notes.problems += [problem for pointer, name in watched.items() if (problem := scores.problem(name, pointer))]
    return scores
