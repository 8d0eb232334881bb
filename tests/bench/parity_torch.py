"""What PyTorch calls things: its function for each activation, layer, loss and rule, of parameters in our layout."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from engine import optim

P = Mapping[str, Any]

# ---------------------------------------------------------------- activations

ACTIVATIONS: dict[str, Callable[[Any, P], Any]] = {name: (lambda x, p, f=f: f(x)) for name, f in {
    "identity": lambda x: x, "relu": F.relu, "leaky_relu": F.leaky_relu, "relu6": F.relu6, "hard_tanh": F.hardtanh,
    "hard_sigmoid": lambda x: F.relu6(x + 3) / 6,     # the derivative of its own is 1/6 in float32 in float64 too
    "hard_swish": F.hardswish, "soft_shrink": F.softshrink, "sigmoid": torch.sigmoid, "log_sigmoid": F.logsigmoid, "softplus": F.softplus,
    "elu": F.elu, "celu": F.celu, "selu": F.selu, "swish": F.silu, "tanh": torch.tanh,
    "tanh_shrink": F.tanhshrink, "mish": F.mish, "softsign": F.softsign,
    "gelu": lambda x: F.gelu(x, approximate="tanh"), "gelu_erf": F.gelu, "trelu": lambda x: F.threshold(x, 1.0, 0.0),
    "softmax": lambda x: F.softmax(x, -1), "log_softmax": lambda x: F.log_softmax(x, -1)}.items()}

# ---------------------------------------------------------------- layers: spec, shape of a row, PyTorch's function


def first(x: Any) -> Any:
    """Channels brought before the axes in space."""
    return x.movedim(-1, 1)


def last(x: Any) -> Any:
    return x.movedim(1, -1)


def kernel(weight: Any) -> Any:
    """[k..., in, out] as [out, in, k...]."""
    return weight.movedim((-1, -2), (0, 1))


def conv(function: Any, **options: Any) -> Callable[[Any, P], Any]:
    return lambda x, p: last(function(first(x), kernel(p["weight"]), p["bias"], **options))


def spatial(function: Any, **options: Any) -> Callable[[Any, P], Any]:
    return lambda x, p: last(function(first(x), **options))


def recurrent(kind: Any, gates: int) -> Callable[[Any, P], Any]:
    """A layer of PyTorch's with our weights, its second bias at nought."""
    def run(x: Any, p: P) -> Any:
        inputs, units = p["weight"].shape[0], p["recurrent_weight"].shape[0]
        module = kind(inputs, units, batch_first=True, dtype=x.dtype)
        given = {"weight_ih_l0": p["weight"].T, "weight_hh_l0": p["recurrent_weight"].T, "bias_ih_l0": p["bias"],
                 "bias_hh_l0": torch.zeros(gates * units, dtype=x.dtype)}
        return functional_call(module, given, (x,))[0]

    return run


def attention(x: Any, p: P) -> Any:
    module = nn.MultiheadAttention(x.shape[-1], 2, bias=False, batch_first=True, dtype=x.dtype)
    given = {"in_proj_weight": torch.cat([p[name].T for name in ("query", "key", "value")]), "out_proj.weight": p["out"].T}
    mask = torch.triu(torch.ones(x.shape[1], x.shape[1], dtype=torch.bool), 1)
    return functional_call(module, given, (x, x, x), {"attn_mask": mask, "need_weights": False})[0]


