"""The graph of one step: the network, what is minimised, its derivatives, and what is added up over an epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.autodiff.reverse import pullback
from engine.core import Node, apply, constant, leaf
from engine.plan.graphs import StepGraph
from engine.train.expression import Expression, Setting
from engine.train.ready.network import Forward, Network
from engine.train.ready.objective import Compared, Objective


@dataclass(frozen=True)
class StepMaker:
    """Makes the StepGraph of a batch: `maker(rows, training)`. `trainable` are the paths to be trained, None for all."""

    network: Network
    objectives: Sequence[Objective]
    trainable: frozenset[str] | None = None

    def __call__(self, rows: int, training: bool) -> StepGraph:
        forward = self.network.forward(rows, training)
        counters = {name: leaf((), self.network.dtype, name=name) for name in (("step", "epoch") if self.counts else ())}
        inputs = next(iter(forward.x.values())) if len(forward.x) == 1 else forward.x
        setting = Setting(inputs, counters.get("step"), counters.get("epoch"), forward.parameters)
        weight = forward.batch.get("weight")
        compared = {objective.name: objective.compared(forward) for objective in self.objectives}
        joint = self._joint(compared, forward, setting) if self.objectives[0].joint else None
        total = self.total({o.name: o.value(compared[o.name], weight, setting) for o in self.objectives}) if joint is None else joint
        graph = StepGraph(rows, forward.batch, forward.parameters, forward.buffers, forward.key, total,
                          sums=self._sums(compared, weight, setting, joint), counters=counters)
        graph.kept_rows = {o.prefix + name: node for o in self.objectives for name, node in o.metric_rows(compared[o.name], weight).items()}
        if training:
            graph.gradients, graph.assigned = self._gradients(total, forward), forward.assigned
        else:
            graph.outputs = {name: item.own_y_hat for name, item in compared.items()}
            graph.per_row = {f"{o.prefix}loss": rows_ for o in self.objectives if not o.joint and (rows_ := o.rows(compared[o.name])) is not None}
        return graph

    def _joint(self, compared: Mapping[str, Compared], forward: Forward, setting: Setting) -> Node:
        """The loss of all outputs together, one formula. Targets have the outputs' names, or there is one for all."""
        loss, alone = self.objectives[0].loss, next((t for t in self.network.fitted.targets if t.name == "y"), None)
        assert isinstance(loss, Expression), "only formulas are about several outputs"
        y: Any = {o.name: o.as_formula(item.y_hat, item.y) for o in self.objectives if (item := compared[o.name]).y is not None}
        if alone is not None:
            y = forward.batch[alone.leaf]
            y = apply("one_hot", y, classes=len(alone.classes or ())).astype(self.network.dtype) if alone.kind == "class" else y
        return loss.joint({name: item.y_hat for name, item in compared.items()}, y, forward.batch.get("weight"), setting)

    @property
    def counts(self) -> bool:
        """Whether a formula looks at the step or the epoch."""
        return any(isinstance(o.loss, Expression) and (o.loss.uses("step") or o.loss.uses("epoch")) for o in self.objectives)

    def total(self, losses: Mapping[str, Node]) -> Node:
        """The losses of the outputs, by their shares."""
        parts = [losses[o.name] if o.share == 1.0 else losses[o.name] * o.share for o in self.objectives]
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total

    def _gradients(self, total: Node, forward: Forward) -> dict[str, Node]:
        """Derivatives of the trained parameters by path; a parameter on which the loss does not depend is left out."""
        paths = [path for path in forward.parameters if self.trainable is None or path in self.trainable]
        found = pullback(total, None, [forward.parameters[path] for path in paths])
        return {path: node for path, node in zip(paths, found, strict=True) if node is not None}

    def _sums(self, compared: Mapping[str, Compared], weight: Node | None, setting: Setting, joint: Node | None) -> dict[str, Node]:
        sums: dict[str, Node] = {}
        if joint is not None:
            count = constant(next(iter(compared.values())).y_hat.shape[0], self.network.dtype)
            sums = {"loss": joint * count, "loss_weight": count}
        for objective in self.objectives:
            item = compared[objective.name]
            if not objective.joint:
                sums |= {objective.prefix + name: node for name, node in objective.sums(item, weight, setting).items()}
            sums |= {objective.prefix + name: node for name, node in objective.metric_sums(item, weight).items()}
        return sums

    def measure(self, sums: Mapping[str, np.ndarray]) -> dict[str, float]:
        """The values of an epoch from what it has added up: `loss` and the metrics; with several outputs also `OUTPUT_loss`, ..."""
        values: dict[str, float] = {}
        if self.objectives[0].joint:
            values["loss"] = quotient(sums)
        for objective in self.objectives:
            own = {name.removeprefix(objective.prefix): value for name, value in sums.items() if name.startswith(objective.prefix)}
            if not objective.joint:
                values[f"{objective.prefix}loss"] = quotient(own)
            values |= {objective.prefix + name: value for name, value in objective.metric_values(own).items()}
        if not self.objectives[0].joint and self.objectives[0].prefix:
            values = {"loss": sum(o.share * values[f"{o.prefix}loss"] for o in self.objectives), **values}
        return values


def quotient(sums: Mapping[str, np.ndarray]) -> float:
    """The mean loss of what was added up; NaN of nothing."""
    count = float(sums["loss_weight"])
    return float(sums["loss"]) / count if count else float("nan")
