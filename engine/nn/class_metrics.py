"""Metrics of predicted against true classes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from math import log
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from engine.core import FLOATS, Node, apply, count
from engine.errors import ShapeError
from engine.nn.metric import Kind, Metric, mass, metrics, ratio, total


def labels_of(y_hat: Node, y: Node) -> tuple[Node, Node]:
    """Predictions [rows, classes] and class numbers [rows] of a model with an output for each class; further axes are taken as rows."""
    if y.shape == y_hat.shape:
        y = apply("argmax", y, axis=-1)
    if y.shape != y_hat.shape[:-1]:
        raise ShapeError(f"metrics of classes expect class numbers {list(y_hat.shape[:-1])} for predictions {list(y_hat.shape)}, "
                         f"found {list(y.shape)}")
    rows = count(y.shape)
    return y_hat.reshape(rows, y_hat.shape[-1]), (y if y.dtype == "int32" else y.astype("int32")).reshape(rows)


def one_output(y_hat: Node) -> bool:
    """Whether a model answers yes or no with one number."""
    return y_hat.ndim == 1 or y_hat.shape[-1] == 1


def says_yes(y_hat: Node, threshold: float, logits: bool) -> Node:
    """1.0 where the answer is yes, [rows]."""
    border = log(threshold / (1 - threshold)) if logits else threshold
    return (y_hat > border).reshape(count(y_hat.shape))


def repeated(weight: Node | None, rows: int) -> Node | None:
    """The weights of rows whose further axes were taken as rows."""
    if weight is None or weight.shape[0] == rows:
        return weight
    times = rows // weight.shape[0]
    return apply("broadcast", weight.reshape(weight.shape[0], 1), shape=(weight.shape[0], times)).reshape(rows)


def as_classes(y_hat: Node, y: Node, threshold: float, logits: bool) -> tuple[Node, Node, int]:
    """Predicted and true classes as one-hot rows of floats, and how many classes there are."""
    dtype = y_hat.dtype
    if one_output(y_hat):
        yes = says_yes(y_hat, threshold, logits)
        truth = y.reshape(yes.shape[0]).astype(dtype) if y.dtype != dtype else y.reshape(yes.shape[0])
        return apply("stack", 1 - yes, yes, axis=1), apply("stack", 1 - truth, truth, axis=1), 2
    scores, labels = labels_of(y_hat, y)
    classes = scores.shape[1]
    predicted = apply("argmax", scores, axis=-1)
    predicted = predicted if predicted.dtype == "int32" else predicted.astype("int32")
    return (apply("one_hot", predicted, classes=classes).astype(dtype), apply("one_hot", labels, classes=classes).astype(dtype), classes)


class ClassMetric(Metric):
    """A metric of predicted against true classes."""

    direction: ClassVar[Literal["up", "down"]] = "up"
    targets: ClassVar[tuple[Kind, ...]] = ("class",)


@metrics.add
class Accuracy(ClassMetric):
    """The share of rows whose class is predicted right."""

    equation: ClassVar[str] = "mean(argmax(y_hat) = y)"
    aliases: ClassVar[tuple[str, ...]] = ("acc", "binary_accuracy", "categorical_accuracy", "sparse_categorical_accuracy")
    threshold: float = Field(0.5, gt=0, lt=1, description="of one output: from where on the answer is yes")
    kind: Literal["accuracy"] = "accuracy"

    def sums(self, y_hat: Node, y: Node, weight: Node | None = None, *, logits: bool = False) -> dict[str, Node]:
        if one_output(y_hat):
            yes = says_yes(y_hat, self.threshold, logits)
            right = apply("equal", yes, y.reshape(yes.shape[0]))
        else:
            scores, labels = labels_of(y_hat, y)
            right = apply("equal", apply("argmax", scores, axis=-1).astype(scores.dtype), labels.astype(scores.dtype))
        right = right if right.dtype in FLOATS else right.astype("float32")
        weight = repeated(weight, right.shape[0])
        return {"right": total(right, weight), "count": mass(right, weight)}

    def value(self, sums: Mapping[str, np.ndarray]) -> float:
        return ratio(sums["right"], sums["count"])


@metrics.add
class TopKAccuracy(ClassMetric):
    """The share of rows whose class is among the k most likely."""

    equation: ClassVar[str] = "mean(fewer than k classes score higher than y)"
    aliases: ClassVar[tuple[str, ...]] = ("top_k", "top_k_categorical_accuracy")
    k: int = Field(5, ge=1)
    kind: Literal["top_k_accuracy"] = "top_k_accuracy"

    @property
    def key(self) -> str:
        return self.name or f"top_{self.k}_accuracy"

    def sums(self, y_hat: Node, y: Node, weight: Node | None = None, *, logits: bool = False) -> dict[str, Node]:
        if one_output(y_hat):
            raise ShapeError(f"top_k_accuracy is for models with an output for each class, found {list(y_hat.shape)}")
        scores, labels = labels_of(y_hat, y)
        true = apply("one_hot", labels, classes=scores.shape[1]).astype(scores.dtype)
        own = (scores * true).sum(-1, keepdims=True)
        right = (scores > own).sum(-1) < float(self.k)
        weight = repeated(weight, right.shape[0])
        return {"right": total(right, weight), "count": mass(right, weight)}

    def value(self, sums: Mapping[str, np.ndarray]) -> float:
        return ratio(sums["right"], sums["count"])


class ConfusionMetric(ClassMetric):
    """A metric of how often each class was predicted, was true, and was both."""

    threshold: float = Field(0.5, gt=0, lt=1, description="of one output: from where on the answer is yes")

    def sums(self, y_hat: Node, y: Node, weight: Node | None = None, *, logits: bool = False) -> dict[str, Node]:
        predicted, true, _ = as_classes(y_hat, y, self.threshold, logits)
        weight = repeated(weight, predicted.shape[0])
        return {"both": total(predicted * true, weight), "predicted": total(predicted, weight), "true": total(true, weight)}


@metrics.add
class BalancedAccuracy(ConfusionMetric):
    """The mean over classes of the share of their rows that is predicted right."""

    equation: ClassVar[str] = "mean(recall of each class that occurs)"
    kind: Literal["balanced_accuracy"] = "balanced_accuracy"

    def value(self, sums: Mapping[str, np.ndarray]) -> float:
        both, true = np.asarray(sums["both"]), np.asarray(sums["true"])
        return float(np.mean(both[true > 0] / true[true > 0])) if (true > 0).any() else float("nan")


class Score(ConfusionMetric):
    """A score of each class, and their average: over classes (macro), rows (micro), by size (weighted), or the positive class alone (binary)."""

    average: Literal["macro", "micro", "weighted", "binary"] = "macro"
    positive: str | int | float | bool | None = Field(None, description="the class whose score is given; the last one for binary where left out")

    def resolved(self, class_names: Sequence[Any]) -> Metric:
        if self.positive is None:
            return self
        known = {str(name): k for k, name in enumerate(class_names)}
        return self.model_copy(update={"positive": known[str(self.positive)], "average": "binary"})

    @abstractmethod
    def scores(self, both: np.ndarray, predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
        """The score of each class; 0 where it has no rows to score."""

    def value(self, sums: Mapping[str, np.ndarray]) -> float:
        both, predicted, true = (np.asarray(sums[k], np.float64) for k in ("both", "predicted", "true"))
        if self.average == "micro":
            both, predicted, true = both.sum(), predicted.sum(), true.sum()
        scores = np.atleast_1d(self.scores(both, predicted, true))
        if self.positive is not None or self.average == "binary":
            return float(scores[-1 if self.positive is None else int(self.positive)])
        if self.average == "weighted":
            return ratio((scores * true).sum(), true.sum())
        occurs = np.atleast_1d((predicted > 0) | (true > 0))
        return float(scores[occurs].mean()) if occurs.any() else float("nan")


def _share(above: Any, below: Any) -> np.ndarray:
    return np.divide(above, below, out=np.zeros(np.shape(below)), where=np.asarray(below) > 0)


@metrics.add
class Precision(Score):
    """Of the rows predicted to be of a class, the share that is."""

    equation: ClassVar[str] = "true positives / predicted"
    kind: Literal["precision"] = "precision"

    def scores(self, both: np.ndarray, predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
        return _share(both, predicted)


@metrics.add
class Recall(Score):
    """Of the rows of a class, the share that is predicted to be."""

    equation: ClassVar[str] = "true positives / true"
    aliases: ClassVar[tuple[str, ...]] = ("sensitivity",)
    kind: Literal["recall"] = "recall"

    def scores(self, both: np.ndarray, predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
        return _share(both, true)


@metrics.add
class F1(Score):
    """The harmonic mean of precision and recall."""

    equation: ClassVar[str] = "2 * true positives / (predicted + true)"
    aliases: ClassVar[tuple[str, ...]] = ("f1_score",)
    kind: Literal["f1"] = "f1"

    def scores(self, both: np.ndarray, predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
        return _share(2 * both, predicted + true)
