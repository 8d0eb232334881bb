"""From the losses of a job to what they want of the targets, and back: objectives with classes, weights and metrics in place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from engine.data.fit import Notes
from engine.data.fitted import Fitted, FittedTarget
from engine.data.table import Table
from engine.data.target import Goal, shown
from engine.errors import nearest
from engine.nn.layer import Layer
from engine.nn.loss import ClassLoss, Loss
from engine.nn.metrics import metrics as known_metrics
from engine.train.expression import Expression
from engine.train.job import Job, Weighted
from engine.train.ready.network import OUTPUT
from engine.train.ready.objective import Objective
from engine.train.ready.sizes import last_layer


def losses_of(job: Job) -> dict[str, Loss]:
    """The loss of each output, by its name. A formula over several outputs is the loss of all of them together."""
    if isinstance(job.loss, Weighted):
        return dict(job.loss.losses)
    loss: Loss = job.loss
    return dict.fromkeys(joint_outputs(job) or [OUTPUT], loss)


def joint_outputs(job: Job) -> list[str] | None:
    """The outputs that one formula is about, which it calls y_hat.NAME; None where the loss is no such formula."""
    if not isinstance(job.loss, Expression):
        return None
    targets = list(job.data.target) if isinstance(job.data.target, Mapping) else []
    return list(dict.fromkeys([*targets, *job.loss.names("y_hat")])) or None


def goals_of(job: Job, tables: Mapping[str, Table], notes: Notes, numbered: bool = False) -> list[Goal]:
    """What the losses want of the targets. A formula takes its target as classes where the column has classes."""
    table, target = tables.get(job.data.source), job.data.target
    if table is not None and table.kind == "text":
        return _text_goals(job, notes)
    if _mismatched(job, notes):
        return []
    if target is None:
        if not isinstance(job.loss, Expression) or job.loss.uses("y"):
            notes.problem("/data/target", "missing_target", f"the loss {job.loss.kind_name()} compares with a target: name its column")
        return []
    goals, losses = [], losses_of(job) if isinstance(target, Mapping) else {OUTPUT: job.loss}
    for name, column in (target if isinstance(target, Mapping) else {OUTPUT: target}).items():
        pointer, loss = f"/data/target/{name}" if isinstance(target, Mapping) else "/data/target", losses.get(name)
        if loss is None:
            continue
        formula = isinstance(loss, Expression)
        classes = _has_classes(table, column, last_layer(job.model, name)) if formula else loss.target == "class" or _binary(loss)
        goals.append(Goal("y" if name == OUTPUT else name, classes, _binary(loss), loss.standardises, numbered, pointer))
    return goals


def _mismatched(job: Job, notes: Notes) -> bool:
    """Losses by output name need targets by output name, and the other way round; a formula may do without some."""
    target, losses = job.data.target, losses_of(job)
    if isinstance(job.loss, Expression) or target is None:
        return False
    if isinstance(job.loss, Weighted) != isinstance(target, Mapping):
        notes.problem("/data/target", "output_mismatch", "weighted losses and targets are given by output name, both or neither")
        return True
    if isinstance(target, Mapping):
        for name in sorted(set(losses) ^ set(target)):
            where = "/loss/losses" if name in target else "/data/target"
            notes.problem(where, "output_mismatch", f"the output {name!r} needs both a loss and a target")
    return False


def _text_goals(job: Job, notes: Notes) -> list[Goal]:
    """The target of a text is the text itself, shifted by one character."""
    if job.data.target is not None:
        notes.problem("/data/target", "plain_text", "the target of a text is the text shifted by one: leave 'target' out")
    if isinstance(job.loss, Weighted) or not (isinstance(job.loss, Expression) or job.loss.target == "class"):
        notes.problem("/loss", "output_mismatch", "the target of a text is its next character, a class: its loss is one for classes",
                      "logit_cross_entropy")
    return [Goal(classes=True)]


def _binary(loss: Loss) -> bool:
    """Losses of the overlap of arrays take 0 and 1 too, but not as a class of a row."""
    return loss.target == "binary" and isinstance(loss, ClassLoss)


def _has_classes(table: Table | None, name: str | list[str], last: Layer) -> bool:
    """Whether a formula's target is a class: whole numbers are, where there are as many different ones as the last layer has units."""
    column = table.columns.get(name) if table is not None and isinstance(name, str) else None
    if column is None or column.kind not in ("number", "category", "boolean", "text"):
        return False
    if column.kind != "number":
        return True
    values, units = np.unique(column.data[~np.isnan(column.data)]), getattr(last, "units", None)
    return isinstance(units, int) and 1 < units == len(values) and bool(np.all(np.mod(values, 1) == 0))


