"""The metrics: those of numbers here, those of classes in class_metrics.py."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np

from engine.core import Node, apply, count
from engine.nn.class_metrics import F1, Accuracy, BalancedAccuracy, Precision, Recall, TopKAccuracy
from engine.nn.curve_metrics import Auc, AveragePrecision, LogLoss
from engine.nn.loss import alike
from engine.nn.metric import Metric, mass, metrics, ratio, total


class NumberMetric(Metric):
    """The weighted mean over rows of one number for each row."""

    @abstractmethod
    def row(self, y_hat: Node, y: Node) -> Node:
        """An elementwise error."""

    def sums(self, y_hat: Node, y: Node, weight: Node | None = None, *, logits: bool = False) -> dict[str, Node]:
        error = self.row(y_hat, alike(self.kind_name(), y_hat, y))
        rows = error if error.ndim == 1 else error.mean(tuple(range(1, error.ndim)))
        return {"error": total(rows, weight), "count": mass(rows, weight)}

    def value(self, sums: Mapping[str, np.ndarray]) -> float:
        return ratio(sums["error"], sums["count"])


@metrics.add
class Mae(NumberMetric):
    """The mean absolute error."""

    equation: ClassVar[str] = "mean(|y_hat - y|)"
    aliases: ClassVar[tuple[str, ...]] = ("mean_absolute_error",)
    kind: Literal["mae"] = "mae"

    def row(self, y_hat: Node, y: Node) -> Node:
        return abs(y_hat - y)


@metrics.add
class Mse(NumberMetric):
    """The mean squared error."""

    equation: ClassVar[str] = "mean((y_hat - y)^2)"
    aliases: ClassVar[tuple[str, ...]] = ("mean_squared_error",)
    kind: Literal["mse"] = "mse"

    def row(self, y_hat: Node, y: Node) -> Node:
        return apply("square", y_hat - y)


@metrics.add
class Rmse(NumberMetric):
    """The root of the mean squared error, in the target's unit."""

    equation: ClassVar[str] = "sqrt(mean((y_hat - y)^2))"
    aliases: ClassVar[tuple[str, ...]] = ("root_mean_squared_error",)
    kind: Literal["rmse"] = "rmse"

    def row(self, y_hat: Node, y: Node) -> Node:
        return apply("square", y_hat - y)

    def value(self, sums: Mapping[str, np.ndarray]) -> float:
        return ratio(sums["error"], sums["count"]) ** 0.5


@metrics.add
class Mape(NumberMetric):
    """The mean absolute error as a share of the target; rows whose target is 0 make it infinite."""

    equation: ClassVar[str] = "mean(|(y_hat - y) / y|)"
    aliases: ClassVar[tuple[str, ...]] = ("mean_absolute_percentage_error",)
    kind: Literal["mape"] = "mape"

    def row(self, y_hat: Node, y: Node) -> Node:
        return abs((y_hat - y) / y)


@metrics.add
class R2(Metric):
    """The share of the target's variance that is explained: 1 is perfect, 0 as good as the mean. The mean over columns where there are several."""

    equation: ClassVar[str] = "1 - sum((y_hat - y)^2) / sum((y - mean(y))^2)"
    direction: ClassVar[Literal["up", "down"]] = "up"
    aliases: ClassVar[tuple[str, ...]] = ("r2_score", "r_squared")
    kind: Literal["r2"] = "r2"

    def sums(self, y_hat: Node, y: Node, weight: Node | None = None, *, logits: bool = False) -> dict[str, Node]:
        y = alike("r2", y_hat, y)
        flat = (y.shape[0], -1) if y.ndim != 2 else y.shape
        columns = count(y.shape[1:])
        residual, y = ((n.reshape(flat[0], columns)).astype("float64") for n in (y_hat - y, y))   # sums of squares lose all digits in float32
        weight = None if weight is None else weight.astype("float64")
        return {"residual": total(apply("square", residual), weight), "sum": total(y, weight), "square": total(apply("square", y), weight),
                "count": mass(y, weight)}

    def value(self, sums: Mapping[str, np.ndarray]) -> float:
        spread = np.asarray(sums["square"]) - np.asarray(sums["sum"]) ** 2 / np.asarray(sums["count"])
        with np.errstate(divide="ignore", invalid="ignore"):
            return float(np.mean(1 - np.asarray(sums["residual"]) / np.where(spread > 0, spread, np.nan)))


__all__ = ["Accuracy", "Auc", "AveragePrecision", "BalancedAccuracy", "F1", "LogLoss", "Mae", "Mape", "Metric", "Mse", "Precision", "R2", "Recall",
           "Rmse", "TopKAccuracy", "metrics"]
