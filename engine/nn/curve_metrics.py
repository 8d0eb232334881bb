"""Metrics of how surely classes are told: the areas under curves, and the loss of probabilities."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from engine.core import Node, apply
from engine.nn.class_metrics import ClassMetric, labels_of, one_output, repeated
from engine.nn.metric import Metric, mass, metrics, ratio, total


class Curve(ClassMetric):
    """The area under a curve over all thresholds. Two classes have one, that of the last; of more classes it is the mean over each against the rest.

    Scores of all rows are kept, and looked at when all are there.
    """

    positive: str | int | float | bool | None = Field(None, description="the class whose curve it is; of two classes the last one where left out")

    def resolved(self, class_names: Sequence[Any]) -> Metric:
        known = {str(name): k for k, name in enumerate(class_names)}
        return self if self.positive is None else self.model_copy(update={"positive": known[str(self.positive)]})

    def sums(self, y_hat: Node, y: Node, weight: Node | None = None, *, logits: bool = False) -> dict[str, Node]:
        return {}

    def rows(self, y_hat: Node, y: Node, weight: Node | None = None, *, logits: bool = False) -> dict[str, Node]:
        if one_output(y_hat):
            scores, labels = y_hat.reshape(y_hat.size), y.reshape(y.size)
        else:
            scores, labels = labels_of(y_hat, y)
            scores = apply("softmax", scores) if logits else scores
        kept = repeated(weight, labels.shape[0])
        found = {"scores": scores, "labels": labels if labels.dtype == scores.dtype else labels.astype(scores.dtype)}
        return found if kept is None else {**found, "weights": kept}

    def value(self, sums: Mapping[str, np.ndarray]) -> float:
        labels = np.asarray(sums["labels"], np.float64)
        there = ~np.isnan(labels)
        labels, scores = labels[there], np.asarray(sums["scores"], np.float64)[there]
        weights = np.asarray(sums["weights"], np.float64)[there] if "weights" in sums else np.ones(len(labels))
        two = scores.ndim == 1 or scores.shape[1] == 2
        classes = range(1, 2) if two else range(scores.shape[1])
        if self.positive is not None:
            classes = [int(self.positive)]
        areas = [self._of(k, scores, labels, weights) for k in classes]
        known = [area for area in areas if not np.isnan(area)]
        return float(np.mean(known)) if known else float("nan")

    def _of(self, k: int, scores: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> float:
        """The area of one class: NaN where it has no rows or all."""
        own = scores[:, k] if scores.ndim == 2 else scores if k else -scores
        if np.isnan(own).any():
            return float("nan")
        order = np.argsort(-own, kind="stable")
        ends = np.append(np.flatnonzero(np.diff(own[order])), len(own) - 1)      # the last row of each score: equal scores count together
        right = (labels[order] == k) * weights[order]
        hits, wrong = np.cumsum(right)[ends], np.cumsum(weights[order] - right)[ends]
        return self.area(hits, wrong) if len(own) and hits[-1] > 0 and wrong[-1] > 0 else float("nan")

    @abstractmethod
    def area(self, hits: np.ndarray, wrong: np.ndarray) -> float:
        """From the weights of right and wrong rows at and above each threshold, highest first."""


@metrics.add
class Auc(Curve):
    """The chance that a row of the class scores higher than one that is not: the area under the ROC curve."""

    equation: ClassVar[str] = "area under (false positives / negatives, true positives / positives)"
    aliases: ClassVar[tuple[str, ...]] = ("roc_auc", "auroc")
    kind: Literal["auc"] = "auc"

    def area(self, hits: np.ndarray, wrong: np.ndarray) -> float:
        return float(np.trapezoid(np.append(0, hits), np.append(0, wrong)) / (hits[-1] * wrong[-1]))


@metrics.add
class AveragePrecision(Curve):
    """The mean over the rows of the class of the precision at their score: the area under the curve of precision and recall."""

    equation: ClassVar[str] = "sum over thresholds of (recall - recall before) * precision"
    aliases: ClassVar[tuple[str, ...]] = ("pr_auc", "auprc")
    kind: Literal["average_precision"] = "average_precision"

    def area(self, hits: np.ndarray, wrong: np.ndarray) -> float:
        return float((np.diff(hits, prepend=0.0) * hits / (hits + wrong)).sum() / hits[-1])


@metrics.add
class LogLoss(ClassMetric):
    """The mean surprise at the true class, -log of its probability."""

    equation: ClassVar[str] = "mean(-log(p of y))"
    direction: ClassVar[Literal["up", "down"]] = "down"
    kind: Literal["log_loss"] = "log_loss"

    def sums(self, y_hat: Node, y: Node, weight: Node | None = None, *, logits: bool = False) -> dict[str, Node]:
        least = float(np.finfo(y_hat.dtype).eps)
        if one_output(y_hat):
            yes, answer = y_hat.reshape(y_hat.size), y.reshape(y.size).astype(y_hat.dtype)
            chance = 1 - answer - yes + 2 * answer * yes
            known = apply("log_sigmoid", (2 * answer - 1) * yes) if logits else apply("log", apply("maximum", chance, least))
        else:
            scores, labels = labels_of(y_hat, y)
            logs = apply("log_softmax", scores) if logits else apply("log", apply("maximum", scores, least))
            known = (logs * apply("one_hot", labels, classes=scores.shape[1]).astype(scores.dtype)).sum(-1)
        weight = repeated(weight, known.shape[0])
        return {"surprise": -total(known, weight), "count": mass(known, weight)}

    def value(self, sums: Mapping[str, np.ndarray]) -> float:
        return ratio(sums["surprise"], sums["count"])
