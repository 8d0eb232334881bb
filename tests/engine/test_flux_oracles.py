"""Every number of Flux's that concerns what is built agrees; every other is listed with the reason."""

from typing import Any

import numpy as np
import pytest

import engine  # noqa: F401  binds what computes values
from engine.autodiff.api import gradient
from engine.core import apply, lift
from engine.errors import SpecError
from engine.nn import GRU, LSTM, RNN, Bilinear, Dense, Dropout, Embedding, Lambda, Parallel, losses
from engine.nn import Chain as Layers
from engine.nn.initialisers import Identity, Orthogonal, Sparse, TruncatedNormal, initialisers
from engine.ops.activations import ACTIVATIONS
from tests.engine import (  # noqa: F401  run the entries of their areas
    flux_autodiff,
    flux_callbacks,
    flux_convolution,
    flux_data,
    flux_layers,
    flux_optimisation,
    flux_pooling,
    flux_recurrent,
    flux_training,
)
from tests.engine.flux_oracles import ENTRIES, agrees, array, reason, runner, runs, word

LOSSES = {"crossentropy": "cross_entropy", "logitcrossentropy": "logit_cross_entropy", "binarycrossentropy": "binary_cross_entropy",
          "logitbinarycrossentropy": "logit_binary_cross_entropy", "kldivergence": "kl_divergence", "dice_coeff_loss": "dice"}


def test_every_entry_is_run_or_listed_with_a_reason():
    assert len(ENTRIES) == 330
    nowhere = [f"{e['area']}: {e['name']}" for e in ENTRIES if runner(e) is None and not reason(e)]
    assert not nowhere


def value(node: Any) -> np.ndarray:
    return lift(node).numpy()


def softmax(x: np.ndarray, axis: int = -1) -> np.ndarray:
    return value(apply("softmax", x, axis=axis))


# ---------------------------------------------------------------- losses

