"""The workload in PyTorch: plain Adam; fused Adam, with images in its faster layout; or that and everything compiled."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from tests.bench.workloads import Arrays, Layer, Workload


class Flatten(nn.Module):
    """All axes after the batch axis as one, channels last as with us."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x.permute(0, *range(2, x.ndim), 1) if x.ndim > 3 else x).flatten(1)


def dense(layer: Layer, weight: np.ndarray, bias: np.ndarray) -> nn.Module:
    return given(nn.Linear(*weight.shape), weight.T, bias)


def conv(layer: Layer, weight: np.ndarray, bias: np.ndarray) -> nn.Module:
    height, width, channels, filters = weight.shape
    return given(nn.Conv2d(channels, filters, (height, width), padding=layer["padding"]), weight.transpose(3, 2, 0, 1), bias)


def given(module: nn.Module, weight: np.ndarray, bias: np.ndarray) -> nn.Module:
    module.weight.data, module.bias.data = torch.from_numpy(weight.copy()), torch.from_numpy(bias.copy())
    return module


LAYERS: dict[str, Callable[..., nn.Module]] = {
    "dense": dense, "conv": conv, "flatten": lambda layer: Flatten(), "max_pool": lambda layer: nn.MaxPool2d(layer["pool_size"])}
ACTIVATIONS = {"relu": nn.ReLU}


def module_of(layer: Layer, path: str, weights: Arrays) -> nn.Module:
    """One layer of a job as a module with the same weights."""
    if layer["kind"] == "chain":
        inside = (path or "layers") + "."
        return nn.Sequential(*(module_of(one, f"{inside}{i}", weights) for i, one in enumerate(layer["layers"])))
    own = {name.removeprefix(path + "."): array for name, array in weights.items() if name.startswith(path + ".")}
    module, activation = LAYERS[layer["kind"]](layer, **own), ACTIVATIONS.get(layer.get("activation", ""))
    return nn.Sequential(module, activation()) if activation else module


def prepare(workload: Workload, columns: Arrays, weights: Arrays, threads: int, mode: str) -> Callable[[int], float]:
    """A function that trains so many more steps and returns the mean loss of the last 20."""
    torch.set_num_threads(threads)
    model = module_of({"kind": "chain", "layers": workload.layers}, "", weights)
    layout = torch.contiguous_format if mode == "default" else torch.channels_last
    model = model.to(memory_format=layout)  # type: ignore[call-overload]
    y = torch.from_numpy(columns["y"].astype(np.int64))
    inputs = {name: torch.from_numpy(column) for name, column in columns.items() if name != "y"}
    inputs |= {name: column.permute(0, 3, 1, 2).contiguous(memory_format=layout) for name, column in inputs.items() if column.ndim == 4}
    optimiser = torch.optim.Adam(model.parameters(), lr=0.001, fused=mode != "default")
    loss_of = nn.CrossEntropyLoss()

    def forward(rows: dict[str, torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
        return loss_of(model(rows["x"] if list(rows) == ["x"] else rows).flatten(0, -2), labels.flatten())

    forward = torch.compile(forward) if mode == "compile" else forward
    batches = len(y) // workload.batch
    done = 0

    def train(steps: int) -> float:
        nonlocal done
        losses = []
        for _ in range(steps):
            part = slice(done % batches * workload.batch, (done % batches + 1) * workload.batch)
            optimiser.zero_grad(set_to_none=True)
            loss = forward({name: column[part] for name, column in inputs.items()}, y[part])
            loss.backward()
            optimiser.step()
            done += 1
            losses = [*losses[-19:], loss.detach()]
        return float(torch.stack(losses).mean())

    return train
