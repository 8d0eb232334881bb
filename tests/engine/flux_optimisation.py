"""Our values for Flux's numbers about schedules, rules and their state."""

from typing import Any

import numpy as np

from engine.data import DataLoader
from engine.optim import (
    AccumGrad,
    Chain,
    ClipGrad,
    ClipNorm,
    Descent,
    Momentum,
    SignDecay,
    WeightDecay,
    adjust,
    destructure,
    freeze,
    rules,
    setup,
    thaw,
    update,
)
from engine.optim.schedules import CosineAnneal, Exp, Inverse, OneCycle, Sequence, Step, Triangle
from engine.train.prompt.python import train
from tests.engine.flux_oracles import array, runs, word


@runs("schedules")
def scheduled(name: str, inputs: dict[str, Any]) -> list[float]:
    made = {"Sequence": (1, Sequence([{"schedule": 1.0, "length": 1}, {"schedule": Step(10, 0.5), "length": 50}])), "Exp": (0.1, Exp(0.5)),
            "Inv": (1, Inverse(0.5, 2.0)), "Triangle": (1, Triangle(0.0, 1.0, 4)), "CosAnneal": (1, CosineAnneal(0.0, 4, False)),
            "OneCycle": (0.1, OneCycle(8))}
    start, schedule = made[word(name)]
    starts = [1 if t == 1 else 0.1 for t in inputs["t"]] if word(name) == "Sequence" else [start] * len(inputs["t"])   # ours are factors
    return [s * schedule.at(t) for s, t in zip(starts, inputs["t"], strict=True)]


@runs("schedules", "Interpolator")
def counted_per_epoch(name: str, inputs: dict[str, Any]) -> dict[str, list[int]]:
    """Steps at each learning rate in 50 epochs of `rate` steps: a schedule per epoch is what Interpolator makes of one."""
    stages = [{"schedule": float(k), "length": length} for k, length in ((1, 10), (2, 10), (3, 30))]
    model, rates = {"w": np.zeros(1)}, []
    state = setup(Descent(1.0, schedule=Sequence(stages, per="epoch")), model)
    train(lambda m, x: (m["w"] * x).sum(), model, DataLoader(np.ones(inputs["rate"])), state, epochs=50,
          callbacks=[lambda event: rates.append(event.learning_rate)])
    return {"counts": [rates.count(float(k)) for k in (1, 2, 3)]}


# ---------------------------------------------------------------- optimisation

def moved(rule: Any, x: Any, *gradients: Any) -> np.ndarray:
    x = array(x)
    state = setup(rule, x)
    for g in gradients:
        update(state, x, array(g))
    return x


@runs("optim.trajectory")
def trajectory(name: str, inputs: dict[str, Any]) -> list[np.ndarray]:
    options = {"RMSProp(centred=true)": {"centred": True}, "AdamW(lambda=0.1, couple=true)": {"weight_decay": 0.1}}.get(name, {})
    rule = rules.members[word(name).lower()](**options)
    return [moved(rule, inputs["x0"], *inputs["gradients"][:k + 1]) for k in range(len(inputs["gradients"]))]


CHAINS = {"WeightDecay(0.1) alone": WeightDecay(0.1), "SignDecay(0.1)": SignDecay(0.1),
          "Chain(ClipGrad(2), WeightDecay": Chain(ClipGrad(2.0), WeightDecay(0.1)), "OptimiserChain()": Chain(),
          "Chain(ClipGrad(1.0),Descent": Chain(ClipGrad(1.0), Descent(0.1))}


@runs("optim", *CHAINS)
def after_chain(name: str, inputs: dict[str, Any]) -> np.ndarray:
    return moved(Chain(next(chain for start, chain in CHAINS.items() if name.startswith(start))), inputs["x"], inputs["g"])


@runs("optim", "ClipGrad(13)", "ClipNorm(10)", "Momentum(0.1,0.9) steps")
def step_from_zero(name: str, inputs: dict[str, Any]) -> np.ndarray:
    rule = {"ClipGrad": ClipGrad(13.0), "ClipNorm": ClipNorm(10.0), "Momentum": Momentum(0.1, 0.9)}[word(name)]
    return -moved(Chain(rule), [0.0] * len(inputs["g"]), inputs["g"])


@runs("optim", "Momentum(0.1) state", "Nesterov() velocity", "Chain(ClipGrad(2),Adam())")
def remembered(name: str, inputs: dict[str, Any]) -> np.ndarray:
    rule = {"Momentum": Momentum(0.1), "Nesterov": rules.members["nesterov"](), "Chain": Chain(ClipGrad(2.0), rules.members["adam"]())}[word(name)]
    x = np.zeros(len(inputs["g"]))
    state = setup(rule, x)
    update(state, x, array(inputs["g"]))
    return next(iter(state.state[-1].values()))


@runs("optim", "freeze/thaw")
def frozen(name: str, inputs: dict[str, Any]) -> dict[str, Any]:
    m, g = {"x": array([1, 2]), "y": array([3, 4])}, {"x": array(inputs["gx"]), "y": array(inputs["gy"])}
    state = setup(Descent(0.1), m)
    freeze(state["y"])
    update(state, m, g)
    first = {k: v.copy() for k, v in m.items()}
    adjust(state, 0.2)
    thaw(state)
    update(state, m, g)
    return {"after1": first, "after2": m}


@runs("optim", "AccumGrad")
def accumulated(name: str, inputs: dict[str, Any]) -> dict[str, Any]:
    m = {k: np.array([float(inputs[k])]) for k in "xy"}
    state = setup(Chain(AccumGrad(2), WeightDecay(0.01), Descent(0.1)), m)
    for k in range(2):
        update(state, m, {"x": np.array([float(inputs["gx"][k])]), "y": np.array([float(inputs["gy"][k])])})
    return {k: v.item() for k, v in m.items()}


@runs("optim", "tied weights")
def tied(name: str, inputs: dict[str, Any]) -> np.ndarray:
    x = array([1, 2])
    pair = [x, x]
    update(setup(Descent(0.1), pair), pair, [array(g) if g else None for g in inputs["g"]])
    return x


@runs("optim", "trainable subset")
def subset(name: str, inputs: dict[str, Any]) -> dict[str, np.ndarray]:
    m = {k: array(inputs[k]) for k in "abc"}
    update(setup(Momentum(0.1, 0.9), m), m, {"a": 2 * m["a"], "b": None, "c": None})
    return m


@runs("optim", "Adam(0.1) state")
def adam_state(name: str, inputs: dict[str, Any]) -> dict[str, Any]:
    def state_after(*gradients: Any) -> list[float]:
        x = np.zeros(1)
        state = setup(rules.members["adam"](0.1), x)
        for g in gradients:
            update(state, x, None if g is None else np.array([g]))
        return [state.state[0]["m"].item(), state.state[0]["v"].item(), 0.9 ** (state.step + 1), 0.999 ** (state.step + 1)]

    return {"after1": state_after(1.0), "a": state_after(1.0, 0.0), "b_unchanged": state_after(1.0, None)}


@runs("destructure")
def flattened(name: str, inputs: dict[str, Any]) -> Any:
    m1 = array([1, 2, 3])
    flat, rebuild = destructure({"x": m1, "y": m1, "z": array([4, 5, 6])})
    return rebuild(array(inputs["v"])) if "v" in inputs else flat
