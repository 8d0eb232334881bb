"""What a loss is: a spec that makes one number of predictions and targets, and one number of each row.

Formulas are Flux's: `terms` gives what Flux reduces with `agg`; the mean over everything is the mean over rows of each row's mean. Class targets are
class numbers (int32, one axis less than the predictions) or one-hot rows; classes are the last axis.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from engine.core import FLOATS, Node, apply, count, leaf, lift
from engine.errors import ShapeError, TrainyardError
from engine.ops.indexing import outside
from engine.spec import Family, Spec, described

losses = Family("loss", {"sparse_ce": "cross_entropy", "ce": "cross_entropy", "bce": "binary_cross_entropy", "nll": "cross_entropy"})

Epsilon = Field(None, ge=0, description="added before logarithms; left out: the spacing of numbers near 1")


class Loss(Spec):
    """Compares predictions with targets.

    target        what the target column becomes: class numbers, 0 or 1 (of the predictions' shape), or numbers
    needs         what the model's output must be, where that matters
    standardises  whether a job trains on the target brought to mean 0 and variance 1
    aligned       whether predictions and targets stand opposite each other, number by number or row by class
    """

    named_only: ClassVar[tuple[str, ...]] = ("kind", "name", "agg", "class_weights")
    equation: ClassVar[str] = ""
    target: ClassVar[Literal["class", "binary", "number"]] = "number"
    needs: ClassVar[Literal["probabilities", "logits"] | None] = None
    standardises: ClassVar[bool] = False
    aligned: ClassVar[bool] = True
    agg: Literal["mean", "sum"] = Field("mean", description="how rows become one number")

    @abstractmethod
    def terms(self, y_hat: Node, y: Node) -> Node:
        """Losses before they are aggregated: one number for each, batch axis first. Raises ShapeError where predictions and targets do not fit."""

    def rows(self, y_hat: Node, y: Node) -> Node | None:
        """One number for each row of the batch, [batch]; None where a loss has none. Where a row has several terms, each counts its share."""
        terms = self.terms(y_hat, y)
        axes = tuple(range(1, terms.ndim))
        if not axes:
            return terms
        shares = self.shares(y_hat, y) if count(terms.shape[1:]) > 1 else None     # one alone is what the row is, whatever it counts
        if shares is None:
            return terms.mean(axes) if self.agg == "mean" else terms.sum(axes)
        whole = shares.sum(axes)
        mean = (terms * shares).sum(axes) / apply("where", whole, whole, 1.0)   # a row whose classes all weigh nothing counts nothing
        return mean if self.agg == "mean" else mean * float(count(terms.shape[1:]))

    def each(self, y_hat: Node, y: Node, weight: Node | None = None) -> Node:
        """The terms, each times what it counts."""
        terms = self.terms(y_hat, y)
        shares = self.shares(y_hat, y)
        terms = terms if shares is None else terms * shares
        return terms if weight is None else terms * weight.reshape(weight.shape[0], *[1] * (terms.ndim - 1))

    def shares(self, y_hat: Node, y: Node) -> Node | None:
        """What each of `terms` counts, because of its class; None where all count the same."""
        return None

    def weights(self, y_hat: Node, y: Node, weight: Node | None) -> Node | None:
        """What each row counts, [batch]: its sample weight, times the mean of what its terms count; None where all count the same."""
        shares = self.shares(y_hat, y)
        if shares is None:
            return weight
        own = shares.mean(tuple(range(1, shares.ndim))) if shares.ndim > 1 else shares
        return own if weight is None else own * weight

    def forward(self, y_hat: Node, y: Node, weight: Node | None = None) -> Node:
        """The loss of a batch, one number: the mean of its rows, weighted where there are weights, or their weighted sum."""
        rows = self.rows(y_hat, y)
        assert rows is not None, "a loss without rows has a forward of its own"
        return self.aggregate(rows, self.weights(y_hat, y, weight))

    def aggregate(self, rows: Node, weights: Node | None) -> Node:
        if weights is None:
            return rows.mean() if self.agg == "mean" else rows.sum()
        total = (rows * weights).sum()
        return total / weights.sum() if self.agg == "mean" else total


class ClassLoss(Loss):
    """A loss whose target is a class."""

    target: ClassVar[Literal["class", "binary", "number"]] = "class"
    class_weights: Literal["balanced"] | list[float] | dict[str | int, float] | None = Field(
        None, description='what each class counts: by class, in the order of classes, or "balanced": the fewer rows a class has the more they count')

    def shares(self, y_hat: Node, y: Node) -> Node | None:
        table = self.class_weights
        if table is None:
            return None
        if isinstance(table, str):
            raise TrainyardError('class_weights "balanced" counts the rows of each class, which a job does; give numbers here')
        classes = self.classes_of(y_hat)
        numbers = table if isinstance(table, list) else [float(table.get(k, table.get(str(k), 1.0))) for k in range(classes)]
        wrong = [k for k in table if str(k) not in map(str, range(classes))] if isinstance(table, Mapping) else []
        if wrong or len(numbers) != classes:
            found = f"a weight of {wrong[0]!r}" if wrong else f"{len(numbers)} numbers"
            raise ShapeError(f"{self.kind_name()} has {classes} classes here, class_weights has {found}")
        return self.counts(y_hat, y, np.asarray(numbers, y_hat.dtype))

    def classes_of(self, y_hat: Node) -> int:
        """How many classes predictions tell apart."""
        return y_hat.shape[-1]

    def counts(self, y_hat: Node, y: Node, table: np.ndarray) -> Node:
        """What each of `terms` counts, by what its class does; a distribution over classes counts the mean by its own shares."""
        known = leaf(table.shape, table.dtype.name, value=table)
        if y.shape != y_hat.shape:
            return apply("gather", known, class_numbers(self.kind_name(), y_hat, y))
        return (y.astype(y_hat.dtype) * known).sum(-1)

    def resolved(self, class_names: Sequence[Any], counts: Sequence[float] | None = None) -> ClassLoss:
        """The loss with class weights in the order of `class_names`; "balanced" gives rows / (classes * rows of the class), from `counts`.

        Raises KeyError, whose argument is the name, for a class that is not there.
        """
        table = self.class_weights
        if isinstance(table, str):
            if counts is None:
                raise TrainyardError('class_weights "balanced" needs the number of rows of each class')
            return self.model_copy(update={"class_weights": [sum(counts) / (len(counts) * n) if n else 0.0 for n in counts]})
        if not isinstance(table, Mapping):
            return self
        known = {str(name): k for k, name in enumerate(class_names)}
        numbers = [1.0] * len(class_names)
        for name, number in table.items():
            numbers[known[str(name)]] = float(number)
        return self.model_copy(update={"class_weights": numbers})


# ---------------------------------------------------------------- what formulas share

def epsilon_of(given: float | None, y_hat: Node) -> float:
    """Flux's epsilon: the spacing of numbers near 1 in the predictions' dtype, unless one is given."""
    return float(np.finfo(y_hat.dtype).eps) if given is None else given


def alike(kind: str, y_hat: Node, y: Node) -> Node:
    """The targets, of the predictions' shape and dtype. Raises ShapeError, for shapes that broadcasting would stretch without a word, too."""
    if y.shape != y_hat.shape and y.shape != ():
        units = y.shape[-1] if y.shape[:-1] == y_hat.shape[:-1] else None
        hint = f"; reshape the targets to {list(y_hat.shape)}" if count(y.shape) == count(y_hat.shape) else \
            f"; the model's last layer would need units={units}" if units is not None and y.ndim > 1 else ""
        raise ShapeError(f"{kind} compares arrays of one shape: predictions are {list(y_hat.shape)}, targets {list(y.shape)}{hint}")
    return y if y.dtype == y_hat.dtype or y.shape == () else y.astype(y_hat.dtype)


def one_hot(kind: str, y_hat: Node, y: Node) -> Node:
    """Class targets as rows of the predictions' shape: one-hot rows as they are, class numbers as one-hot rows."""
    if y_hat.ndim < 2:
        raise ShapeError(f"{kind} expects predictions [batch, classes], found {list(y_hat.shape)}")
    if y.shape == y_hat.shape:
        return y if y.dtype == y_hat.dtype else y.astype(y_hat.dtype)
    if y.shape != y_hat.shape[:-1]:
        hint = "; take the last axis away with y[:, 0]" if y.shape == (*y_hat.shape[:-1], 1) else ""
        raise ShapeError(f"{kind} with predictions {list(y_hat.shape)} expects class numbers {list(y_hat.shape[:-1])} or one-hot rows "
                         f"{list(y_hat.shape)}, found targets {list(y.shape)}{hint}")
    return apply("one_hot", class_numbers(kind, y_hat, y), classes=y_hat.shape[-1]).astype(y_hat.dtype)


def class_numbers(kind: str, y_hat: Node, y: Node) -> Node:
    """Targets as int32 class numbers of the classes of predictions. Raises where they are known and there is no such class."""
    classes = y_hat.shape[-1]
    if classes == 1:
        raise ShapeError(f"{kind} tells classes apart, and predictions {list(y_hat.shape)} have one: give an output for each class, or take "
                         f"binary_cross_entropy or mse with targets of {list(y_hat.shape)}")
    if (wrong := outside(y, classes)) is not None:
        raise TrainyardError(f"{kind} with {classes} classes takes class numbers from 0 to {classes - 1}, found {wrong}")
    return y if y.dtype == "int32" else y.astype("int32")


def real(node: Any) -> Node:
    """A node of predictions, as floats."""
    node = lift(node)
    return node if node.dtype in FLOATS else node.astype("float64")


def _weight(kind: str, given: Any, y_hat: Node) -> Node:
    """Sample weights as a node [batch]."""
    weight = lift(given)
    if weight.shape != y_hat.shape[:1] or not y_hat.ndim:
        raise ShapeError(f"{kind} takes a weight for each row, {list(y_hat.shape[:1])}, found {list(weight.shape)}")
    return weight if weight.dtype == y_hat.dtype else weight.astype(y_hat.dtype)


def function(cls: type[Loss]) -> Callable[..., Any]:
    """The Python function of a loss: on nodes it gives a node, on arrays numbers."""
    def loss(y_hat: Any, y: Any, *, agg: Literal["mean", "sum"] | None = "mean", weight: Any = None, **options: Any) -> Any:
        spec = described(cls, {"agg": agg or "mean", **options})
        prediction, target = real(y_hat), lift(y)
        counts = None if weight is None else _weight(cls.kind_name(), weight, prediction)
        result = spec.each(prediction, target, counts) if agg is None else spec.forward(prediction, target, counts)
        if isinstance(y_hat, Node) or isinstance(y, Node):
            return result
        return result.numpy() if result.shape else result.item()

    loss.__name__ = loss.__qualname__ = cls.kind_name()
    loss.__doc__ = (f"{cls.sentence()}\n\n    {cls.equation}\n\n`agg`: \"mean\", \"sum\", or None for the terms before they are aggregated. "
                    "`weight`: what each row counts, [batch].")
    return loss
