"""Three ways to a derivative that must agree: reverse mode, forward mode and central differences, in float64; of the first and the second order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from engine.autodiff.api import gradient, jvp, withgradient
from engine.autodiff.modes import STEP, double
from engine.autodiff.tree import leaves, transform
from engine.autodiff.variable import Variable, is_model, tracing
from engine.core import count
from engine.errors import GradientMismatch


def check_gradient(f: Callable[..., Any], *args: Any, order: Literal[1, 2] = 1, rtol: float = 1e-5, atol: float = 1e-7, entries: int = 50,
                   seed: int = 0) -> bool:
    """True where the derivatives of `f(*args)` agree in each array: at `entries` entries (all, if there are no more) with central differences, and
    along a random direction with forward mode. With `order` 2 the derivative along a random direction is checked in the same way.

    Raises GradientMismatch with the place, what was found and what was expected. A kink or pole near `args` is found as a mismatch too.
    """
    if order not in (1, 2):
        raise ValueError(f"derivatives of order 1 or 2 are checked, found {order!r}")
    args = tuple(double(a) for a in args)
    runs = _Runs(f, args)
    rng = np.random.default_rng(seed)
    value, gradients = runs.fresh(lambda: withgradient(f, *args))
    atol *= max(1.0, abs(float(_first(value))))
    for which, variable in enumerate(runs.variables()):
        found = dict(leaves(gradients[which]))
        for path, node in variable.nodes.items():
            where = f"argument {which}" + (f", {path}" if path else "")
            x, reverse = node.numpy(), np.zeros(node.shape) if found[path] is None else np.asarray(found[path])
            for index in _some(node.shape, entries, rng):
                h = STEP * max(1.0, abs(float(x[index])))
                slope = (runs.value(which, path, index, h) - runs.value(which, path, index, -h)) / (2 * h)
                _compare(f"{where}, entry {list(index)}", "central differences", float(reverse[index]), slope, rtol, atol)
            direction = rng.standard_normal(node.shape)
            tangent = runs.along(which, path, direction)
            _compare(where, "forward mode, along a random direction,", float((reverse * direction).sum()), tangent, rtol, atol)
    if order == 2:
        try:
            return check_gradient(_slope(f, runs.directions(rng)), *args, rtol=rtol, atol=atol, entries=entries, seed=seed)
        except GradientMismatch as error:
            raise GradientMismatch(f"order 2, the derivative along a random direction, {error}") from None
    return True


def _slope(f: Callable[..., Any], directions: Sequence[Any]) -> Callable[..., Any]:
    """The derivative of `f` along fixed directions, by reverse mode."""
    def slope(*args: Any) -> Any:
        pairs = [(g, d) for grads, along in zip(gradient(f, *args), directions, strict=True)
                 for (_, g), (_, d) in zip(leaves(grads), leaves(along), strict=True) if g is not None]
        parts = [(g * d).sum() for g, d in pairs]
        return sum(parts[1:], start=parts[0]) if parts else 0.0

    return slope


class _Runs:
    """Runs of one function near one point, all with the same random numbers."""

    def __init__(self, f: Callable[..., Any], args: Sequence[Any]):
        self.f, self.args = f, args
        self.marks = [(a, a.calls) for a in args if is_model(a)]

    def fresh(self, run: Callable[[], Any]) -> Any:
        for model, calls in self.marks:
            model.calls = calls
        return run()

    def variables(self) -> list[Variable]:
        return self.fresh(lambda: [Variable(a) for a in self.args])

    def directions(self, rng: np.random.Generator) -> list[Any]:
        """A random direction in the nesting of each argument, None where it has no numbers to move."""
        return [transform(v.tree, lambda path, _, v=v: rng.standard_normal(v.nodes[path].shape) if path in v.nodes else None)
                for v in self.variables()]

    def value(self, which: int, path: str, index: tuple[int, ...], step: float) -> float:
        """The objective with one entry of one array moved by `step`."""
        variables = self.variables()
        node = variables[which].nodes[path]
        node.value = node.numpy().copy()
        node.value[index] += step
        with tracing():
            return float(_first(self.f(*(v.inside for v in variables))))

    def along(self, which: int, path: str, direction: np.ndarray) -> float:
        """The directional derivative in forward mode."""
        directions = [transform(v.tree, lambda here, _, i=i: direction if (i, here) == (which, path) else None)
                      for i, v in enumerate(self.variables())]
        return float(_first(self.fresh(lambda: jvp(self.f, self.args, directions))[1]))


def _compare(where: str, other: str, found: float, expected: float, rtol: float, atol: float) -> None:
    if not abs(found - expected) <= atol + rtol * max(abs(found), abs(expected)):
        raise GradientMismatch(f"at {where}: reverse mode found {found:.9g}, {other} expected {expected:.9g}")


def _first(value: Any) -> Any:
    return next(iter(value.values())) if isinstance(value, dict) else value[0] if isinstance(value, tuple) else value


def _some(shape: tuple[int, ...], entries: int, rng: np.random.Generator) -> list[tuple[int, ...]]:
    size = count(shape)
    chosen = range(size) if size <= entries else sorted(rng.choice(size, entries, replace=False))
    return [tuple(int(k) for k in np.unravel_index(place, shape)) if shape else () for place in chosen]
