"""Loss and metrics of a model on rows, what it confuses, and where it is worst."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.core import Node
from engine.data.encode import gather
from engine.data.fit import Notes
from engine.data.fitted import Fitted
from engine.data.table import Table
from engine.data.target import check_part, present
from engine.errors import Problem, SpecError
from engine.train.ready.network import OUTPUT, Network
from engine.train.ready.step import StepMaker
from engine.train.rows.parts import Part
from engine.train.rows.prepare import check_weights, leaves_of
from engine.train.rows.windows import window_part
from engine.train.trained.machine import Bound, Machine

WORST = 10
Binder = Callable[[Mapping[str, Node], Mapping[str, Node], Node | None, Mapping[str, Node]], None]


@dataclass
class Evaluation:
    """What was found. `rows` are places in the table, `losses` theirs; `confusion` counts true classes by predicted ones."""

    rows: np.ndarray
    values: dict[str, float]
    losses: np.ndarray
    classes: tuple[Any, ...] | None = None
    confusion: np.ndarray | None = None

    def as_dict(self) -> dict[str, Any]:
        metrics = {name: value for name, value in self.values.items() if name != "loss"}
        found: dict[str, Any] = {"rows": len(self.rows), "loss": self.values["loss"], "metrics": metrics}
        if self.confusion is not None and self.classes is not None:
            found |= {"confusion_matrix": {"labels": list(self.classes), "counts": self.confusion.tolist()}, "per_class": self._per_class()}
        if len(self.losses):
            order = np.argsort(-np.nan_to_num(self.losses, nan=np.inf), kind="stable")[:WORST]
            found["worst"] = [{"row": int(self.rows[k]), "loss": float(self.losses[k])} for k in order]
        return found

    def _per_class(self) -> list[dict[str, Any]]:
        assert self.confusion is not None and self.classes is not None
        true, predicted, both = self.confusion.sum(axis=1), self.confusion.sum(axis=0), self.confusion.diagonal()
        return [{"class": name, "rows": int(true[k]), "precision": share(both[k], predicted[k]), "recall": share(both[k], true[k]),
                 "f1": share(2 * both[k], predicted[k] + true[k])} for k, name in enumerate(self.classes)]


def share(above: Any, below: Any) -> float:
    return float(above / below) if below else 0.0


def evaluation(maker: StepMaker, part: Part, bind: Binder, notes: Notes) -> Evaluation:
    """Run rows of a table, or windows of it, through the model in test mode. Raises SpecError where columns or labels do not fit."""
    table, fitted = part.table, maker.network.fitted
    maker = weighted_if_there(maker, table)
    fitted = maker.network.fitted
    rows = target_rows(fitted, part, notes)
    feeds, leaves = fitted.feeds(table.columns, part.order), maker.network.leaves
    target = fitted.targets[0] if [o.name for o in maker.objectives] == [OUTPUT] and fitted.targets else None
    machine = Machine(lambda count: _bound(maker, count, bind))
    sums: dict[str, Any] = {}
    losses: list[np.ndarray] = [np.zeros(0)]
    kept: dict[str, list[np.ndarray]] = {}
    confusion = np.zeros((len(target.classes),) * 2, np.int64) if target and target.classes and target.kind == "class" else None
    for arrays, found in machine.run(rows, lambda chunk: gather(feeds, chunk, leaves), fitted.windows.length if fitted.windows else 1):
        for name in (name for name in found if name.startswith("sums/")):
            sums[name[5:]] = sums.get(name[5:], 0.0) + found[name].astype(np.float64)
        for name in (name for name in found if name.startswith("rows/")):
            kept.setdefault(name[5:], []).append(found[name])
        losses += [found["loss"]] if "loss" in found else []
        if confusion is not None and target is not None:
            np.add.at(confusion, (arrays[target.leaf].ravel(), found["probabilities"].argmax(axis=-1).ravel()), 1)
    sums |= {name: np.concatenate(parts) for name, parts in kept.items()}
    values = maker.measure(sums) if sums else {"loss": float("nan")}
    return Evaluation(part.line.rows(rows) if part.line else rows, values, np.concatenate(losses), target.classes if target else None, confusion)


def weighted_if_there(maker: StepMaker, table: Table) -> StepMaker:
    """Rows count alike where the table has no column of weights."""
    network = maker.network
    if network.fitted.weight is None or network.fitted.weight in table.columns:
        return maker
    fitted = network.fitted.model_copy(update={"weight": None})
    return StepMaker(Network(network.model, fitted, leaves_of(fitted, network.dtype), network.dtype), maker.objectives)


def part_of(fitted: Fitted, table: Table, rows: np.ndarray | None, notes: Notes) -> Part:
    """The rows of a table (all where None), or all its windows. SpecError where there is no column to compare with."""
    targets = {target.name: target.columns for target in fitted.targets}
    absent = [name for columns in targets.values() for name in columns if name not in table.columns]
    if absent:
        raise SpecError([Problem(f"/{name}", "missing_column", f"an evaluation needs the target's column {name!r}") for name in absent])
    if fitted.windows is None:
        return Part(table, np.arange(table.rows, dtype=np.int64) if rows is None else rows)
    weight = fitted.weight if fitted.weight in table.columns else None
    return window_part(fitted.windows, table, targets, weight, notes, "/dataset")


def target_rows(fitted: Fitted, part: Part, notes: Notes) -> np.ndarray:
    """The rows that have a target, and a weight where the table has weights. Labels that the model does not know are a problem, and weights that are
    none."""
    table, rows = part.table, part.rows
    weights = [fitted.weight] if fitted.weight in table.columns else []
    names = [*(name for target in fitted.targets for name in target.columns), *weights]
    if names and fitted.windows is None:
        there = present([table.columns[name] for name in names])[rows]
        if not there.all():
            lacking = "target or weight" if weights else "target"
            notes.warn("", "missing_target", f"{int(np.count_nonzero(~there))} of {len(rows)} rows have no {lacking} and are left out")
        rows = rows[there]
    for target in fitted.targets:
        if target.columns:
            known = rows if part.inside is None else part.inside
            check_part(target, [table.columns[name] for name in target.columns], known, "evaluated", "/dataset", notes)
    for name in weights if len(rows) else ():
        check_weights(table.columns[name], rows if part.inside is None else part.inside, "/dataset", notes)
    if notes.problems:
        raise SpecError(notes.problems)
    return rows


def _bound(maker: StepMaker, rows: int, bind: Binder) -> Bound:
    graph = maker(rows, False)
    bind(graph.parameters, graph.buffers, graph.key, graph.counters)
    results = {f"sums/{name}": node for name, node in graph.sums.items()} | {f"rows/{name}": node for name, node in graph.kept_rows.items()}
    if len(graph.per_row) == len(maker.objectives):
        results["loss"] = maker.total({o.name: graph.per_row[f"{o.prefix}loss"] for o in maker.objectives})
    if OUTPUT in graph.outputs and (probabilities := maker.objectives[0].probabilities(graph.outputs[OUTPUT])) is not None:
        results["probabilities"] = probabilities
    return Bound(graph.batch, results)
