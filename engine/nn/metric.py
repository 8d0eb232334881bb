"""What a metric is. Each is a few sums that add up over the batches of an epoch, or values kept of each row, and one number made of them.

Targets are as for losses: class numbers (int32) or one-hot rows, 0 or 1 for a model with one output, or numbers. Predictions of classes may be
probabilities or, with `logits`, scores before softmax or sigmoid.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from engine.core import Node, constant
from engine.spec import Family, Spec

metrics = Family("metric", {"acc": "accuracy", "auroc": "auc", "mean_accuracy": "accuracy"})

Kind = Literal["class", "number"]


class Metric(Spec):
    """One number about predictions. `direction` says which way is better, `targets` what it can be about."""

    equation: ClassVar[str] = ""
    direction: ClassVar[Literal["up", "down"]] = "down"
    targets: ClassVar[tuple[Kind, ...]] = ("number",)
    name: str | None = Field(None, description="its name in events; the kind where left out")

    @property
    def key(self) -> str:
        """The metric's name in events, after train_ or valid_."""
        return self.name or self.kind_name()

    @abstractmethod
    def sums(self, y_hat: Node, y: Node, weight: Node | None = None, *, logits: bool = False) -> dict[str, Node]:
        """What one batch adds, by name: numbers or vectors. `weight` is [batch]."""

    def rows(self, y_hat: Node, y: Node, weight: Node | None = None, *, logits: bool = False) -> dict[str, Node]:
        """What is kept of each row of a batch until all rows are there, by name: floats, batch axis first. Nothing, where sums tell enough."""
        return {}

    @abstractmethod
    def value(self, sums: Mapping[str, np.ndarray]) -> float:
        """The metric of added sums and kept rows, NaN for rows that did not come; NaN where there is nothing to count."""

    def resolved(self, class_names: Sequence[Any]) -> Metric:
        """The metric with classes told by number. Raises KeyError, whose argument is the name, for one that is not there."""
        return self


def ratio(above: Any, below: Any) -> float:
    return float(above) / float(below) if float(below) else float("nan")


def total(values: Node, weight: Node | None) -> Node:
    """The weighted sum over the batch of [batch] or [batch, k]."""
    if weight is not None:
        values = values * (weight if values.ndim == 1 else weight.reshape(weight.shape[0], 1))
    return values.sum(0)


def mass(like: Node, weight: Node | None) -> Node:
    """What the batch counts: its rows, or the sum of their weights."""
    return constant(like.shape[0], like.dtype) if weight is None else weight.sum()
