"""Losses of classes and of yes-or-no questions."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Literal

from pydantic import Field

from engine.core import FLOATS, Node, apply, count
from engine.nn.loss import ClassLoss, Epsilon, Loss, alike, class_numbers, epsilon_of, losses, one_hot

Smoothing = Field(0.0, ge=0, lt=1, description="the share of each target given to all classes alike")


class SmoothedClassLoss(ClassLoss):
    """A class loss whose targets may be smoothed."""

    label_smoothing: float = Smoothing

    def targets(self, y_hat: Node, y: Node) -> Node:
        y = one_hot(self.kind_name(), y_hat, y)
        return y * (1 - self.label_smoothing) + self.label_smoothing / y.shape[-1] if self.label_smoothing else y


@losses.add
class CrossEntropy(SmoothedClassLoss):
    """The surprise at the true class, for a model that ends with softmax."""

    equation: ClassVar[str] = "agg(-sum(y * log(y_hat + epsilon), classes))"
    aliases: ClassVar[tuple[str, ...]] = ("crossentropy", "categorical_crossentropy", "sparse_categorical_crossentropy", "categorical_cross_entropy")
    needs: ClassVar[Literal["probabilities", "logits"] | None] = "probabilities"
    epsilon: float | None = Epsilon
    kind: Literal["cross_entropy"] = "cross_entropy"

    def terms(self, y_hat: Node, y: Node) -> Node:
        return -apply("xlogy", self.targets(y_hat, y), y_hat + epsilon_of(self.epsilon, y_hat)).sum(-1)


@losses.add
class LogitCrossEntropy(SmoothedClassLoss):
    """The surprise at the true class, for a model that ends without softmax: exact for any size of its outputs."""

    equation: ClassVar[str] = "agg(-sum(y * log_softmax(y_hat), classes))"
    aliases: ClassVar[tuple[str, ...]] = ("logitcrossentropy", "CrossEntropyLoss", "logit_categorical_cross_entropy")
    needs: ClassVar[Literal["probabilities", "logits"] | None] = "logits"
    kind: Literal["logit_cross_entropy"] = "logit_cross_entropy"

    def terms(self, y_hat: Node, y: Node) -> Node:
        numbers = y.dtype not in FLOATS and y.shape == y_hat.shape[:-1] and y_hat.ndim > 1 and not self.label_smoothing
        y = class_numbers(self.kind_name(), y_hat, y) if numbers else self.targets(y_hat, y)
        if y_hat.ndim == 2:
            return apply("softmax_cross_entropy", y_hat, y)
        rows, classes = count(y_hat.shape[:-1]), y_hat.shape[-1]
        flat = apply("softmax_cross_entropy", y_hat.reshape(rows, classes), y.reshape(rows) if numbers else y.reshape(rows, classes))
        return flat.reshape(*y_hat.shape[:-1])


class BinaryLoss(ClassLoss):
    """A class loss of two classes: 0 or 1 for each prediction."""

    target: ClassVar[Literal["class", "binary", "number"]] = "binary"

    def classes_of(self, y_hat: Node) -> int:
        return 2

    def counts(self, y_hat: Node, y: Node, table: Any) -> Node:
        return y.astype(y_hat.dtype) * float(table[1] - table[0]) + float(table[0])


class SmoothedBinaryLoss(BinaryLoss):
    """A binary loss whose targets may be smoothed."""

    label_smoothing: float = Smoothing

    def targets(self, y_hat: Node, y: Node) -> Node:
        y = alike(self.kind_name(), y_hat, y)
        return y * (1 - self.label_smoothing) + self.label_smoothing / 2 if self.label_smoothing else y


@losses.add
class BinaryCrossEntropy(SmoothedBinaryLoss):
    """The surprise at the true answer of a yes-or-no question, for a model that ends with sigmoid."""

    equation: ClassVar[str] = "agg(-y * log(y_hat + epsilon) - (1 - y) * log(1 - y_hat + epsilon))"
    aliases: ClassVar[tuple[str, ...]] = ("binary_crossentropy", "binarycrossentropy", "BCELoss")
    needs: ClassVar[Literal["probabilities", "logits"] | None] = "probabilities"
    epsilon: float | None = Epsilon
    kind: Literal["binary_cross_entropy"] = "binary_cross_entropy"

    def terms(self, y_hat: Node, y: Node) -> Node:
        y, epsilon = self.targets(y_hat, y), epsilon_of(self.epsilon, y_hat)
        return -apply("xlogy", y, y_hat + epsilon) - apply("xlogy", 1 - y, 1 - y_hat + epsilon)


@losses.add
class LogitBinaryCrossEntropy(SmoothedBinaryLoss):
    """The surprise at the true answer of a yes-or-no question, for a model that ends without sigmoid."""

    equation: ClassVar[str] = "agg((1 - y) * y_hat - log_sigmoid(y_hat))"
    aliases: ClassVar[tuple[str, ...]] = ("logitbinarycrossentropy", "BCEWithLogitsLoss", "logit_binary_crossentropy")
    needs: ClassVar[Literal["probabilities", "logits"] | None] = "logits"
    kind: Literal["logit_binary_cross_entropy"] = "logit_binary_cross_entropy"

    def terms(self, y_hat: Node, y: Node) -> Node:
        return (1 - self.targets(y_hat, y)) * y_hat - apply("log_sigmoid", y_hat)


@losses.add
class KlDivergence(Loss):
    """How far the predicted distribution is from the target's (Kullback and Leibler, 1951)."""

    equation: ClassVar[str] = "agg(sum(y * log(y), classes) - sum(y * log(y_hat + epsilon), classes))"
    aliases: ClassVar[tuple[str, ...]] = ("kldivergence", "KLDivLoss", "kl_div")
    needs: ClassVar[Literal["probabilities", "logits"] | None] = "probabilities"
    epsilon: float | None = Epsilon
    kind: Literal["kl_divergence"] = "kl_divergence"

    def terms(self, y_hat: Node, y: Node) -> Node:
        y = one_hot("kl_divergence", y_hat, y)
        return (apply("xlogy", y, y) - apply("xlogy", y, y_hat + epsilon_of(self.epsilon, y_hat))).sum(-1)


