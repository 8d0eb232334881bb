"""Our values for Flux's numbers about training: the tutorial's network from its first loss to its last, as jobs."""

from functools import cache
from typing import Any

import numpy as np
import pytest

from engine.autodiff.api import gradient
from engine.data import DataLoader
from engine.data.table import Table
from engine.errors import NonFiniteError
from engine.nn import Dense, losses
from engine.optim import Adam, Chain, Descent, WeightDecay, rules, setup, trainables, update
from engine.train import Job, check, start
from engine.train.prompt.python import train, train_step
from engine.train.run.checkpoint import unpack
from tests.engine.flux_oracles import runs

X = np.arange(21) * 0.05
Y = 0.2 * np.sin(4 * np.pi * X) + 0.3 * np.exp(-X) + 4 * X**6 - 3.5 * X**5


def job(batch_size: Any = "full", epochs: int = 1, repeat: int = 1) -> tuple[Job, dict[str, Table]]:
    """Chain(Dense(1 => 4, sigmoid), Dense(4 => 1)) with the tutorial's weights, on its 21 points, by Adam."""
    def weight(*rows: list[float]) -> dict[str, Any]:
        return {"weight": {"kind": "values", "values": list(rows)}}

    model = {"kind": "chain", "layers": [{"kind": "dense", "units": 4, "activation": "sigmoid", "init": weight([5, -5, -5, -5])},
                                         {"kind": "dense", "units": 1, "init": weight([5], [-2], [5], [-5])}]}
    data = {"dataset": "points", "target": "y", "batch_size": batch_size, "sampling": "sequential", "repeat": repeat}
    return (Job.model_validate({"model": model, "loss": "mse", "optimiser": "adam", "data": data, "epochs": epochs, "metrics": []}),
            {"points": Table.from_columns({"x": X[:, None], "y": Y[:, None]})})


@cache
def losses_after() -> list[float]:
    """The loss after 0, 1, 2, ... 8000 updates."""
    return [event.data["train_loss"] for event in start(*job(epochs=8001)).events() if event.type == "epoch"]


@runs("end_to_end")
def loss_after(name: str, inputs: dict[str, Any]) -> float:
    return losses_after()[inputs.get("updates", 0)]


@runs("end_to_end", "TutorialFlux: parameters")
def final_parameters(name: str, inputs: dict[str, Any]) -> dict[str, Any]:
    saved = [event.payload for event in start(*job(repeat=50_000)).events() if event.payload is not None][-1]
    arrays = {path: array.ravel() for path, array in unpack(saved).group("parameters").items()}
    return {"W1": arrays["layers.0.weight"], "b1": arrays["layers.0.bias"], "W2": arrays["layers.1.weight"], "b2": arrays["layers.1.bias"]}


@runs("end_to_end", "TutorialFlux: target values")
def target_values(name: str, inputs: dict[str, Any]) -> np.ndarray:
    return Y


@runs("end_to_end", "TutorialFlux: number of updates")
def updates_per_epoch(name: str, inputs: dict[str, Any]) -> list[int]:
    return [check(*job(batch_size)).steps_per_epoch for batch_size in (1, 7, 3, "full")]


@runs("train", "L2: loss +")
def penalty_is_decay(name: str, inputs: dict[str, Any]) -> bool:
    x, y = np.random.default_rng(0).normal(size=(2, 8, 1))
    models = [Dense(1).build((1,), dtype="float64") for _ in range(2)]
    states = [setup(Adam(0.1), models[0]), setup(Chain(WeightDecay(0.33), Adam(0.1)), models[1])]
    objectives = [lambda m: losses.mse(m(x), y) + 0.33 / 2 * sum((p**2).sum() for p in trainables(m)), lambda m: losses.mse(m(x), y)]
    for _ in range(inputs["steps"]):
        for model, state, objective in zip(models, states, objectives, strict=True):
            update(state, model, gradient(objective, model)[0])
    return all(np.allclose(a, b, rtol=1e-10) for a, b in zip(*map(trainables, models), strict=True))


@runs("train", "NaN loss")
def stopped_at(name: str, inputs: dict[str, Any]) -> dict[str, Any]:
    model, calls = Dense(1, init="zeros").build((1,), dtype="float64"), []

    def loss(m: Any, i: int) -> Any:
        calls.append(i)
        return m(np.ones((1, 1))).sum() * (np.nan if i == inputs["nan_at"] else 1.0)

    with pytest.raises(NonFiniteError, match=f"item {inputs['nan_at']}"):
        train(loss, model, range(1, inputs["items"] + 1), Descent(0.1))
    return {"calls": len(calls), "weight": model["weight"].item()}


@runs("train", "trainstep!")
def step_left_out(name: str, inputs: dict[str, Any]) -> dict[str, float]:
    model = Dense(1, init="zeros").build((1,))
    assert np.isnan(train_step(lambda m, x: m(x).sum() * np.nan, model, np.ones((1, 1)), setup(Descent(0.1), model)))
    return {key: model[key].item() for key in ("weight", "bias")}


def mse(model: Any, x: Any, y: Any) -> Any:
    return losses.mse(model(x), y)


@runs("train", "every rule")
def fitted_by_every_rule(name: str, inputs: dict[str, Any]) -> dict[str, str]:
    """What Flux asks of the loss with each rule: before training, and after at most 100,000 rows one at a time."""
    (w, start), rng = np.random.default_rng(0).normal(size=(2, 10, 10)).astype("float32"), np.random.default_rng(1)
    x, seen = (rng.uniform(size=(rows, 10)).astype("float32") for rows in (20, 10_000))
    model, data, found = Dense(10).build((10,)), (seen, seen @ w), []
    for rule in inputs["rules"].split(","):
        kind, _, number = rule.removesuffix(")").partition("(")
        options = {"decay" if kind == "AdaDelta" else "learning_rate": float(number)} if number else {}
        model.assign({"weight": start, "bias": 0})
        state, loader, before = setup(rules.members[kind.lower()](**options), model), DataLoader(data), float(mse(model, x, x @ w))
        while float(mse(model, x, x @ w)) >= 0.01 and loader.epoch < 10:
            train(mse, model, loader, state)
        found.append((before, float(mse(model, x, x @ w))))
    return {"loss_before": ">1" if min(found)[0] > 1 else str(found), "loss_after": "<0.01" if max(b for _, b in found) < 0.01 else str(found)}
