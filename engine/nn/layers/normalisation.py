"""Layers that keep activations in bounds. Running statistics are buffers: kept with the model, not trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field

from engine.core import Node, apply, constant, count
from engine.errors import ShapeError
from engine.nn.activation import ActivationField, activate, name_of
from engine.nn.initialisers import Init, Ones, Zeros
from engine.nn.layer import Layer, Scope, Size, layers, one, real


class _Normalisation(Layer):
    """What these layers have in common: a weight and a bias for each feature, an activation."""

    named_only: ClassVar[tuple[str, ...]] = (*Layer.named_only, "epsilon", "affine", "activation", "momentum")
    epsilon: float = Field(1e-5, gt=0)
    affine: bool = Field(True, description="whether there are a weight and a bias")
    activation: ActivationField = "identity"
    init: Init = Field(default=Ones())

    @classmethod
    def advice(cls, args: Sequence[Any]) -> str:
        return "the number of features is inferred"

    def _features(self, scope: Scope, x: tuple[Any, ...], rank: int, expected: str) -> Node:
        node = real(one(self.kind_name(), x), scope.dtype)
        if node.ndim < rank:
            raise ShapeError(f"{self.kind_name()} expects {expected}, found {list(node.shape)}")
        return node

    def _rows(self, scope: Scope, features: int) -> tuple[Node, Node]:
        width = (features,)
        return scope.parameter("weight", width, self.initial("weight", Ones())), scope.parameter("bias", width, self.initial("bias", Zeros()))

    def _finish(self, scope: Scope, y: Node) -> Node:
        if self.affine:
            weight, bias = self._rows(scope, y.shape[-1])
            y = y * weight + bias
        return activate(self.activation, y)

    def last_activation(self) -> str | None:
        return name_of(self.activation)


@layers.add
class LayerNorm(_Normalisation):
    """Each row's features brought to mean 0 and variance 1, then scaled and shifted (Ba et al., 2016)."""

    equation: ClassVar[str] = "activation((x - mean) / sqrt(variance + epsilon) * weight + bias), over the last axis"
    kind: Literal["layer_norm"] = "layer_norm"

    def forward(self, scope: Scope, *x: Any) -> Node:
        node = self._features(scope, x, 2, "rows of features [batch, features]")
        return self._finish(scope, apply("layer_norm", node, epsilon=self.epsilon))


@layers.add
class GroupNorm(_Normalisation):
    """The features in groups of neighbours, each brought to mean 0 and variance 1 in each row, then scaled and shifted (Wu and He, 2018)."""

    equation: ClassVar[str] = "activation((x - mean) / sqrt(variance + epsilon) * weight + bias), over a group of features and all axes before them"
    groups: Size = Field(description="how many groups; they divide the features")
    kind: Literal["group_norm"] = "group_norm"

    def forward(self, scope: Scope, *x: Any) -> Node:
        node = self._features(scope, x, 2, "rows of features [batch, ..., features]")
        if node.shape[-1] % self.groups:
            raise ShapeError(f"group_norm of {node.shape[-1]} features in {self.groups} groups: the groups must divide the features")
        return self._finish(scope, _within(node, self.groups, self.epsilon))


