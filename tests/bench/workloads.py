"""The workloads: a model each, its batch size, its data and its initial weights, the same for everyone who runs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from engine.nn import Chain

Arrays = dict[str, np.ndarray]
Layer = dict[str, Any]


@dataclass(frozen=True)
class Workload:
    """`layers` are those of a job's model, in its words; softmax cross-entropy; Adam at 0.001.

    `columns` makes so many rows from random numbers: the target `y` (classes, one for each row or for each place) and the inputs, `x` alone or
    several by name. Enough rows that the first 100 steps see few of them twice: memorised noise would make losses differ by rounding alone.
    """

    name: str
    layers: tuple[Layer, ...]
    columns: Callable[[np.random.Generator, int], Arrays]
    batch: int
    rows: int
    steps: int      # steps per measurement, a few tenths of a second
    agreement: float = 1e-3     # losses may differ by this share; more where everyone drops other numbers

    def save(self, folder: Path) -> Path:
        """A file of the columns and of the initial weights, which are told by path: "layers.0.weight" [in, out]."""
        columns = self.columns(np.random.default_rng(7), self.rows)
        shapes = {name: column.shape[1:] for name, column in columns.items() if name != "y"}
        model = Chain(list(self.layers)).build(shapes["x"] if list(shapes) == ["x"] else shapes, seed=7)
        path = folder / f"{self.name}.npz"
        np.savez(path, **columns, **model.parameters)
        return path


def load(path: Path) -> tuple[Arrays, Arrays]:
    """Columns and weights of a workload's file."""
    data = dict(np.load(path))
    weights = {name: data.pop(name) for name in list(data) if name.startswith("layers.")}
    return data, weights


def dense(*units: int) -> tuple[Layer, ...]:
    """Dense layers with relu between them."""
    return tuple({"kind": "dense", "units": n, "activation": "relu" if i < len(units) - 1 else "identity"} for i, n in enumerate(units))


def numbers(classes: int, *shape: int) -> Callable[[np.random.Generator, int], Arrays]:
    """Normal numbers, and classes that have nothing to do with them."""
    return lambda rng, rows: {"x": rng.standard_normal((rows, *shape)).astype(np.float32), "y": rng.integers(0, classes, rows).astype(np.int32)}


def convolution(filters: int) -> tuple[Layer, ...]:
    """A convolution that keeps height and width, relu, and the greatest of every two by two."""
    return ({"kind": "conv", "filters": filters, "kernel_size": 3, "padding": "same", "activation": "relu"}, {"kind": "max_pool", "pool_size": 2})


def characters(number: int, length: int) -> Callable[[np.random.Generator, int], Arrays]:
    """Windows of random characters, told by their numbers, and the characters that follow each; the last of all is number 0."""
    def made(rng: np.random.Generator, rows: int) -> Arrays:
        codes = np.append(rng.integers(0, number, rows * length), 0).astype(np.int32)
        return {"x": codes[:-1].reshape(rows, length), "y": codes[1:].reshape(rows, length)}

    return made


def waves(places: int, features: int) -> np.ndarray:
    """What positional_encoding adds, for those who have none."""
    angles = np.arange(places)[:, None] / 10000.0 ** (np.arange(features) // 2 * 2 / features)
    return np.where(np.arange(features) % 2, np.cos(angles), np.sin(angles)).astype(np.float32)


CATEGORIES = {f"category{i}": classes for i, classes in enumerate((9, 16, 7, 15, 6, 5, 2, 42))}     # classes of each, as in the adult data


def tabular(rng: np.random.Generator, rows: int) -> Arrays:
    """Six numbers, eight categories, two classes."""
    return {**numbers(2, 6)(rng, rows), **{name: rng.integers(0, n, rows).astype(np.int32) for name, n in CATEGORIES.items()}}


def joined() -> Layer:
    """The numbers beside a vector for each category, about half as long as there are classes."""
    vectors = {name: {"kind": "chain", "layers": [{"kind": "embedding", "vocabulary": n, "units": (n + 1) // 2}, {"kind": "flatten"}]}
               for name, n in CATEGORIES.items()}
    return {"kind": "parallel", "layers": {"x": {"kind": "flatten"}, **vectors}, "connection": "concat"}


def hidden(units: int) -> tuple[Layer, ...]:
    return ({"kind": "dense", "units": units}, {"kind": "batch_norm", "activation": "relu"}, {"kind": "dropout", "rate": 0.2})


def around(*layers: Layer) -> Layer:
    """A way around normalised layers."""
    return {"kind": "skip_connection", "layer": {"kind": "chain", "layers": [{"kind": "layer_norm"}, *layers]}}


TRANSFORMER = ({"kind": "embedding", "vocabulary": 65, "units": 64}, {"kind": "positional_encoding"},
               around({"kind": "multi_head_attention", "heads": 4, "causal": True}),
               around({"kind": "dense", "units": 256, "activation": "gelu"}, {"kind": "dense", "units": 64}), {"kind": "layer_norm"}, *dense(65))

WORKLOADS = {w.name: w for w in (
    Workload("W1", dense(32, 3), numbers(3, 16), 32, 32 * 64, 20_000),
    Workload("W2", dense(128, 10), numbers(10, 64), 32, 32 * 64, 8_000),
    Workload("W3", dense(128, 10), numbers(10, 784), 64, 64 * 64, 1_000),
    Workload("W4", dense(512, 512, 10), numbers(10, 784), 128, 128 * 104, 104),
    Workload("W5", (*convolution(16), *convolution(32), {"kind": "flatten"}, *dense(10)), numbers(10, 28, 28, 1), 64, 64 * 104, 52),
    Workload("W6", ({"kind": "embedding", "vocabulary": 65, "units": 128}, {"kind": "gru", "units": 128, "return_sequences": True}, *dense(65)),
             characters(65, 64), 32, 32 * 104, 26),
    Workload("W7", (joined(), *hidden(128), *hidden(64), *dense(2)), tabular, 128, 128 * 104, 1_040, agreement=0.03),
    Workload("W8", TRANSFORMER, characters(65, 64), 16, 16 * 104, 52),
    Workload("W9", dense(100, 10), numbers(10, 64), 200, 1600, 4_000),
)}

WIDE = {f"{name} at 1024": replace(WORKLOADS[name], name=f"{name} at 1024", batch=1024, rows=1024 * 104, steps=104) for name in ("W4", "W5")}
ON_GPU = {**{name: workload for name, workload in WORKLOADS.items() if name != "W9"}, **WIDE}
EVERY = {**WORKLOADS, **WIDE}