LAYERS: dict[str, tuple[dict[str, Any], tuple[int, ...], Callable[[Any, P], Any]]] = {
    "dense": ({"kind": "dense", "units": 4}, (5,), lambda x, p: F.linear(x, p["weight"].T, p["bias"])),
    "bilinear": ({"kind": "bilinear", "units": 3}, (4,), lambda x, p: F.bilinear(x, x, p["weight"], p["bias"])),
    "embedding": ({"kind": "embedding", "vocabulary": 4, "units": 3}, (5,), lambda x, p: F.embedding(x, p["weight"])),
    "embedding_bag": ({"kind": "embedding_bag", "vocabulary": 4, "units": 3}, (5,), lambda x, p: F.embedding_bag(x, p["weight"], mode="mean")),
    "layer_norm": ({"kind": "layer_norm"}, (3, 6), lambda x, p: F.layer_norm(x, x.shape[-1:], p["weight"], p["bias"])),
    "batch_norm": ({"kind": "batch_norm"}, (4, 4, 3), lambda x, p: last(F.batch_norm(first(x), None, None, p["weight"], p["bias"], training=True))),
    "instance_norm": ({"kind": "instance_norm", "affine": True}, (4, 4, 3), lambda x, p: last(
        F.instance_norm(first(x), weight=p["weight"], bias=p["bias"]))),
    "group_norm": ({"kind": "group_norm", "groups": 2}, (4, 3, 6), lambda x, p: last(F.group_norm(first(x), 2, p["weight"], p["bias"]))),
    "conv of one axis": ({"kind": "conv", "filters": 3, "kernel_size": [3], "stride": 2, "padding": 1}, (9, 2), conv(F.conv1d, stride=2, padding=1)),
    "conv": ({"kind": "conv", "filters": 4, "kernel_size": 3}, (6, 5, 2), conv(F.conv2d)),
    "conv with groups and dilation": ({"kind": "conv", "filters": 4, "kernel_size": 3, "groups": 2, "dilation": 2, "padding": 2}, (7, 6, 4),
                                      conv(F.conv2d, groups=2, dilation=2, padding=2)),
    "conv of three axes": ({"kind": "conv", "filters": 2, "kernel_size": [2, 2, 2]}, (4, 3, 3, 2), conv(F.conv3d)),
    "conv_transpose": ({"kind": "conv_transpose", "filters": 3, "kernel_size": 3, "stride": 2}, (4, 3, 2), conv(F.conv_transpose2d, stride=2)),
    "depthwise_conv": ({"kind": "depthwise_conv", "filters": 4, "kernel_size": 3}, (5, 5, 2), conv(F.conv2d, groups=2)),
    "max_pool": ({"kind": "max_pool", "pool_size": 2}, (6, 5, 2), spatial(F.max_pool2d, kernel_size=2)),
    "mean_pool": ({"kind": "mean_pool", "pool_size": 3, "stride": 2, "padding": 1}, (7, 5, 2),
                  spatial(F.avg_pool2d, kernel_size=3, stride=2, padding=1)),
    "adaptive_max_pool": ({"kind": "adaptive_max_pool", "output_size": 2}, (6, 4, 2), spatial(F.adaptive_max_pool2d, output_size=2)),
    "adaptive_mean_pool": ({"kind": "adaptive_mean_pool", "output_size": 2}, (6, 4, 2), spatial(F.adaptive_avg_pool2d, output_size=2)),
    "global_max_pool": ({"kind": "global_max_pool"}, (5, 4, 2), spatial(F.adaptive_max_pool2d, output_size=1)),
    "global_mean_pool": ({"kind": "global_mean_pool"}, (5, 4, 2), spatial(F.adaptive_avg_pool2d, output_size=1)),
    "upsample": ({"kind": "upsample", "scale": 2}, (3, 4, 2), spatial(F.interpolate, scale_factor=2)),
    "upsample linear": ({"kind": "upsample", "scale": 2, "mode": "linear"}, (3, 4, 2),
                        spatial(F.interpolate, scale_factor=2, mode="bilinear", align_corners=True)),
    "pad": ({"kind": "pad", "amount": 1, "mode": "reflect"}, (4, 5, 2), spatial(F.pad, pad=(1, 1, 1, 1), mode="reflect")),
    "rnn": ({"kind": "rnn", "units": 3, "return_sequences": True}, (6, 4), recurrent(nn.RNN, 1)),
    "lstm": ({"kind": "lstm", "units": 3, "return_sequences": True}, (6, 4), recurrent(nn.LSTM, 4)),
    "gru": ({"kind": "gru", "units": 3, "return_sequences": True}, (6, 4), recurrent(nn.GRU, 3)),
    "multi_head_attention": ({"kind": "multi_head_attention", "heads": 2, "units": 6, "causal": True}, (5, 6), attention),
    "weight_norm": ({"kind": "weight_norm", "layer": {"kind": "dense", "units": 3}}, (4,), lambda x, p: F.linear(
        x, torch._weight_norm(p["layer.weight"].T, p["layer.gain"][:, None], 0), p["layer.bias"])),
    "flatten": ({"kind": "flatten"}, (3, 2), lambda x, p: x.flatten(1)),
}

# -------------------------------------------------- losses: our options, units and activation of the output, targets, PyTorch's function


def numbers(units: int, low: float = -1.0, high: float = 1.0) -> Callable[[np.random.Generator], np.ndarray]:
    return lambda rng: rng.uniform(low, high, (8, units))


def classes(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 3, 8)


def answers(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 2, (8, 1)).astype(float)


def shares(rng: np.random.Generator) -> np.ndarray:
    return rng.dirichlet(np.ones(3), 8)


def signs(rng: np.random.Generator) -> np.ndarray:
    return rng.choice([-1.0, 1.0], (8, 1))


def along_time(x: Any, y: Any) -> Any:
    """The rows of a batch as the times of one sequence."""
    times, labels = torch.tensor([8]), torch.tensor([2])
    return F.ctc_loss(x.log_softmax(-1)[:, None], y[None, :2], times, labels, blank=2, reduction="sum")


