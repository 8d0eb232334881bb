"""The workload in JAX: a whole stretch of steps in one `scan`, compiled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

import jax
import jax.numpy as jnp

from tests.bench.workloads import Arrays, Layer, Workload, waves


def conv(layer: Layer, x: Any, weight: Any, bias: Any) -> Any:
    return jax.lax.conv_general_dilated(x, weight, (1, 1), layer["padding"].upper(), dimension_numbers=("NHWC", "HWIO", "NHWC")) + bias


def max_pool(layer: Layer, x: Any) -> Any:
    window = (1, layer["pool_size"], layer["pool_size"], 1)
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, window, "VALID")


def gru(layer: Layer, x: Any, weight: Any, recurrent_weight: Any, bias: Any) -> Any:
    """The states after each step."""
    def step(h: Any, sums: Any) -> Any:
        (x_r, x_z, x_c), (h_r, h_z, h_c) = jnp.split(sums, 3, -1), jnp.split(h @ recurrent_weight, 3, -1)
        r, z = jax.nn.sigmoid(x_r + h_r), jax.nn.sigmoid(x_z + h_z)
        c = jnp.tanh(x_c + r * h_c)
        h = c + z * (h - c)
        return h, h

    states = jax.lax.scan(step, jnp.zeros((len(x), layer["units"])), jnp.swapaxes(x @ weight + bias, 0, 1))[1]
    return jnp.swapaxes(states, 0, 1)


def layer_norm(layer: Layer, x: Any, weight: Any, bias: Any) -> Any:
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(variance + 1e-5) * weight + bias


def attention(layer: Layer, x: Any, query: Any, key: Any, value: Any, out: Any) -> Any:
    """Causal attention; queries, keys and values from one product."""
    batch, places, features = x.shape
    q, k, v = jnp.split((x @ jnp.concatenate([query, key, value], 1)).reshape(batch, places, 3 * layer["heads"], -1), 3, 2)
    return jax.nn.dot_product_attention(q, k, v, is_causal=True).reshape(batch, places, features) @ out


@dataclass
class Step:
    """What one step of training draws from, and the running statistics before and after it, by path."""

    key: Any
    buffers: dict[str, Any]
    assigned: dict[str, Any] = field(default_factory=dict)


def batch_norm(step: Step, path: str, layer: Layer, x: Any, weight: Any, bias: Any) -> Any:
    mean, variance = x.mean(0), x.var(0)
    for name, new in (("mean", mean), ("variance", variance * (len(x) / (len(x) - 1)))):
        step.assigned[f"{path}.{name}"] = 0.9 * step.buffers[f"{path}.{name}"] + 0.1 * jax.lax.stop_gradient(new)
    return (x - mean) * jax.lax.rsqrt(variance + 1e-5) * weight + bias


def dropout(step: Step, path: str, layer: Layer, x: Any) -> Any:
    keep = jax.random.bernoulli(jax.random.fold_in(step.key, crc32(path.encode())), 1 - layer["rate"], x.shape)
    return jnp.where(keep, x / (1 - layer["rate"]), 0)


STEPWISE = {"batch_norm": batch_norm, "dropout": dropout}
LAYERS: dict[str, Callable[..., Any]] = {
    "dense": lambda layer, x, weight, bias: x @ weight + bias, "conv": conv, "flatten": lambda layer, x: x.reshape(len(x), -1), "max_pool": max_pool,
    "embedding": lambda layer, x, weight: weight[x], "layer_norm": layer_norm, "multi_head_attention": attention,
    "gru": gru, "positional_encoding": lambda layer, x: x + waves(*x.shape[1:])}
ACTIVATIONS = {"relu": jax.nn.relu, "gelu": jax.nn.gelu}


def run_layer(step: Step, layer: Layer, path: str, weights: dict[str, Any], x: Any) -> Any:
    """What one layer of a job makes of `x`."""
    if layer["kind"] == "chain":
        for i, one in enumerate(layer["layers"]):
            x = run_layer(step, one, f"{path or 'layers'}.{i}", weights, x)
        return x
    if layer["kind"] == "skip_connection":
        return x + run_layer(step, layer["layer"], f"{path}.layer", weights, x)
    if layer["kind"] == "parallel":
        return jnp.concatenate([run_layer(step, one, f"{path}.{name}", weights, x[name]) for name, one in layer["layers"].items()], 1)
    own = {name.removeprefix(path + "."): array for name, array in weights.items() if name.startswith(path + ".")}
    y = STEPWISE[layer["kind"]](step, path, layer, x, **own) if layer["kind"] in STEPWISE else LAYERS[layer["kind"]](layer, x, **own)
    return ACTIVATIONS.get(layer.get("activation", ""), lambda y: y)(y)


def prepare(workload: Workload, columns: Arrays, weights: Arrays, threads: int, mode: str) -> Callable[[int], float]:
    """A function that trains so many more steps and returns the mean loss of the last 20."""
    if mode == "cuda" and jax.default_backend() != "gpu":
        raise SystemExit("JAX sees no GPU")
    batch, batches = workload.batch, len(columns["y"]) // workload.batch
    data, parameters = jax.tree.map(jnp.asarray, columns), jax.tree.map(jnp.asarray, weights)
    zeros = jax.tree.map(jnp.zeros_like, parameters)
    buffers = {f"layers.{i}.{name}": jnp.full(parameters[f"layers.{i}.bias"].shape, start) for i, layer in enumerate(workload.layers)
               if layer["kind"] == "batch_norm" for name, start in (("mean", 0.0), ("variance", 1.0))}
    first = jax.random.key(0, impl="rbg")    # the fastest here
    model = {"kind": "chain", "layers": workload.layers}

    def loss_of(parameters, buffers, key, rows, labels):
        now = Step(key, buffers)
        scores = run_layer(now, model, "", parameters, rows["x"] if list(rows) == ["x"] else rows)
        return -jnp.take_along_axis(jax.nn.log_softmax(scores), labels[..., None], axis=-1).mean(), now.assigned

    def step(carry, k):
        parameters, m, v, buffers = carry
        rows = {name: jax.lax.dynamic_slice_in_dim(column, (k % batches) * batch, batch) for name, column in data.items()}
        labels = rows.pop("y")
        (loss, buffers), gradients = jax.value_and_grad(loss_of, has_aux=True)(parameters, buffers, jax.random.fold_in(first, k), rows, labels)
        t = (k + 1).astype(jnp.float32)
        m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, gradients)
        v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, gradients)
        move = lambda p, m, v: p - 0.001 * (m / (1 - 0.9 ** t)) / (jnp.sqrt(v / (1 - 0.999 ** t)) + 1e-8)  # noqa: E731
        return (jax.tree.map(move, parameters, m, v), m, v, buffers), loss

    run = jax.jit(lambda carry, ks: jax.lax.scan(step, carry, ks))
    state = [(parameters, zeros, zeros, buffers), 0]

    def train(steps: int) -> float:
        carry, losses = run(state[0], jnp.arange(state[1], state[1] + steps))
        state[0], state[1] = carry, state[1] + steps
        return float(losses[-20:].mean())

    return train
