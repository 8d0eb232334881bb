"""Flux's numbers about pooling, padding, upsampling and the small layers. Axes lie as in the file; a batch and a channel axis of 1 are added."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from engine.autodiff.api import gradient
from engine.core import lift
from engine.nn import (
    AdaptiveMaxPool,
    Bilinear,
    Chain,
    EmbeddingBag,
    GlobalMeanPool,
    Lambda,
    Layer,
    Maxout,
    MaxPool,
    MeanPool,
    Pad,
    PairwiseFusion,
    Parallel,
    Upsample,
)
from engine.nn.spatial import around
from engine.ops import mean_pool
from tests.engine.flux_oracles import array, runs


def through(layer: Layer, x: np.ndarray) -> np.ndarray:
    """What a layer makes of an array without batch and channel axes."""
    return layer.build((*x.shape, 1), dtype="float64")(x[None, ..., None])[0, ..., 0]


def counted(size: list[int]) -> np.ndarray:
    """1, 2, 3, ... in Julia's order."""
    return np.arange(1.0, math.prod(size) + 1).reshape(size, order="F")


@runs("pooling")
def pooled(name: str, inputs: dict[str, Any]) -> np.ndarray:
    x = counted([5] if "1d" in name else [5, 4])
    kind = MaxPool if name.startswith("max") else MeanPool
    layer = kind(inputs["window"], stride=inputs["stride"], padding=inputs["pad"])
    if "dx" not in name:
        return through(layer, x)
    model = layer.build((*x.shape, 1), dtype="float64")
    return gradient(lambda v: (model(v) ** 2).sum() / 2, x[None, ..., None])[0][0, ..., 0]     # dy = y


@runs("pooling", "lpnormpool")
def norms(name: str, inputs: dict[str, Any]) -> np.ndarray:
    powers = lift(array(inputs["x"])[None, :, None]) ** inputs["p"]
    sums = mean_pool(powers, window=(inputs["window"],), stride=(inputs["stride"],)) * inputs["window"]
    return (sums ** (1 / inputs["p"])).numpy()[0, :, 0]


@runs("upsample")
def upsampled(name: str, inputs: dict[str, Any]) -> np.ndarray:
    return through(Upsample(inputs["scale"], "nearest" if "nearest" in name else "linear"), array(inputs["x"]))


@runs("padding")
def padded(name: str, inputs: dict[str, Any]) -> np.ndarray:
    if "symmetric" in name:
        return through(Pad([1, 2, 1, 2], "symmetric"), array(inputs["x"]))
    return through(Pad([1, 2, 3, 4], "repeat"), array(inputs["x"]))[0]


@runs("layers", "PairwiseFusion")
def fused(name: str, inputs: dict[str, Any]) -> dict[str, Any]:
    x = [np.full((1, 1), v) for v in np.atleast_1d(inputs["x"])]
    layer = PairwiseFusion(Lambda("x + 1"), Lambda("x + 2"), Lambda("x ** 3"), connection="concat")
    found = [y[0] for y in layer.build((1,) if len(x) == 1 else [(1,)] * len(x))(*x)]
    return {"y1": found[0].item(), "y2": found[1], "y3": found[2]}


@runs("layers", "Maxout")
def greatest(name: str, inputs: dict[str, Any]) -> np.ndarray:
    branches = [Chain(Lambda(f"concat(x * {a}, x * {b}, axis=1)")) for a, b in ((0.5, 0.1), (0.2, 0.7))]
    return Maxout(*branches).build((1,), dtype="float64")(array(inputs["x"]).T).T


@runs("layers", "EmbeddingBag")
def bags(name: str, inputs: dict[str, Any]) -> np.ndarray:
    starts = [at - 1 for at in inputs["at"]]
    found = np.split(np.array(inputs["data"]), starts[1:])
    even = np.array([np.pad(bag, (0, max(map(len, found)) - len(bag))) for bag in found])      # row 0 of the table is padding
    weight = np.vstack([np.ones((1, 3)), 100 * np.eye(15, 3)])
    return EmbeddingBag(16, 3, padding_index=0, init={"kind": "values", "values": weight.tolist()}).build(even.shape[1:])(even).T


@runs("layers", "activations")
def one_after_the_other(name: str, inputs: dict[str, Any]) -> list[float]:
    steps = [Lambda(formula) for formula in ("x + 1", "x * 2", "x ** 3")]
    return [Chain(steps[:n]).build((1,))(np.array([[inputs["x"]]])).item() for n in (1, 2, 3)]


@runs("layers", "Parallel(+, sin")
def side_by_side(name: str, inputs: dict[str, Any]) -> float:
    return Parallel([Lambda("sin(x)"), Lambda("cos(x)")]).build((1,), dtype="float64")(np.array([[np.pi / 2]])).item()


@runs("shapes", "AdaptiveMaxPool", "GlobalMeanPool", "MaxPool", "Bilinear")
def shapes(name: str, inputs: dict[str, Any]) -> list[int]:
    layer = {"Adapt": AdaptiveMaxPool(2), "Globa": GlobalMeanPool(), "MaxPo": MaxPool([5], stride=3, padding=2), "Bilin": Bilinear(7)}[name[:5]]
    *size, batch = inputs["input_size"]
    return [*layer.build(size)(np.zeros((batch, *size))).shape[1:], batch]


@runs("shapes", "SamePad")
def same(name: str, inputs: dict[str, Any]) -> list[list[int]]:
    return [[side[0] for side in around("same", [k])] for k in inputs["k"]]
