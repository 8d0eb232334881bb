"""Flux's numbers about convolution. Axes lie as in the file; batch and channel axes of 1 are added where the file leaves them out."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from engine.autodiff.api import gradient
from engine.nn import Chain, Conv, ConvTranspose, DepthwiseConv, Layer, SkipConnection, output_size
from engine.nn.initialisers import Identity
from tests.engine.flux_oracles import array, runs
from tests.engine.flux_pooling import counted, through

ONES = np.ones((28, 28))
WINDOW = Conv(1, 3, padding=[0, 1, 1, 2], activation="relu", flip_kernel=True, init="ones")


@runs("conv")
def convolved(name: str, inputs: dict[str, Any]) -> np.ndarray:
    """`y`, or for dy = y the gradients `dx` and `dw`."""
    x, w = (counted([int(n) for n in re.findall(r"\d+", inputs[key].partition("[")[2].partition("]")[0])]) for key in ("x", "w"))
    options = inputs["kwargs"]
    layer = Conv(1, list(w.shape), stride=options.get("stride", 1), padding=options.get("pad", 0), dilation=options.get("dilation", 1), bias=False,
                 flip_kernel=not options.get("flipkernel"), init={"kind": "values", "values": w[..., None, None].tolist()})
    if " y" in name:
        return through(layer, x)
    model = layer.build((*x.shape, 1), dtype="float64")
    m, dx = gradient(lambda m, v: (m(v) ** 2).sum() / 2, model, x[None, ..., None])
    return dx[0, ..., 0] if " dx" in name else m["weight"][..., 0, 0]


@runs("conv", "Conv((3,3),1=>1")
def size(name: str, inputs: dict[str, Any]) -> list[int]:
    return list(output_size(WINDOW, (28, 28, 1))[:2])


@runs("conv", "  …same, entries")
def corners(name: str, inputs: dict[str, Any]) -> list[float]:
    y = through(WINDOW, ONES)
    return [y[at] for at in ((0, 0), (1, 1), (-1, 0), (0, -1), (0, -2), (-1, -1))]


@runs("conv", "Conv(w) == CrossCor")
def flipped(name: str, inputs: dict[str, Any]) -> bool:
    w, x = np.random.default_rng(0).normal(size=(2, 2, 1, 1)), counted([4, 5])
    plain, turned = (Conv(1, 2, flip_kernel=flip, init={"kind": "values", "values": values.tolist()}) for flip, values in
                     ((True, w), (False, w[::-1, ::-1])))
    return np.array_equal(through(plain, x), through(turned, x))


@runs("conv", "identity_init")
def unchanged(name: str, inputs: dict[str, Any]) -> np.ndarray:
    return through(Conv(1, inputs["kernel"], padding="same", flip_kernel=True, init=Identity(gain=inputs["gain"])), array(inputs["x"]))


@runs("conv", "complex 1x1")
def complex_numbers(name: str, inputs: dict[str, Any]) -> list[float]:
    """(a + bi)(c + di), by a convolution of both parts."""
    x, w = array(inputs["x"]), array(inputs["w"])
    kernel = np.stack([np.stack([w[:, 0], w[:, 1]], -1), np.stack([-w[:, 1], w[:, 0]], -1)], 1).reshape(1, 1, 8, 2)
    layer = Conv(2, 1, bias=False, init={"kind": "values", "values": kernel.tolist()})
    return layer.build((1, 1, 8), dtype="float64")(x.reshape(1, 1, 1, 8))[0, 0, 0]


def layer_of(name: str) -> Layer:
    """The layer that an entry's name describes, as in `Conv5x5 3=>7 stride2 pad=(2,0)`."""
    kinds = {"Conv": Conv, "CrossCor": Conv, "ConvTranspose": ConvTranspose, "DepthwiseConv": DepthwiseConv}
    kind, kernel = re.match(r"([A-Za-z]+)(\d)x", name).groups()  # type: ignore[union-attr]
    numbers = {word: int(found[1]) for word in ("stride", "dilation", "pad") if (found := re.search(rf"{word}(\d)", name))}
    filters = re.search(r"=>(\d+)", name)
    pad = "same" if "SamePad" in name else [2, 0] if "pad=(2,0)" in name else numbers.get("pad", 0)
    out = int(filters[1]) if filters else 7 if kernel == "5" else 16
    return kinds[kind](out, int(kernel), numbers.get("stride", 1), pad, numbers.get("dilation", 1))


@runs("shapes", "Chain(Conv", "Conv3x3", "Conv5x5", "ConvTranspose", "CrossCor", "DepthwiseConv", "SkipConnection(Conv")
def shapes(name: str, inputs: dict[str, Any]) -> list[int]:
    *axes, batch = inputs["input_size"]
    if name.startswith("SkipConnection"):
        layer: Layer = SkipConnection(Conv(16, 3, padding=1), "concat")
    elif name.startswith("Chain"):
        layer = Chain(Conv(16, 3), Conv(32, 3))
    else:
        layer = layer_of(name)
    return [*output_size(layer, tuple(axes)), batch]


@runs("shapes", "Conv weight shape")
def weights(name: str, inputs: dict[str, Any]) -> list[int]:
    return list(Conv(25, 3, groups=inputs["groups"]).build((3, 3, 100)).parameters["weight"].shape)
