"""The workload in PyTorch: plain Adam; fused Adam, with images in its faster layout; or that and everything compiled. On a GPU the last two, and
whole steps replayed as a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from tests.bench.workloads import Arrays, Layer, Workload, waves


class Flatten(nn.Module):
    """All axes after the batch axis as one, channels last as with us."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x.permute(0, *range(2, x.ndim), 1) if x.ndim > 3 else x).flatten(1)


class Gru(nn.Module):
    """The states after each step; of the two biases that PyTorch adds up, one."""

    def __init__(self, layer: Layer, weight: np.ndarray, recurrent_weight: np.ndarray, bias: np.ndarray):
        super().__init__()
        self.gru = nn.GRU(len(weight), layer["units"], batch_first=True)
        arrays = {"weight_ih_l0": weight.T, "weight_hh_l0": recurrent_weight.T, "bias_ih_l0": bias, "bias_hh_l0": np.zeros_like(bias)}
        self.gru.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in arrays.items()})
        self.gru.bias_hh_l0.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.gru(x)[0]


def dense(layer: Layer, weight: np.ndarray, bias: np.ndarray) -> nn.Module:
    return given(nn.Linear(*weight.shape), weight.T, bias)


def conv(layer: Layer, weight: np.ndarray, bias: np.ndarray) -> nn.Module:
    height, width, channels, filters = weight.shape
    return given(nn.Conv2d(channels, filters, (height, width), padding=layer["padding"]), weight.transpose(3, 2, 0, 1), bias)


class Attention(nn.Module):
    """Causal attention; queries, keys and values from one product."""

    def __init__(self, layer: Layer, query: np.ndarray, key: np.ndarray, value: np.ndarray, out: np.ndarray):
        super().__init__()
        self.heads = layer["heads"]
        self.apart = given(nn.Linear(len(query), 3 * len(query), bias=False), np.concatenate([query, key, value], 1).T)
        self.together = given(nn.Linear(*out.shape, bias=False), out.T)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in self.apart(x).chunk(3, 2))
        return self.together(nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))


class Around(nn.Module):
    def __init__(self, inside: nn.Module):
        super().__init__()
        self.inside = inside

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.inside(x)


class Positions(nn.Module):
    waves = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.waves is None:
            self.waves = torch.from_numpy(waves(*x.shape[1:])).to(x.device)
        return x + self.waves


class Joined(nn.Module):
    """Named inputs, each through its own layer, side by side."""

    def __init__(self, branches: dict[str, nn.Module]):
        super().__init__()
        self.branches = nn.ModuleDict({f"input_{name}": branch for name, branch in branches.items()})

    def forward(self, x: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.cat([branch(x[name.removeprefix("input_")]) for name, branch in self.branches.items()], 1)


def given(module: nn.Module, weight: np.ndarray, bias: np.ndarray | None = None) -> nn.Module:
    module.weight.data = torch.from_numpy(weight.copy())
    if bias is not None:
        module.bias.data = torch.from_numpy(bias.copy())
    return module


LAYERS: dict[str, Callable[..., nn.Module]] = {
    "dense": dense, "conv": conv, "flatten": lambda layer: Flatten(), "max_pool": lambda layer: nn.MaxPool2d(layer["pool_size"]),
    "embedding": lambda layer, weight: given(nn.Embedding(*weight.shape), weight), "positional_encoding": lambda layer: Positions(),
    "layer_norm": lambda layer, weight, bias: given(nn.LayerNorm(len(weight)), weight, bias), "multi_head_attention": Attention,
    "batch_norm": lambda layer, weight, bias: given(nn.BatchNorm1d(len(weight)), weight, bias),
    "dropout": lambda layer: nn.Dropout(layer["rate"]), "gru": Gru}
ACTIVATIONS = {"relu": nn.ReLU, "gelu": lambda: nn.GELU("tanh")}


def module_of(layer: Layer, path: str, weights: Arrays) -> nn.Module:
    """One layer of a job as a module with the same weights."""
    if layer["kind"] == "chain":
        inside = (path or "layers") + "."
        return nn.Sequential(*(module_of(one, f"{inside}{i}", weights) for i, one in enumerate(layer["layers"])))
    if layer["kind"] == "skip_connection":
        return Around(module_of(layer["layer"], f"{path}.layer", weights))
    if layer["kind"] == "parallel":
        return Joined({name: module_of(one, f"{path}.{name}", weights) for name, one in layer["layers"].items()})
    own = {name.removeprefix(path + "."): array for name, array in weights.items() if name.startswith(path + ".")}
    module, activation = LAYERS[layer["kind"]](layer, **own), ACTIVATIONS.get(layer.get("activation", ""))
    return nn.Sequential(module, activation()) if activation else module


def prepare(workload: Workload, columns: Arrays, weights: Arrays, threads: int, mode: str) -> Callable[[int], float]:
    """A function that trains so many more steps and returns the mean loss of the last 20."""
    torch.set_num_threads(threads)
    device = "cuda" if mode.startswith("cuda") else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("PyTorch sees no GPU")
    model = module_of({"kind": "chain", "layers": workload.layers}, "", weights)
    layout = torch.contiguous_format if mode == "default" else torch.channels_last
    model = model.to(device, memory_format=layout)  # type: ignore[call-overload]
    y = torch.from_numpy(columns["y"].astype(np.int64)).to(device)
    inputs = {name: torch.from_numpy(column).to(device) for name, column in columns.items() if name != "y"}
    inputs |= {name: column.permute(0, 3, 1, 2).contiguous(memory_format=layout) for name, column in inputs.items() if column.ndim == 4}
    optimiser = torch.optim.Adam(model.parameters(), lr=0.001, fused=mode != "default", capturable=device == "cuda")
    loss_of = nn.CrossEntropyLoss()

    def forward(rows: dict[str, torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
        return loss_of(model(rows["x"] if list(rows) == ["x"] else rows).flatten(0, -2), labels.flatten())

    forward = torch.compile(forward) if mode.endswith("compile") else forward
    batches = len(y) // workload.batch
    if mode == "cuda graph":
        return graphed(inputs, y, workload.batch, forward, optimiser)
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


def graphed(inputs: dict[str, torch.Tensor], y: torch.Tensor, batch: int, forward: Callable[..., torch.Tensor],
            optimiser: torch.optim.Optimizer) -> Callable[[int], float]:
    """The same with a step as one graph, whose batch is copied to where the graph reads it."""
    rows, labels, batches = {name: column[:batch].clone() for name, column in inputs.items()}, y[:batch].clone(), len(y) // batch
    done, graph = 0, torch.cuda.CUDAGraph()

    def fill() -> None:
        part = slice(done % batches * batch, (done % batches + 1) * batch)
        labels.copy_(y[part])
        for name, column in inputs.items():
            rows[name].copy_(column[part])

    def step() -> torch.Tensor:
        optimiser.zero_grad(set_to_none=True)
        loss = forward(rows, labels)
        loss.backward()
        optimiser.step()
        return loss

    beside, kept = torch.cuda.Stream(), []
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):     # the first steps make what a graph cannot
        for _ in range(3):
            fill()
            kept.append(step().detach().clone())
            done += 1
    torch.cuda.current_stream().wait_stream(beside)
    with torch.cuda.graph(graph):
        recorded = step()

    def train(steps: int) -> float:
        nonlocal done
        losses, begun = list(kept), len(kept)
        kept.clear()
        for _ in range(steps - begun):
            fill()
            graph.replay()
            done += 1
            losses = [*losses[-19:], recorded.detach().clone()]
        return float(torch.stack(losses[-20:]).mean())

    return train
