"""The workload in JAX: a whole stretch of steps in one `scan`, compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from tests.bench.workloads import Arrays, Layer, Workload


def conv(layer: Layer, x: Any, weight: Any, bias: Any) -> Any:
    return jax.lax.conv_general_dilated(x, weight, (1, 1), layer["padding"].upper(), dimension_numbers=("NHWC", "HWIO", "NHWC")) + bias


def max_pool(layer: Layer, x: Any) -> Any:
    window = (1, layer["pool_size"], layer["pool_size"], 1)
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, window, "VALID")


LAYERS: dict[str, Callable[..., Any]] = {
    "dense": lambda layer, x, weight, bias: x @ weight + bias, "conv": conv, "flatten": lambda layer, x: x.reshape(len(x), -1), "max_pool": max_pool}
ACTIVATIONS = {"relu": jax.nn.relu}


def run_layer(layer: Layer, path: str, weights: dict[str, Any], x: Any) -> Any:
    """What one layer of a job makes of `x`."""
    if layer["kind"] == "chain":
        for i, one in enumerate(layer["layers"]):
            x = run_layer(one, f"{path or 'layers'}.{i}", weights, x)
        return x
    own = {name.removeprefix(path + "."): array for name, array in weights.items() if name.startswith(path + ".")}
    y = LAYERS[layer["kind"]](layer, x, **own)
    return ACTIVATIONS.get(layer.get("activation", ""), lambda y: y)(y)


def prepare(workload: Workload, columns: Arrays, weights: Arrays, threads: int, mode: str) -> Callable[[int], float]:
    """A function that trains so many more steps and returns the mean loss of the last 20."""
    batch, batches = workload.batch, len(columns["y"]) // workload.batch
    data, parameters = jax.tree.map(jnp.asarray, columns), jax.tree.map(jnp.asarray, weights)
    zeros = jax.tree.map(jnp.zeros_like, parameters)
    model = {"kind": "chain", "layers": workload.layers}

    def loss_of(parameters, rows, labels):
        scores = run_layer(model, "", parameters, rows["x"] if list(rows) == ["x"] else rows)
        return -jnp.take_along_axis(jax.nn.log_softmax(scores), labels[..., None], axis=-1).mean()

    def step(carry, k):
        parameters, m, v = carry
        rows = {name: jax.lax.dynamic_slice_in_dim(column, (k % batches) * batch, batch) for name, column in data.items()}
        labels = rows.pop("y")
        loss, gradients = jax.value_and_grad(loss_of)(parameters, rows, labels)
        t = (k + 1).astype(jnp.float32)
        m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, gradients)
        v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, gradients)
        move = lambda p, m, v: p - 0.001 * (m / (1 - 0.9 ** t)) / (jnp.sqrt(v / (1 - 0.999 ** t)) + 1e-8)  # noqa: E731
        return (jax.tree.map(move, parameters, m, v), m, v), loss

    run = jax.jit(lambda carry, ks: jax.lax.scan(step, carry, ks))
    state = [(parameters, zeros, zeros), 0]

    def train(steps: int) -> float:
        carry, losses = run(state[0], jnp.arange(state[1], state[1] + steps))
        state[0], state[1] = carry, state[1] + steps
        return float(losses[-20:].mean())

    return train
