"""The workload in scikit-learn's MLPClassifier, which counts in epochs and makes its own initial weights."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np

from tests.bench.workloads import Arrays, Workload


def classifier(workload: Workload, epochs: int, learning_rate: float):
    from sklearn.neural_network import MLPClassifier

    hidden = [layer["units"] for layer in workload.layers[:-1]]
    return MLPClassifier(hidden, alpha=0.0, batch_size=workload.batch, learning_rate_init=learning_rate, max_iter=epochs, shuffle=False,
                         random_state=0, tol=0.0, n_iter_no_change=10**9)


def initial(workload: Workload, columns: Arrays) -> Arrays:
    """Its initial weights, by training one epoch at a learning rate of nothing: the same seed gives them again."""
    warnings.simplefilter("ignore")
    model = classifier(workload, 1, 1e-30).fit(columns["x"], columns["y"])
    named = {"weight": model.coefs_, "bias": model.intercepts_}
    return {f"layers.{i}.{name}": np.asarray(array, np.float32) for name, arrays in named.items() for i, array in enumerate(arrays)}


def prepare(workload: Workload, columns: Arrays, weights: Arrays, threads: int, mode: str) -> Callable[[int], float]:
    """A function that trains so many steps from the beginning and returns the last epoch's mean loss."""
    warnings.simplefilter("ignore")
    batches = len(columns["y"]) // workload.batch

    def train(steps: int) -> float:
        return float(classifier(workload, max(1, steps // batches), 0.001).fit(columns["x"], columns["y"]).loss_)

    return train
