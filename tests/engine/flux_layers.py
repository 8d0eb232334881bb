"""Our values for Flux's numbers about normalising layers and attention. Julia's axes are (..., features, batch)."""

from typing import Any

import numpy as np

from engine.autodiff.api import gradient, withgradient
from engine.core import apply, lift
from engine.nn import AlphaDropout, BatchNorm, GroupNorm, InstanceNorm, Layer, LayerNorm
from tests.engine.flux_oracles import array, runs


def trained(layer: Layer, x: np.ndarray) -> tuple[Any, np.ndarray]:
    """The model after one pass in training, and what it gave."""
    model = layer.build(x.shape[1:], dtype="float64")
    return model, withgradient(lambda m, x: ((y := m(x)).sum(), y), model, x)[0][1]


@runs("norm", "BatchNorm(2) training forward")
def batch_norm(name: str, inputs: dict[str, Any]) -> np.ndarray:
    return trained(BatchNorm(epsilon=inputs["eps"]), array(inputs["x"]).T)[1].T


@runs("norm", "BatchNorm running mean")
def running_mean(name: str, inputs: dict[str, Any]) -> np.ndarray:
    return trained(BatchNorm(), array(inputs["x"]).T)[0].buffers["mean"]


@runs("norm", "InstanceNorm running var")
def running_variance(name: str, inputs: dict[str, Any]) -> np.ndarray:
    return trained(InstanceNorm(momentum=0.1), np.arange(1.0, 13.0).reshape(2, 2, 3).transpose(0, 2, 1))[0].buffers["variance"]


@runs("norm", "GroupNorm(4,2) forward")
def group_norm(name: str, inputs: dict[str, Any]) -> np.ndarray:
    return GroupNorm(groups=2).build((3, 4), dtype="float64")(np.arange(1.0, 25.0).reshape(2, 4, 3).transpose(0, 2, 1)).transpose(1, 2, 0)


@runs("norm", "trainable counts")
def counts(name: str, inputs: dict[str, Any]) -> list[int]:
    kinds = (BatchNorm(), BatchNorm(affine=False), InstanceNorm(), InstanceNorm(affine=True), LayerNorm())
    return [len(layer.build((5, 10)).parameters) for layer in kinds]


@runs("norm", "AlphaDropout constants")
def alpha_dropout(name: str, inputs: dict[str, Any]) -> tuple[float, float]:
    layer = AlphaDropout(inputs["p"])
    assert np.array_equal(gradient(lambda m, x: m(x).sum(), AlphaDropout(0.0).build((3,)), np.ones((2, 3)))[1], np.ones((2, 3)))
    return layer.correction()


def attention_weights(q: np.ndarray, k: np.ndarray, heads: int, **options: Any) -> np.ndarray:
    """The weights [batch, queries, heads, keys], which are what attention makes of unit vectors as values."""
    batch, keys = k.shape[:2]
    units = np.tile(np.eye(keys), (batch, 1, heads))
    return lift(apply("attention", q, k, units, heads=heads, **options)).numpy().reshape(batch, q.shape[1], heads, keys)


@runs("attention", "dot_product_attention scores")
def attention_scores(name: str, inputs: dict[str, Any]) -> np.ndarray:
    x = np.arange(1.0, 13.0).reshape(1, 3, 4) / 12
    return attention_weights(x, x, inputs["nheads"])[0].transpose(2, 0, 1)


@runs("attention", "make_causal_mask")
def causal_mask(name: str, inputs: dict[str, Any]) -> np.ndarray:
    x = np.ones((1, inputs["len"], 1))
    return np.sign(attention_weights(x, x, 1, causal=True)[0, :, 0].T)
