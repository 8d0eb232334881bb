"""Our values for Flux's numbers about derivatives."""

from typing import Any

import numpy as np

from engine import destructure, gradient, withgradient
from tests.engine.flux_oracles import array, runs


def poly(theta: Any, x: Any) -> Any:
    return sum(theta[i] * x**i for i in range(3))


@runs("autodiff", "gradient(*, 2,3,5)")
def product(name: str, inputs: dict[str, Any]) -> Any:
    return gradient(lambda *factors: factors[0] * factors[1] * factors[2], *map(float, inputs["args"]))


@runs("autodiff", "poly")
def polynomial(name: str, inputs: dict[str, Any]) -> dict[str, Any]:
    value, (theta, x) = withgradient(poly, array(inputs["theta"]), float(inputs["x"]))
    return {"val": value, "dx": x, "dtheta": theta}


@runs("autodiff", "finite differences")
def difference_quotients(name: str, inputs: dict[str, Any]) -> list[float]:
    def value(x: float) -> float:
        return withgradient(poly, array([10, 1, 0.1]), x)[0]

    return [(value(inputs["x"] + h) - value(float(inputs["x"]))) / h for h in (0.1, 0.001)]


@runs("autodiff", "withgradient(/")
def quotient(name: str, inputs: dict[str, Any]) -> dict[str, Any]:
    value, grads = withgradient(lambda a, b: a / b, *map(float, inputs["args"]))
    return {"val": value, "grad": grads}


@runs("autodiff", "withgradient aux tuple")
def beside(name: str, inputs: dict[str, Any]) -> dict[str, Any]:
    def inverses(x: Any) -> Any:
        z = 1 / x
        return z.sum(), z

    (value, aux), (grad,) = withgradient(inverses, array(inputs["x"]))
    return {"val": value, "aux": aux, "grad": grad}


@runs("autodiff", "withgradient aux named tuple")
def named(name: str, inputs: dict[str, Any]) -> dict[str, Any]:
    value, grads = withgradient(lambda a, b: {"div": a / b, "mul": a * b}, *map(float, inputs["args"]))
    return {**value, "grad": grads}


@runs("autodiff", "second derivative through destructure")
def twice(name: str, inputs: dict[str, Any]) -> np.ndarray:
    _, rebuild = destructure({"v": array(inputs["v"])})
    return gradient(lambda v: (gradient(lambda u: (rebuild(u)["v"] ** 2).sum(), v)[0] ** 2).sum(), array(inputs["v"]))[0]


@runs("autodiff", "nested")
def nested(name: str, inputs: dict[str, Any]) -> np.ndarray:
    rest = np.array([4.0, 5.0, 6.0])
    return gradient(lambda v: gradient(lambda u: (u.sum() + rest.sum()) ** 3, v)[0].sum(), array(inputs["v"]))[0]


@runs("autodiff", "destructure gradient with shared array")
def shared(name: str, inputs: dict[str, Any]) -> np.ndarray:
    both = np.array([7.0, 7.0])
    flat, rebuild = destructure({"x": both, "y": np.array([3.0, 4.0]), "z": both})
    return gradient(lambda v: (rebuild(v)["x"] * 3.0 + rebuild(v)["z"] * 13.0).sum(), flat)[0]
