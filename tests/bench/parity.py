"""python -m tests.bench --parity: values, gradients and five training steps of every layer, loss and rule that PyTorch has, against PyTorch's.

A row agrees where the largest difference is at most 1e-5 in float32 and 1e-9 in float64 of the largest number. Ours are computed by compiled plans
as in jobs and at a prompt; PyTorch's parameters are the same arrays, turned to its layout inside what it differentiates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from engine import losses, nn, optim, setup, update, withgradient
from engine.autodiff.tree import leaves
from engine.nn import AnyLayer, Chain, Dense
from tests.bench.parity_torch import ACTIVATIONS, LAYERS, LOSSES, NOT_THE_SAME, RULES, torch

TOLERANCE = {"float32": 1e-5, "float64": 1e-9}
STEPS = 5
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Row:
    """One comparison: how far ours is from PyTorch's, relative to the largest number, in values, gradients and what five steps make of parameters."""

    name: str
    dtype: str
    forward: float
    backward: float
    trained: float

    @property
    def agrees(self) -> bool:
        return max(self.forward, self.backward, self.trained) <= TOLERANCE[self.dtype]

    def __str__(self) -> str:
        return (f"{self.name:34} {self.dtype}  value {self.forward:8.1e}  gradient {self.backward:8.1e}  {STEPS} steps {self.trained:8.1e}"
                + ("" if self.agrees else "  DISAGREES"))


def distance(found: Any, expected: Any) -> float:
    """The largest difference of arrays by name, or of two numbers, relative to the largest number of all."""
    pairs = [(found[name], expected[name]) for name in found] if isinstance(found, Mapping) else [(np.asarray(found), np.asarray(expected))]
    assert all(a.shape == b.shape for a, b in pairs)
    return float(max(np.abs(a - b).max() for a, b in pairs) / max(np.abs(b).max() for _, b in pairs))


def tensors(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    return {name: torch.tensor(array, requires_grad=True) for name, array in arrays.items()}


# ---------------------------------------------------------------- a model against PyTorch's function of the same parameters

def compare(name: str, dtype: str, model: nn.Model, ours: Callable[[Any], Any], theirs: Callable[[Mapping[str, Any]], Any], rule: Any = None,
            optimiser: Callable[[list[Any]], Any] | None = None, prepare: Callable[[dict[str, Any]], None] = lambda _: None) -> Row:
    """`ours(model)` is a loss, `theirs(parameters)` is PyTorch's; they are trained by `rule` and by `optimiser`, plain descent where left out.

    `prepare` changes PyTorch's gradients before its optimiser looks at them.
    """
    parameters = tensors({path: array.copy() for path, array in model.parameters.items()})
    chosen = [p for p in parameters.values() if p.numel()]
    descent = (optimiser or (lambda p: torch.optim.SGD(p, lr=0.1)))(chosen)
    state = setup(rule or optim.Descent(0.1), model)
    first: list[float] = []
    for _ in range(STEPS):
        value, (found,) = withgradient(ours, model)
        descent.zero_grad()
        loss = theirs(parameters)
        loss.backward()
        if not first:
            paths = list(model.parameters)
            known = {path: g for path, g in zip(paths, (leaf for _, leaf in leaves(found)), strict=True) if g is not None}
            first = [distance(value, loss.item()), distance(known, {path: parameters[path].grad.numpy() for path in known})]
        prepare(parameters)
        update(state, model, found)
        descent.step()
    trained = distance(model.parameters, {path: p.detach().numpy() for path, p in parameters.items()})
    return Row(name, dtype, *first, trained)


def layer_rows(dtype: str) -> Iterator[Row]:
    """Each layer in training mode, its output brought to a target by least squares."""
    for name, (spec, shape, function) in {**LAYERS, **{f"activation {k}": ({"kind": "activation", "activation": k}, (7,), f)
                                                       for k, f in ACTIVATIONS.items()}}.items():
        rng = np.random.default_rng(3)
        whole = spec["kind"].startswith("embedding")
        x = rng.integers(0, 4, (6, *shape)) if whole else rng.normal(size=(6, *shape)).astype(dtype)
        layer = TypeAdapter(AnyLayer).validate_python(spec)
        inner = Dense(shape[-1], init={"weight": {"kind": "identity"}})      # so that there is something to train before the layer too
        model = (layer if whole else Chain([inner, layer])).build(shape, seed=1, dtype=dtype)
        for array in model.parameters.values():
            array += rng.normal(scale=0.3, size=array.shape)
        prefix = "" if whole else "layers.1."
        inputs = torch.tensor(x)
        target = rng.normal(size=model(x).shape).astype(dtype)

        def theirs(p: Mapping[str, Any], prefix: str = prefix, inputs: Any = inputs, target: Any = target, function: Any = function,
                   whole: bool = whole) -> Any:
            before = inputs if whole else inputs @ p["layers.0.weight"] + p["layers.0.bias"]
            own = {path.removeprefix(prefix): value for path, value in p.items() if path.startswith(prefix)}
            return ((function(before, own) - torch.tensor(target)) ** 2).mean()

        yield compare(name, dtype, model, lambda m, x=x, target=target: losses.mse(m(x), target), theirs)


def loss_rows(dtype: str) -> Iterator[Row]:
    """Each loss of a small network's outputs."""
    for name, (options, units, ending, make_target, function) in LOSSES.items():
        rng = np.random.default_rng(4)
        x, target = rng.normal(size=(8, 5)).astype(dtype), make_target(rng)
        target = target.astype(dtype) if target.dtype.kind == "f" else target
        model = Dense(units, ending).build((5,), seed=2, dtype=dtype)
        own, loss = getattr(losses, name.split()[0]), function

        def theirs(p: Mapping[str, Any], x: Any = x, target: Any = target, ending: str = ending, loss: Any = loss) -> Any:
            return loss(ACTIVATIONS[ending](torch.tensor(x) @ p["weight"] + p["bias"], {}), torch.tensor(target))

        yield compare(f"loss {name}", dtype, model, lambda m, own=own, x=x, y=target, o=options: own(m(x), y, **o), theirs)


def rule_rows(dtype: str) -> Iterator[Row]:
    """Each rule on a small network with a smooth loss."""
    for name, (rule, optimiser, prepare) in RULES.items():
        rng = np.random.default_rng(5)
        x, y = rng.normal(size=(16, 4)).astype(dtype), rng.normal(size=(16, 2)).astype(dtype)
        model = Chain([Dense(6, "tanh"), Dense(2)]).build((4,), seed=3, dtype=dtype)

        def theirs(p: Mapping[str, Any], x: Any = x, y: Any = y) -> Any:
            hidden = torch.tanh(torch.tensor(x) @ p["layers.0.weight"] + p["layers.0.bias"])
            return ((hidden @ p["layers.1.weight"] + p["layers.1.bias"] - torch.tensor(y)) ** 2).mean()

        yield compare(f"rule {name}", dtype, model, lambda m, x=x, y=y: losses.mse(m(x), y), theirs, rule, optimiser, prepare)


def parity() -> bool:
    """Print all rows; whether all agree."""
    rows = []
    for dtype in TOLERANCE:
        for make in (layer_rows, loss_rows, rule_rows):
            for row in make(dtype):
                print(row, flush=True)
                rows.append(row)
    for name, why in NOT_THE_SAME.items():
        print(f"{name:34} not compared: {why}")
    wrong = [row for row in rows if not row.agrees]
    print(f"{len(rows) - len(wrong)} of {len(rows)} rows agree with PyTorch {torch.__version__}")
    return not wrong
