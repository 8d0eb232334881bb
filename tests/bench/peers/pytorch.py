"""The workload in PyTorch: plain Adam, fused Adam, or everything compiled."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def prepare(data: dict[str, np.ndarray], sizes: tuple[int, ...], batch: int, threads: int, mode: str) -> Callable[[int], float]:
    """A function that trains so many more steps and returns the mean loss of the last 20."""
    import torch
    from torch import nn

    torch.set_num_threads(threads)
    layers: list[nn.Module] = []
    for i in range(len(sizes) - 1):
        layer = nn.Linear(sizes[i], sizes[i + 1])
        layer.weight.data = torch.from_numpy(data[f"w{i}"].T.copy())
        layer.bias.data = torch.from_numpy(data[f"b{i}"].copy())
        layers += [layer, nn.ReLU()]
    model = nn.Sequential(*layers[:-1])
    x, y = torch.from_numpy(data["x"]), torch.from_numpy(data["y"].astype(np.int64))
    optimiser = torch.optim.Adam(model.parameters(), lr=0.001, fused=mode != "default")
    loss_of = nn.CrossEntropyLoss()

    def forward(rows: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return loss_of(model(rows), labels)

    forward = torch.compile(forward) if mode == "compile" else forward
    batches = len(x) // batch
    done = 0

    def train(steps: int) -> float:
        nonlocal done
        losses = []
        for _ in range(steps):
            k = done % batches
            optimiser.zero_grad(set_to_none=True)
            loss = forward(x[k * batch:(k + 1) * batch], y[k * batch:(k + 1) * batch])
            loss.backward()
            optimiser.step()
            done += 1
            losses = [*losses[-19:], loss.detach()]
        return float(torch.stack(losses).mean())

    return train