class OverlapLoss(Loss):
    """A loss of sums over the whole batch; the loss of a row is that of a batch of this row alone."""

    target: ClassVar[Literal["class", "binary", "number"]] = "binary"
    needs: ClassVar[Literal["probabilities", "logits"] | None] = "probabilities"

    @abstractmethod
    def overlap(self, y_hat: Node, y: Node, total: Callable[[Node], Node]) -> Node:
        """The loss; `total` sums over what is compared: the batch, or each row."""

    def terms(self, y_hat: Node, y: Node) -> Node:
        return self.overlap(y_hat, alike(self.kind_name(), y_hat, y), lambda v: v.sum(tuple(range(1, v.ndim))) if v.ndim > 1 else v)

    def forward(self, y_hat: Node, y: Node, weight: Node | None = None) -> Node:
        if weight is not None:
            weight = weight.reshape(weight.shape[0], *[1] * (y_hat.ndim - 1))
        return self.overlap(y_hat, alike(self.kind_name(), y_hat, y), lambda v: (v if weight is None else v * weight).sum())


@losses.add
class Dice(OverlapLoss):
    """One less twice the overlap of prediction and target over their sizes, for segmentation; over the whole batch."""

    equation: ClassVar[str] = "1 - (2 sum(y * y_hat) + smooth) / (sum(y^2) + sum(y_hat^2) + smooth)"
    aliases: ClassVar[tuple[str, ...]] = ("dice_coeff_loss", "dice_loss")
    smooth: float = Field(1.0, ge=0)
    kind: Literal["dice"] = "dice"

    def overlap(self, y_hat: Node, y: Node, total: Callable[[Node], Node]) -> Node:
        return 1 - (total(y * y_hat) * 2 + self.smooth) / (total(apply("square", y)) + total(apply("square", y_hat)) + self.smooth)


@losses.add
class Tversky(OverlapLoss):
    """Overlap, false positives weighted by `beta`, false negatives by 1 - beta, as in Flux's code, not its docs; can be negative."""

    equation: ClassVar[str] = "1 - (sum(y * y_hat) + 1) / (sum(y * y_hat + beta (1 - y) y_hat + (1 - beta) y (1 - y_hat)) + 1)"
    aliases: ClassVar[tuple[str, ...]] = ("tversky_loss",)
    beta: float = Field(0.7, ge=0, le=1)
    kind: Literal["tversky"] = "tversky"

    def overlap(self, y_hat: Node, y: Node, total: Callable[[Node], Node]) -> Node:
        both = y * y_hat
        return 1 - (total(both) + 1) / (total(both + (1 - y) * y_hat * self.beta + y * (1 - y_hat) * (1 - self.beta)) + 1)


@losses.add
class BinaryFocal(BinaryLoss):
    """Binary cross-entropy that counts easy rows less (Lin et al., 2017)."""

    equation: ClassVar[str] = "agg((1 - pt)^gamma * -log(pt)), p = y_hat + epsilon, pt = y p + (1 - y)(1 - p)"
    aliases: ClassVar[tuple[str, ...]] = ("binary_focal_loss",)
    needs: ClassVar[Literal["probabilities", "logits"] | None] = "probabilities"
    gamma: float = Field(2.0, ge=0)
    epsilon: float | None = Epsilon
    kind: Literal["binary_focal"] = "binary_focal"

    def terms(self, y_hat: Node, y: Node) -> Node:
        y, p = alike("binary_focal", y_hat, y), y_hat + epsilon_of(self.epsilon, y_hat)
        pt = y * p + (1 - y) * (1 - p)
        return _focus(1 - pt, self.gamma, -apply("log", pt))


@losses.add
class Focal(ClassLoss):
    """Cross-entropy that counts easy rows less (Lin et al., 2017)."""

    equation: ClassVar[str] = "agg(sum(-y * (1 - p)^gamma * log(p), classes)), p = y_hat + epsilon"
    aliases: ClassVar[tuple[str, ...]] = ("focal_loss",)
    needs: ClassVar[Literal["probabilities", "logits"] | None] = "probabilities"
    gamma: float = Field(2.0, ge=0)
    epsilon: float | None = Epsilon
    kind: Literal["focal"] = "focal"

    def terms(self, y_hat: Node, y: Node) -> Node:
        y, p = one_hot("focal", y_hat, y), y_hat + epsilon_of(self.epsilon, y_hat)
        return _focus(1 - p, self.gamma, -y * apply("log", p)).sum(-1)


def _focus(easy: Node, gamma: float, loss: Node) -> Node:
    """`easy ** gamma * loss`; for the usual gamma of 2 a product, whose derivative is fine where rounding makes `easy` negative."""
    return loss if gamma == 0 else easy ** gamma * loss
