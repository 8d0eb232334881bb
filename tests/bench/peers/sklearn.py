"""The workload in scikit-learn's MLPClassifier, which counts in epochs and makes its own initial weights."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np


def classifier(sizes: tuple[int, ...], batch: int, epochs: int, learning_rate: float):
    from sklearn.neural_network import MLPClassifier

    return MLPClassifier(sizes[1:-1], alpha=0.0, batch_size=batch, learning_rate_init=learning_rate, max_iter=epochs, shuffle=False, random_state=0,
                         tol=0.0, n_iter_no_change=10**9)


def weights(data: dict[str, np.ndarray], sizes: tuple[int, ...], batch: int) -> dict[str, np.ndarray]:
    """Its initial weights, by training one epoch at a learning rate of nothing: the same seed gives them again."""
    warnings.simplefilter("ignore")
    model = classifier(sizes, batch, 1, 1e-30).fit(data["x"], data["y"])
    pairs = zip(model.coefs_, model.intercepts_, strict=True)
    return {f"{name}{i}": np.asarray(array, np.float32) for i, pair in enumerate(pairs) for name, array in zip("wb", pair, strict=True)}


def prepare(data: dict[str, np.ndarray], sizes: tuple[int, ...], batch: int, threads: int, mode: str) -> Callable[[int], float]:
    """A function that trains so many steps from the beginning and returns the last epoch's mean loss."""
    warnings.simplefilter("ignore")
    batches = len(data["x"]) // batch

    def train(steps: int) -> float:
        return float(classifier(sizes, batch, max(1, steps // batches), 0.001).fit(data["x"], data["y"]).loss_)

    return train