def objectives_of(job: Job, fitted: Fitted, notes: Notes) -> list[Objective]:
    """The objectives, with class weights and metrics resolved."""
    targets = {target.name: target for target in fitted.targets}
    shares, joint = job.loss.weights if isinstance(job.loss, Weighted) else {}, joint_outputs(job) is not None
    made = []
    for name, loss in losses_of(job).items():
        target = targets.get("y" if name == OUTPUT else name)
        pointer = f"/loss/losses/{name}" if isinstance(job.loss, Weighted) else "/loss"
        loss = _with_class_weights(loss, target, pointer, notes)
        metrics = _metrics(job, name, loss, target, notes)
        made.append(Objective(name, loss, target, metrics, shares.get(name, 1.0), joint))
    return made


def _with_class_weights(loss: Loss, target: FittedTarget | None, pointer: str, notes: Notes) -> Loss:
    if not isinstance(loss, ClassLoss) or loss.class_weights is None:
        return loss
    classes = target.classes if target else None
    if target is None or classes is None or (loss.class_weights == "balanced" and not target.counts):
        notes.problem(f"{pointer}/class_weights", "no_classes", "class_weights need a target of classes, one for each row")
        return loss
    if isinstance(loss.class_weights, list) and len(loss.class_weights) != len(classes):
        detail = f"class_weights has {len(loss.class_weights)} numbers, there are {len(classes)} classes"
        notes.problem(f"{pointer}/class_weights", "output_mismatch", detail)
        return loss
    try:
        return loss.resolved(classes, target.counts)
    except KeyError as error:
        detail = f"there is no class {error.args[0]!r}; there are {shown(classes)}"
        notes.problem(f"{pointer}/class_weights/{error.args[0]}", "unknown_class", detail, nearest(str(error.args[0]), map(str, classes)))
        return loss


# ---------------------------------------------------------------- metrics

def subject(loss: Loss, target: FittedTarget | None) -> str | None:
    """What metrics can be about: "class", "number", or None where there is nothing to compare with."""
    if target is None or not loss.aligned:
        return None
    return "class" if target.classes is not None else "number"


def _metrics(job: Job, name: str, loss: Loss, target: FittedTarget | None, notes: Notes) -> dict[str, Any]:
    about = subject(loss, target)
    given, pointer = job.metrics, "/metrics"
    if isinstance(given, Mapping):
        for other in given:
            if other not in losses_of(job):
                notes.problem(f"/metrics/{other}", "unknown_output", f"the model has no output {other!r} with a loss", nearest(other, losses_of(job)))
        given, pointer = given.get(name), f"/metrics/{name}"
    elif given is not None and name != OUTPUT:
        notes.problem("/metrics", "output_mismatch", "with several outputs, metrics are given by output name")
        return {}
    if given is None:
        given = default_metrics(about)
    found: dict[str, Any] = {}
    for place, metric in enumerate(given):
        resolved = resolved_metric(metric, about, target, f"{pointer}/{place}", notes)
        if resolved is not None and resolved.key in found:
            notes.problem(f"{pointer}/{place}", "duplicate_name", f"two metrics are called {resolved.key!r}; give one a 'name'")
        elif resolved is not None:
            found[resolved.key] = resolved
    return found


def default_metrics(about: str | None) -> list[Any]:
    """Accuracy for classes, mae and r2 for numbers."""
    return [known_metrics.members[kind]() for kind in {"class": ("accuracy",), "number": ("mae", "r2")}.get(about or "", ())]


def resolved_metric(metric: Any, about: str | None, target: FittedTarget | None, pointer: str, notes: Notes) -> Any:
    """The metric with its classes told by number, or None where it cannot be about this target (noted)."""
    if about not in metric.targets:
        detail = f"{metric.kind_name()} is about {' or '.join(metric.targets)} targets" + (f", this one has {about}s" if about else "; there is none")
        return notes.problem(pointer, "metric_mismatch", detail)
    try:
        return metric.resolved(target.classes or ()) if target else metric
    except KeyError as error:
        classes = target.classes or () if target else ()
        return notes.problem(f"{pointer}/positive", "unknown_class", f"there is no class {error.args[0]!r}; there are {shown(classes)}",
                             nearest(str(error.args[0]), map(str, classes)))
