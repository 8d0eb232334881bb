"""The losses: `losses.mse(y_hat, y)` as functions, `losses.Mse()` as specs. Quirks that are Flux's are said in their docstrings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from engine.core import FLOATS, Node, apply, lift
from engine.nn.class_losses import (
    BinaryCrossEntropy,
    BinaryFocal,
    CrossEntropy,
    Dice,
    Focal,
    KlDivergence,
    LogitBinaryCrossEntropy,
    LogitCrossEntropy,
    Tversky,
)
from engine.nn.loss import Epsilon, Loss, alike, epsilon_of, function, losses


@losses.add
class Mse(Loss):
    """The mean squared error."""

    equation: ClassVar[str] = "agg((y_hat - y)^2)"
    aliases: ClassVar[tuple[str, ...]] = ("mean_squared_error", "MSELoss", "mse_loss", "l2_loss")
    standardises: ClassVar[bool] = True
    kind: Literal["mse"] = "mse"

    def terms(self, y_hat: Node, y: Node) -> Node:
        return apply("square", y_hat - alike("mse", y_hat, y))


@losses.add
class Mae(Loss):
    """The mean absolute error; its derivative is 0 where it is 0."""

    equation: ClassVar[str] = "agg(|y_hat - y|)"
    aliases: ClassVar[tuple[str, ...]] = ("mean_absolute_error", "L1Loss", "l1_loss")
    standardises: ClassVar[bool] = True
    kind: Literal["mae"] = "mae"

    def terms(self, y_hat: Node, y: Node) -> Node:
        return abs(y_hat - alike("mae", y_hat, y))


@losses.add
class Msle(Loss):
    """The mean squared error of logarithms, for targets above zero that span magnitudes."""

    equation: ClassVar[str] = "agg(log((y_hat + epsilon) / (y + epsilon))^2)"
    aliases: ClassVar[tuple[str, ...]] = ("mean_squared_logarithmic_error",)
    epsilon: float | None = Epsilon
    kind: Literal["msle"] = "msle"

    def terms(self, y_hat: Node, y: Node) -> Node:
        epsilon = epsilon_of(self.epsilon, y_hat)
        return apply("square", apply("log", (y_hat + epsilon) / (alike("msle", y_hat, y) + epsilon)))


@losses.add
class Huber(Loss):
    """Squared for small errors, straight for large ones: outliers count less (Huber, 1964)."""

    equation: ClassVar[str] = "agg(a^2 / 2 if a < delta else delta * (a - delta / 2)), a = |y_hat - y|"
    aliases: ClassVar[tuple[str, ...]] = ("huber_loss", "HuberLoss")
    standardises: ClassVar[bool] = True
    delta: float = Field(1.0, gt=0)
    kind: Literal["huber"] = "huber"

    def terms(self, y_hat: Node, y: Node) -> Node:
        a = abs(y_hat - alike("huber", y_hat, y))
        return apply("where", a < self.delta, apply("square", a) * 0.5, (a - self.delta / 2) * self.delta)


@losses.add
class Poisson(Loss):
    """For counts: the likelihood of y when y_hat is the mean of a Poisson distribution, up to a constant."""

    equation: ClassVar[str] = "agg(y_hat - y * log(y_hat))"
    aliases: ClassVar[tuple[str, ...]] = ("poisson_loss", "PoissonNLLLoss")
    kind: Literal["poisson"] = "poisson"

    def terms(self, y_hat: Node, y: Node) -> Node:
        return y_hat - apply("xlogy", alike("poisson", y_hat, y), y_hat)


@losses.add
class Hinge(Loss):
    """For targets of -1 and 1: nothing beyond the margin of 1, straight before it."""

    equation: ClassVar[str] = "agg(max(0, 1 - y_hat * y))"
    aliases: ClassVar[tuple[str, ...]] = ("hinge_loss",)
    kind: Literal["hinge"] = "hinge"

    def terms(self, y_hat: Node, y: Node) -> Node:
        return apply("relu", 1 - y_hat * alike(self.kind_name(), y_hat, y))


@losses.add
class SquaredHinge(Loss):
    """For targets of -1 and 1: nothing beyond the margin of 1, squared before it."""

    equation: ClassVar[str] = "agg(max(0, 1 - y_hat * y)^2)"
    aliases: ClassVar[tuple[str, ...]] = ("squared_hinge_loss",)
    kind: Literal["squared_hinge"] = "squared_hinge"

    def terms(self, y_hat: Node, y: Node) -> Node:
        return apply("square", apply("relu", 1 - y_hat * alike(self.kind_name(), y_hat, y)))


@losses.add
class SiameseContrastive(Loss):
    """For distances of pairs: pulls alike (0) together and pushes different (1) apart, up to the margin (Hadsell et al., 2006)."""

    equation: ClassVar[str] = "agg((1 - y) * y_hat^2 + y * max(0, margin - y_hat)^2)"
    aliases: ClassVar[tuple[str, ...]] = ("siamese_contrastive_loss", "contrastive")
    margin: float = Field(1.0, ge=0)
    kind: Literal["siamese_contrastive"] = "siamese_contrastive"

    def terms(self, y_hat: Node, y: Node) -> Node:
        y = alike("siamese_contrastive", y_hat, y)
        return (1 - y) * apply("square", y_hat) + y * apply("square", apply("relu", self.margin - y_hat))


@losses.add
class Ctc(Loss):
    """For labels along time whose places are not known: the surprise at them, over all ways to place them (Graves et al., 2006).

    Predictions are scores [batch, time, classes], or [time, classes] of one sequence; the last class is the blank. Labels are class numbers
    [batch, most labels], or [labels]; shorter ones are filled up with -1. It is infinite where there are more labels than times.
    """

    equation: ClassVar[str] = "-log(sum over ways of the product over time of softmax(y_hat))"
    aliases: ClassVar[tuple[str, ...]] = ("ctc_loss", "CTCLoss")
    aligned: ClassVar[bool] = False
    kind: Literal["ctc"] = "ctc"

    def terms(self, y_hat: Node, y: Node) -> Node:
        one = y_hat.ndim == 2 and y.ndim == 1
        y_hat, y = (node.reshape(1, *node.shape) if one else node for node in (y_hat, y))
        return apply("ctc", apply("log_softmax", y_hat), y.astype("int32") if y.dtype in FLOATS else y)


def label_smoothing(y: Any, alpha: float, axis: int | None = -1) -> Any:
    """Targets moved towards the even distribution: `y (1 - alpha) + alpha / classes` along `axis`, `... + alpha / 2` for yes-or-no targets (None)."""
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie between 0 and 1, found {alpha}")
    node = lift(y)
    node = node if node.dtype in FLOATS else node.astype("float64")
    smoothed = node * (1 - alpha) + alpha / (2 if axis is None else node.shape[axis])
    return smoothed if isinstance(y, Node) else smoothed.numpy()


mse, mae, msle, huber = function(Mse), function(Mae), function(Msle), function(Huber)
cross_entropy, logit_cross_entropy = function(CrossEntropy), function(LogitCrossEntropy)
binary_cross_entropy, logit_binary_cross_entropy = function(BinaryCrossEntropy), function(LogitBinaryCrossEntropy)
kl_divergence, poisson, hinge, squared_hinge = function(KlDivergence), function(Poisson), function(Hinge), function(SquaredHinge)
dice, tversky, binary_focal, focal = function(Dice), function(Tversky), function(BinaryFocal), function(Focal)
siamese_contrastive, ctc = function(SiameseContrastive), function(Ctc)

if not TYPE_CHECKING:       # it knows which names there are
    def __getattr__(name: str):
        raise losses.unknown(__name__, name)