def _within(node: Node, groups: int, epsilon: float) -> Node:
    """Each group of features of each row, over all axes between, at mean 0 and variance 1."""
    batch, features = node.shape[0], node.shape[-1]
    apart = (batch, count(node.shape[1:-1]), groups, features // groups)
    turned = (batch, groups, apart[1], apart[3])
    rows = apply("transpose", node.reshape(apart), axes=(0, 2, 1, 3)).reshape(batch, groups, apart[1] * apart[3])
    y = apply("layer_norm", rows, epsilon=epsilon)
    return apply("transpose", y.reshape(turned), axes=(0, 2, 1, 3)).reshape(node.shape)


# ---------------------------------------------------------------- with running statistics

class _Running(_Normalisation):
    """Statistics of the batches seen in training, running means of which take their place in test mode."""

    def _buffers(self, scope: Scope, features: int) -> tuple[Node, Node]:
        return scope.buffer("mean", (features,), Zeros()), scope.buffer("variance", (features,), Ones())

    def _follow(self, scope: Scope, mean: Node, variance: Node, momentum: float, numbers: int) -> None:
        """Move the running statistics by the share `momentum` towards those of this batch, which are of so many numbers each; without bias."""
        if numbers < 2:
            raise ShapeError(f"{self.kind_name()} in training takes at least two numbers of each feature, found one, which has no variance; "
                             "take larger batches, and leave out a last one of one row with drop_last")
        running = self._buffers(scope, mean.size)
        for name, old, new in (("mean", running[0], mean), ("variance", running[1], variance * (numbers / (numbers - 1)))):
            scope.assign(name, old * (1 - momentum) + new * momentum)

    def _apart(self, scope: Scope, node: Node, moments: Node) -> Node:
        """The features by moments that are the same for every row."""
        ones, zeros = (apply("broadcast", constant(value, node.dtype), shape=node.shape[-1:]) for value in (1.0, 0.0))
        weight, bias = self._rows(scope, node.shape[-1]) if self.affine else (ones, zeros)
        return activate(self.activation, apply("batch_norm", node, moments, weight, bias, epsilon=self.epsilon))

    def _warn(self, scope: Scope, momentum: float) -> None:
        if momentum > 0.5:
            scope.warn("momentum", "large_momentum", f"momentum is the share of the new batch, and {momentum:g} all but forgets the others; "
                                                     f"where the share of what came before is meant, write {1 - momentum:g}")


@layers.add
class BatchNorm(_Running):
    """Each feature brought to mean 0 and variance 1 over the batch, then scaled and shifted (Ioffe and Szegedy, 2015).

    In training by the batch's own mean and variance, whose running means (variance without bias) serve in test mode.
    """

    equation: ClassVar[str] = "activation((x - mean) / sqrt(variance + epsilon) * weight + bias), over all axes but the last"
    aliases: ClassVar[tuple[str, ...]] = ("batch_normalisation", "batch_normalization")
    momentum: float = Field(0.1, ge=0, le=1, description="the share of the new batch in the running mean and variance")
    kind: Literal["batch_norm"] = "batch_norm"

    def forward(self, scope: Scope, *x: Any) -> Node:
        node = self._features(scope, x, 2, "rows of features [batch, ..., features]")
        self._warn(scope, self.momentum)
        if not scope.training:
            return self._apart(scope, node, apply("stack", *self._buffers(scope, node.shape[-1])))
        moments = apply("batch_moments", node)
        self._follow(scope, moments[0], moments[1], self.momentum, count(node.shape[:-1]))
        return self._apart(scope, node, moments)


@layers.add
class InstanceNorm(_Running):
    """Each feature of each row brought to mean 0 and variance 1 over the axes between (Ulyanov et al., 2016)."""

    equation: ClassVar[str] = "activation((x - mean) / sqrt(variance + epsilon) * weight + bias), over the axes between batch and features"
    affine: bool = Field(False, description="whether there are a weight and a bias")
    momentum: float | None = Field(None, ge=0, le=1, description="keeps running means over the rows for test mode, with this share of the new batch")
    kind: Literal["instance_norm"] = "instance_norm"

    def forward(self, scope: Scope, *x: Any) -> Node:
        node = self._features(scope, x, 3, "an axis between the batch and the features [batch, ..., features]")
        if self.momentum is not None:
            self._warn(scope, self.momentum)
            if not scope.training:
                return self._apart(scope, node, apply("stack", *self._buffers(scope, node.shape[-1])))
            places = node.reshape(node.shape[0], -1, node.shape[-1])
            self._follow(scope, places.mean((0, 1)), places.var(1).mean(0), self.momentum, places.shape[1])
        return self._finish(scope, _within(node, node.shape[-1], self.epsilon))
