"""The workload in JAX: a whole stretch of steps in one `scan`, compiled."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def prepare(data: dict[str, np.ndarray], sizes: tuple[int, ...], batch: int, threads: int, mode: str) -> Callable[[int], float]:
    """A function that trains so many more steps and returns the mean loss of the last 20."""
    import jax
    import jax.numpy as jnp

    depth = len(sizes) - 1
    x, y = jnp.asarray(data["x"]), jnp.asarray(data["y"])
    parameters = [(jnp.asarray(data[f"w{i}"]), jnp.asarray(data[f"b{i}"])) for i in range(depth)]
    zeros = jax.tree.map(jnp.zeros_like, parameters)
    batches = len(data["x"]) // batch

    def loss_of(parameters, rows, labels):
        for i, (w, b) in enumerate(parameters):
            rows = rows @ w + b
            rows = jax.nn.relu(rows) if i < depth - 1 else rows
        return -jnp.take_along_axis(jax.nn.log_softmax(rows), labels[:, None], axis=1).mean()

    def step(carry, k):
        parameters, m, v = carry
        at = (k % batches) * batch
        rows, labels = jax.lax.dynamic_slice_in_dim(x, at, batch), jax.lax.dynamic_slice_in_dim(y, at, batch)
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
