"""What is minimised and measured: for each output of the model its loss, its target and its metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from engine.core import Node, apply, constant, leaf
from engine.data.fitted import FittedTarget
from engine.errors import ShapeError
from engine.nn.loss import Loss
from engine.train.expression import Expression, Setting
from engine.train.ready.network import OUTPUT, Forward


@dataclass(frozen=True)
class Compared:
    """Predictions and targets of one output as its loss takes them, and in the target's own units."""

    y_hat: Node
    y: Node | None
    own_y_hat: Node
    own_y: Node | None


@dataclass(frozen=True)
class Objective:
    """One output: its loss, what it is compared with, its share in the total. `metrics` are by the name they have in events.

    `joint`: its loss is that of all outputs together, one formula.
    """

    name: str
    loss: Loss
    target: FittedTarget | None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    share: float = 1.0
    joint: bool = False

    @property
    def prefix(self) -> str:
        return "" if self.name == OUTPUT else f"{self.name}_"

    def compared(self, forward: Forward) -> Compared:
        """ShapeError where the target cannot be brought to the shape that the loss takes."""
        y_hat, y = forward.outputs[self.name], self._target(forward)
        if self.target is None or self.target.shift is None or self.target.scale is None:
            return Compared(y_hat, y, y_hat, y)
        return Compared(y_hat, y, self.own_units(y_hat), self.own_units(y) if y is not None else None)

    def _target(self, forward: Forward) -> Node | None:
        target, y_hat = self.target, forward.outputs[self.name]
        if target is None:
            return None
        if target.kind == "inputs":
            if len(forward.x) != 1:
                raise ShapeError(f"the target \"@inputs\" needs a model with one input; this one has {', '.join(forward.x)}")
            x = next(iter(forward.x.values()))
            return x.reshape(y_hat.shape) if x.size == y_hat.size else x     # a model may end flat, whatever the shape of a row
        y = forward.batch[target.leaf]
        if target.kind == "class" and self.loss.target == "binary":
            return y.astype(y_hat.dtype).reshape(y_hat.shape) if y_hat.size == y.size else y
        return y.reshape(y_hat.shape) if target.shape == (1,) and y_hat.shape == (y.shape[0],) else y

    def own_units(self, node: Node) -> Node:
        """A value of the network in the units of the target."""
        target = self.target
        if target is None or target.shift is None or target.scale is None:
            return node
        if len(target.shift) == 1:
            return node * target.scale[0] + target.shift[0]
        scale, shift = (leaf((len(v),), node.dtype, value=np.array(v, node.dtype)) for v in (target.scale, target.shift))
        return node * scale + shift

    def value(self, compared: Compared, weight: Node | None, setting: Setting) -> Node:
        """What is differentiated: the loss of the batch, on a standardised target where the job standardises it."""
        target, loss = self.target, self.loss
        if target is None or target.scale is None or not hasattr(loss, "delta"):
            return self._forward(compared.y_hat, compared.y, weight, setting)
        assert compared.y is not None
        parts = []
        for k, scale in enumerate(target.scale):
            scaled = loss.model_copy(update={"delta": loss.delta / scale})  # type: ignore[attr-defined]
            parts.append(scaled.forward(_column(compared.y_hat, k, len(target.scale)), _column(compared.y, k, len(target.scale)), weight))
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total * (1 / len(parts)) if loss.agg == "mean" else total

    def _forward(self, y_hat: Node, y: Node | None, weight: Node | None, setting: Setting) -> Node:
        loss = self.loss
        return loss.forward(y_hat, self.as_formula(y_hat, y), weight, setting) if isinstance(loss, Expression) else loss.forward(y_hat, y, weight)  # type: ignore[arg-type]

    def as_formula(self, y_hat: Node, y: Node | None) -> Node | None:
        """The target as a formula sees it: classes are one-hot rows, or 0 and 1 where there are two and the model has one output."""
        target = self.target
        if y is None or target is None or target.kind != "class":
            return y
        classes = len(target.classes or ())
        if classes == 2 and y_hat.shape == (*y.shape, 1):
            return y.astype(y_hat.dtype).reshape(y_hat.shape)
        return apply("one_hot", y, classes=y_hat.shape[-1] if target.numbered else classes).astype(y_hat.dtype)

    def rows(self, compared: Compared) -> Node | None:
        """The loss of each row, [rows], in the target's own units; None where a loss has none."""
        return self.loss.rows(compared.own_y_hat, compared.own_y)  # type: ignore[arg-type]

    def sums(self, compared: Compared, weight: Node | None, setting: Setting) -> dict[str, Node]:
        """`loss` and `loss_weight`, whose quotient over an epoch is its loss: the weighted mean of its rows."""
        y_hat = compared.own_y_hat
        rows = self.rows(compared) if type(self.loss).forward is Loss.forward else None
        if rows is None:    # a loss of the whole batch counts with the batch's rows
            count = constant(y_hat.shape[0], y_hat.dtype)
            return {"loss": self._forward(y_hat, compared.own_y, weight, setting) * count, "loss_weight": count}
        weights = self.loss.weights(y_hat, compared.own_y, weight)  # type: ignore[arg-type]
        if weights is None:
            return {"loss": rows.sum(), "loss_weight": constant(rows.shape[0], rows.dtype)}
        return {"loss": (rows * weights).sum(), "loss_weight": weights.sum()}

    def metric_sums(self, compared: Compared, weight: Node | None) -> dict[str, Node]:
        """What the metrics add up, as `metric.part`."""
        sums: dict[str, Node] = {}
        for name, metric in self.metrics.items():
            found = metric.sums(compared.own_y_hat, compared.own_y, weight, logits=self.loss.needs == "logits")
            sums |= {f"{name}.{part}": node for part, node in found.items()}
        return sums

    def metric_rows(self, compared: Compared, weight: Node | None) -> dict[str, Node]:
        """What the metrics keep of each row, as `metric.part`."""
        return {f"{name}.{part}": node for name, metric in self.metrics.items()
                for part, node in metric.rows(compared.own_y_hat, compared.own_y, weight, logits=self.loss.needs == "logits").items()}

    def metric_values(self, sums: Mapping[str, np.ndarray]) -> dict[str, float]:
        """The metrics of added sums and kept rows."""
        return {name: metric.value({part.removeprefix(f"{name}."): value for part, value in sums.items() if part.startswith(f"{name}.")})
                for name, metric in self.metrics.items()}

    # ---------------------------------------------------------------- predictions

    def probabilities(self, y_hat: Node) -> Node | None:
        """[rows, classes] for a target of classes; None for numbers. A model with one unit gives two columns."""
        target = self.target
        if target is None or target.classes is None:
            return None
        logits = self.loss.needs == "logits"
        if self.loss.target == "binary":
            p = apply("sigmoid", y_hat) if logits else y_hat
            p = p if p.ndim == 2 else p.reshape(p.shape[0], -1)
            return apply("concat", 1 - p, p, axis=-1) if p.shape[-1] == 1 else p
        return apply("softmax", y_hat, axis=-1) if logits else y_hat


def _column(node: Node, k: int, count: int) -> Node:
    return node if count == 1 else node[..., k:k + 1]