def loss_arguments(inputs: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    dtype = inputs.get("dtype", "float64")
    y_hat = array(next(inputs[k] for k in ("yhat", "logits", "logits_for_softmax") if k in inputs)).T.astype(dtype)
    y = array(inputs["y"]).T.astype(dtype)
    if "logits_for_softmax" in inputs:
        y_hat = softmax(y_hat)
    names = {"eps": "epsilon"}
    options = {names.get(k, k): inputs[k] for k in ("eps", "delta", "gamma", "beta", "margin") if not isinstance(inputs.get(k), str | None)}
    return y_hat, y, options


@runs("losses")
def loss(name: str, inputs: dict[str, Any]) -> Any:
    y_hat, y, options = loss_arguments(inputs)
    if "f32 eps" in name:
        y_hat, y = softmax(y_hat.astype("float32")), y.astype("float32")
    if "label_smoothing" in name:
        y = losses.label_smoothing(y, inputs["alpha"])
    kind = word(name)
    return getattr(losses, LOSSES.get(kind, kind.removesuffix("_loss")))(y_hat, y, **options)


@runs("losses", "siamese_contrastive_loss negative margin")
def refused_margin(name: str, inputs: dict[str, Any]) -> str:
    for margin in inputs["margin"]:
        with pytest.raises(SpecError):
            losses.SiameseContrastive(margin=margin)
    return "DomainError"


@runs("losses", "ctc_loss")
def along_time(name: str, inputs: dict[str, Any]) -> float:
    return losses.ctc(array(inputs["logits"]).T, np.array(inputs["labels"]) - 1)


@runs("losses", "label_smoothing")
def smoothed(name: str, inputs: dict[str, Any]) -> np.ndarray:
    return losses.label_smoothing(array(inputs["y"]), inputs["alpha"], axis=0 if inputs["dims"] else None)


@runs("losses", "softmax column")
def softmax_column(name: str, inputs: dict[str, Any]) -> np.ndarray:
    return softmax(array(inputs["x"]), axis=0)


@runs("losses", "xlogy")
def xlogy(name: str, inputs: dict[str, Any]) -> np.ndarray:
    return value(apply("xlogy", *array(inputs["xy"]).T))


@runs("losses.gradient")
def loss_gradient(name: str, inputs: dict[str, Any]) -> np.ndarray:
    y_hat, y, _ = loss_arguments(inputs)
    options = {"delta": 0.5} if "delta" in name else {}
    f = getattr(losses, LOSSES.get(word(name), word(name)))
    return gradient(lambda p: f(p, y, **options), y_hat)[0].T


# ---------------------------------------------------------------- activations and softmax

def activation(name: str, *x: float) -> Any:
    op = ACTIVATIONS[name]
    attributes = [k for k, v in op.defaults.items() if isinstance(v, float)]
    return op(np.float64(x[0]), **dict(zip(attributes, x[1:], strict=False)))


def slope(name: str, x: float) -> float:
    return gradient(lambda v: ACTIVATIONS[name](v), x)[0]


@runs("activations")
def activated(name: str, inputs: dict[str, Any]) -> np.ndarray:
    return value(activation(word(name), *(inputs["args"] if "args" in inputs else [inputs["x"]])))


@runs("activations", "softplus'(0)")
def curvature(name: str, inputs: dict[str, Any]) -> list[float]:
    return [slope("softplus", 0.0), gradient(lambda x: gradient(ACTIVATIONS["softplus"], x)[0], 0.0)[0]]


@runs("activations", "derivative conventions")
def kinks(name: str, inputs: dict[str, Any]) -> list[Any]:
    single = {"relu": 0.0, "leakyrelu": 0.0, "elu": 0.0, "celu": 0.0, "selu": 0.0, "trelu": 1.0, "softshrink": 0.5}
    at = {k: slope(k, x) for k, x in single.items()}
    pairs = {k: [slope(k, a), slope(k, b)] for k, (a, b) in {"relu6": (0.0, 6.0), "hardtanh": (-1.0, 1.0), "hardsigmoid": (-3.0, 3.0),
                                                             "hardswish": (-3.0, 3.0)}.items()}
    return [at["relu"], at["leakyrelu"], pairs["relu6"], pairs["hardtanh"], at["elu"], at["celu"], at["selu"], at["trelu"], at["softshrink"],
            pairs["hardsigmoid"], pairs["hardswish"], gradient(abs, 0.0)[0]]


@runs("softmax")
def normalised(name: str, inputs: dict[str, Any]) -> np.ndarray:
    op = "log_softmax" if name.startswith("logsoftmax") else "softmax"
    return value(apply(op, array(inputs["x"]), axis=inputs.get("axis", 0)))


@runs("softmax", "logsoftmax pullback")
def log_softmax_gradient(name: str, inputs: dict[str, Any]) -> np.ndarray:
    return gradient(lambda x: apply("log_softmax", x, axis=0).sum(), array(inputs["x"]))[0]


# ---------------------------------------------------------------- layers

@runs("layers", "Dense(ones(2,5)")
def dense(name: str, inputs: dict[str, Any]) -> np.ndarray:
    return Dense(2, "tanh", bias=False, init="ones").build((5,), dtype="float64")(np.ones((1, 5)))[0]


@runs("layers", "identity Dense")
def identity_dense(name: str, inputs: dict[str, Any]) -> np.ndarray:
    return Dense(3, "relu", init="identity").build((5,))(array([inputs["x"]]))[0]


@runs("layers", "parameter counts")
def counts(name: str, inputs: dict[str, Any]) -> list[int]:
    models = Dense(2).build((5,)), Bilinear(7).build((5,)), RNN(6).build((1, 4)), LSTM(5).build((1, 3)), GRU(5).build((1, 3))
    return [sum(row.parameters for row in model.rows) for model in models]


@runs("layers", "Dense([3.0;;])(1) squared")
def dense_gradient(name: str, inputs: dict[str, Any]) -> dict[str, float]:
    model = Dense(1, init={"weight": {"kind": "constant", "value": 3.0}}).build((1,))
    m, x = gradient(lambda m, x: (m(x) ** 2).sum(), model, np.ones((1, 1)))
    return {"weight": m["weight"].item(), "bias": m["bias"].item(), "x": x.item()}


@runs("layers", "Embedding([1.1 2.2 3.3])")
def embedding_gradient(name: str, inputs: dict[str, Any]) -> dict[str, Any]:
    model = Layers(Embedding(3, 1, init={"kind": "values", "values": [[1.1], [2.2], [3.3]]}), Dense(1, init={"kind": "constant", "value": 4.4}))
    built, x = model.build((), dtype="float64"), np.array([inputs["x"] - 1])
    grads = gradient(lambda m: m(x).sum(), built)[0]["layers"]
    return {"val": built(x).item(), "emb": grads[0]["weight"][:, 0], "dense_w": grads[1]["weight"].item(), "dense_b": grads[1]["bias"].item()}


@runs("layers", "Parallel(/")
def divided(name: str, inputs: dict[str, Any]) -> float:
    """What is no connection of its own is a formula over the branches."""
    branches = Parallel({"a": Lambda("abs(x)"), "b": Lambda("abs(x)")}, "separate")
    model = Layers(branches, Lambda("x.a / x.b")).build({"a": (1,), "b": (1,)}, dtype="float64")
    return model({key: array([[x]]) for key, x in zip("ab", inputs["x"], strict=True)}).item()


@runs("norm", "Dropout(0)")
def dropout(name: str, inputs: dict[str, Any]) -> float:
    x = np.full((40, 50), inputs["x"])
    assert np.array_equal(Dropout(0.4).build((50,), dtype="float64")(x), x)
    outputs = {rate: value(Dropout(rate).build((50,), dtype="float64").bind({}, training=True)(lift(x))) for rate in (0.0, 0.4, 1.0)}
    assert np.array_equal(outputs[0.0], x) and not outputs[1.0].any()
    kept = outputs[0.4][outputs[0.4] != 0]
    assert abs(len(kept) / x.size - 0.6) < 0.05
    return kept.max() if np.ptp(kept) < 1e-12 else np.nan


@runs("shapes", "Dense(10")
def dense_shapes(name: str, inputs: dict[str, Any]) -> list[int]:
    features, *middle, batch = inputs["input_size"]     # Julia: features first, batch last
    model = Layers(Dense(8, "sigmoid"), Dense(5), Dense(2)) if "→" in name else Layers(Dense(5))
    batch_first = (*reversed(middle), features)
    return [*model.build(batch_first)(np.zeros((batch, *batch_first))).shape[::-1]]


# ---------------------------------------------------------------- initialisers

@runs("init")
def spread(name: str, inputs: dict[str, Any]) -> float:
    values = initialisers.members[word(name)]().array(tuple(inputs["size"])[::-1], seed=1, dtype="float64")
    return np.abs(values).max() if name.endswith("bound") else values.std()


@runs("init", "sparse_init")
def zeros(name: str, inputs: dict[str, Any]) -> list[int]:
    made = [Sparse(sparsity).array((columns, rows), seed=1) for rows, columns, sparsity in ((10, 10, 0.2), (10, 11, 0.9), (10, 3, 0.5))]
    return [int((made[0] == 0).sum()), *(int((a == 0).sum(axis=1).max()) for a in made[1:])]


@runs("init", "identity_init(3,3,2")
def centre(name: str, inputs: dict[str, Any]) -> np.ndarray:
    return Identity(gain=100.0).array(tuple(inputs["size"]))


@runs("init", "identity_init(2,3)")
def corners(name: str, inputs: dict[str, Any]) -> list[Any]:
    return [Identity().array((3, 2)).T[:, -1], Identity(shift=1).array((2, 3)).T[0]]


@runs("init", "orthogonal")
def orthogonal(name: str, inputs: dict[str, Any]) -> str:
    for shape in ((5, 7), (7, 5), (18, 4)):
        q = Orthogonal().array(shape, dtype="float64")
        assert np.allclose(q @ q.T if shape[0] < shape[1] else q.T @ q, np.eye(min(shape)), atol=1e-10)
    return "property"


@runs("init", "truncated_normal")
def extremes(name: str, inputs: dict[str, Any]) -> list[float]:
    values = TruncatedNormal().array((1_000_000,), seed=1)
    return [values.min(), values.max()]


@pytest.mark.parametrize("entry", [e for e in ENTRIES if runner(e) and not reason(e)], ids=lambda e: f"{e['area']}: {e['name']}")
def test_agrees_with_flux(entry):
    function = runner(entry)
    assert function is not None
    found = function(entry["name"], entry["inputs"])
    assert agrees(found, entry["expected"], entry["tolerance"]), f"found {found}, Flux has {entry['expected']}"