LOSSES: dict[str, tuple[dict[str, Any], int, str, Callable[[np.random.Generator], np.ndarray], Callable[[Any, Any], Any]]] = {
    "mse": ({}, 2, "identity", numbers(2), F.mse_loss), "mae": ({}, 2, "identity", numbers(2), F.l1_loss),
    "mse summed": ({"agg": "sum"}, 2, "identity", numbers(2), lambda p, y: F.mse_loss(p, y, reduction="sum")),
    "huber": ({"delta": 0.5}, 2, "identity", numbers(2), lambda p, y: F.huber_loss(p, y, delta=0.5)),
    "poisson": ({}, 2, "softplus", numbers(2, 0.0, 3.0), lambda p, y: F.poisson_nll_loss(p, y, log_input=False, eps=0.0)),
    "cross_entropy": ({"epsilon": 0.0}, 3, "softmax", classes, lambda p, y: F.nll_loss(p.log(), y)),
    "logit_cross_entropy": ({}, 3, "identity", classes, F.cross_entropy),
    "logit_cross_entropy of shares": ({}, 3, "identity", shares, F.cross_entropy),
    "logit_cross_entropy smoothed": ({"label_smoothing": 0.1}, 3, "identity", classes, lambda p, y: F.cross_entropy(p, y, label_smoothing=0.1)),
    "logit_cross_entropy weighted": ({"class_weights": [1.0, 2.0, 0.5]}, 3, "identity", classes, lambda p, y: F.cross_entropy(
        p, y, torch.tensor([1.0, 2.0, 0.5], dtype=p.dtype))),
    "binary_cross_entropy": ({"epsilon": 0.0}, 1, "sigmoid", answers, F.binary_cross_entropy),
    "logit_binary_cross_entropy": ({}, 1, "identity", answers, F.binary_cross_entropy_with_logits),
    "kl_divergence": ({"epsilon": 0.0}, 3, "softmax", shares, lambda p, y: F.kl_div(p.log(), y, reduction="batchmean")),
    "hinge": ({}, 1, "identity", signs, lambda p, y: F.relu(1 - p * y).mean()),
    "ctc": ({}, 3, "identity", lambda rng: np.array([0, 1]), along_time),
}

# ---------------------------------------------------------------- rules: ours, PyTorch's optimiser, what is done to gradients before it


def clipped(parameters: dict[str, Any]) -> None:
    nn.utils.clip_grad_value_(parameters.values(), 0.05)


def kept(parameters: dict[str, Any]) -> None:
    """Gradients as they are."""


O = torch.optim
RULES: dict[str, tuple[Any, Callable[[list[Any]], Any], Callable[[dict[str, Any]], None]]] = {name: (rule, make, kept) for name, (rule, make) in {
    "descent": (optim.Descent(0.1), lambda p: O.SGD(p, lr=0.1)),
    "momentum": (optim.Momentum(0.1, 0.9), lambda p: O.SGD(p, lr=0.1, momentum=0.9)),
    "nesterov": (optim.Nesterov(0.1, 0.9), lambda p: O.SGD(p, lr=0.1, momentum=0.9, nesterov=True)),
    "rmsprop": (optim.RMSProp(0.01, 0.9), lambda p: O.RMSprop(p, lr=0.01, alpha=0.9)),
    "rmsprop centred": (optim.RMSProp(0.01, 0.9, centred=True), lambda p: O.RMSprop(p, lr=0.01, alpha=0.9, centered=True)),
    "rprop": (optim.Rprop(0.01), lambda p: O.Rprop(p, lr=0.01)),
    "adam": (optim.Adam(0.01), lambda p: O.Adam(p, lr=0.01)),
    "adamw": (optim.AdamW(0.01, weight_decay=0.1), lambda p: O.AdamW(p, lr=0.01, weight_decay=0.1)),
    "adamax": (optim.AdaMax(0.01, epsilon=0.0), lambda p: O.Adamax(p, lr=0.01, eps=0.0)),
    "adagrad": (optim.AdaGrad(0.1), lambda p: O.Adagrad(p, lr=0.1, initial_accumulator_value=1e-8, eps=1e-8)),
    "adadelta": (optim.AdaDelta(0.9, 1e-6), lambda p: O.Adadelta(p, rho=0.9, eps=1e-6)),
    "weight_decay": (optim.Chain(optim.WeightDecay(0.1), optim.Momentum(0.1)), lambda p: O.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1)),
}.items()}
RULES["clip_grad"] = (optim.Chain(optim.ClipGrad(0.05), optim.Adam(0.01)), lambda p: O.Adam(p, lr=0.01), clipped)

NOT_THE_SAME = {
    "rule nadam": "PyTorch's momentum has a schedule of its own", "rule radam": "PyTorch takes its variance into account from rho > 5, Flux from 4",
    "rule amsgrad": "Flux's has no correction for the start", "rule muon": "PyTorch's rounds are in bfloat16",
    "clip_norm, clip_global_norm": "PyTorch adds 1e-6 to the norm", "ema": "PyTorch's average begins after the first step",
    "dropout, alpha_dropout": "other random numbers",
    "gru_v3": "PyTorch has the first version",
}
"""What has another formula, and why."""
