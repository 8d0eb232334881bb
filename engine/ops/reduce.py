"""Sums, means, extremes and products along axes, and the place of the greatest."""

# pyright: reportUndefinedVariable=false
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from engine.core import FLOATS, Case, Launch, Node, Op, Sample, Shape, apply, count, register
from engine.errors import DtypeError, ShapeError
from engine.kernels.grid import grid
from engine.kernels.library import kernel
from engine.ops.reduction import Axis, axes_of, launches, reduced, spread
from engine.ops.teams import THREADS, team_of


def _numpy(axis: Axis) -> Any:
    return axis if axis is None or isinstance(axis, int) else tuple(axis)


def _shape_rule(name: str, empty: bool) -> Callable[..., tuple[Shape, str]]:
    def shape(x: Node, axis: Axis = None, keepdims: bool = False) -> tuple[Shape, str]:
        if x.dtype not in FLOATS:
            raise DtypeError(f"{name} takes floats, found {x.dtype}; cast first")
        axes = axes_of(x, axis, name)
        if not empty and any(x.shape[a] == 0 for a in axes):
            raise ShapeError(f"{name} of {list(x.shape)} over axes {list(axes)}: there is nothing to choose from")
        return reduced(x.shape, axes, keepdims), x.dtype

    return shape


def _cases(low: float = -2.0, high: float = 2.0, distinct: bool = False, empty: bool = True) -> tuple[Case, ...]:
    def sample(*shape: int) -> Sample:
        return Sample(shape, low, high, distinct=distinct)

    found = [Case("rows", (sample(7, 5),), {"axis": 1}), Case("over rows", (sample(7, 5),), {"axis": 0}),
             Case("total", (sample(7, 5),)), Case("middle", (sample(3, 6, 5),), {"axis": (1,), "keepdims": True}),
             Case("two apart", (sample(3, 2, 4),), {"axis": (0, 2)}), Case("two together", (sample(3, 2, 4),), {"axis": (-3, -2)}),
             Case("one", (sample(1),), {"axis": 0}), Case("number", (sample(),)), Case("empty batch", (sample(0, 4),), {"axis": 1})]
    if empty:
        found += [Case("of nothing", (sample(0, 4),), {"axis": 0}, gradient=False), Case("long", (sample(9001),), gradient=False),
                  Case("tall", (sample(601, 3),), {"axis": 0}, gradient=False)]
    return tuple(found)


def _reduction(name: str, oracle: Callable[..., Any], launch: Callable[[Node], list[Launch]], vjp: Any, jvp: Any, description: str, *,
               empty: bool = True, cases: tuple[Case, ...] = ()) -> None:
    """Register one reduction. `empty`: whether nothing can be reduced too."""
    def forward(node: Node, tangents: Sequence[Node | None]) -> Node | None:
        return None if tangents[0] is None else jvp(node, tangents[0])

    register(Op(name, shape=_shape_rule(name, empty), launch=launch, vjp=vjp and (lambda node, ct: [vjp(node, ct)]), jvp=jvp and forward, cases=cases,
                oracle=lambda x, axis=None, keepdims=False: oracle(x, axis=_numpy(axis), keepdims=keepdims),
                defaults={"axis": None, "keepdims": False}, description=description))


def _again(node: Node, x: Node) -> Node:
    """The same reduction of another array."""
    return apply(node.op, x, **node.attrs)


def _total(node: Node, x: Node) -> Node:
    """The sum of another array over the same axes."""
    return apply("sum", x, **node.attrs)


_reduction("sum", np.sum, lambda node: launches(node, "sum"), spread, _again, "The sum along axes, by default of everything.", cases=_cases())


def _share(node: Node) -> float:
    """One over how many elements each mean is of."""
    return node.size / node.inputs[0].size if node.inputs[0].size else float("nan")


_reduction("mean", np.mean, lambda node: launches(node, "sum", _share(node)), lambda node, ct: spread(node, ct * _share(node)), _again,
           "The mean along axes, by default of everything; NaN of nothing.", cases=tuple(c for c in _cases() if c.name != "of nothing"))


# ---------------------------------------------------------------- extremes

def _shares(node: Node) -> Node:
    """1 / k where an element is one of the k that are extreme, else 0."""
    chosen = apply("equal", node.inputs[0], spread(node, node))
    return chosen / spread(node, _total(node, chosen))


for _name, _oracle, _word in (("max", np.max, "greatest"), ("min", np.min, "least")):
    _reduction(_name, _oracle, lambda node: launches(node, node.op.name), lambda node, ct: spread(node, ct) * _shares(node),
               lambda node, t: _total(node, _shares(node) * t), f"The {_word} along axes, by default of everything; equal ones share the derivative.",
               empty=False, cases=_cases(distinct=True, empty=False))


# ---------------------------------------------------------------- products

def _others(node: Node) -> Node:
    """For each element the product of the others, right also where some are 0."""
    x = node.inputs[0]
    zero = apply("equal", x, 0.0)
    safe = apply("where", zero, 1.0, x)
    zeros, product = spread(node, _total(node, zero)), spread(node, _again(node, safe))
    only = apply("where", apply("equal", zeros, 1.0), product, 0.0)
    return apply("where", zero, only, apply("where", apply("equal", zeros, 0.0), product / safe, 0.0))


_reduction("prod", np.prod, lambda node: launches(node, "prod"), lambda node, ct: spread(node, ct) * _others(node),
           lambda node, t: _total(node, _others(node) * t), "The product along axes, by default of everything.",
           cases=tuple(c for c in _cases(0.5, 1.5) if c.name not in ("long", "tall")))


# ---------------------------------------------------------------- argmax

@kernel("argmax")
def argmax_kernel(arena, words, begin, end):
    """The place of the first greatest element, or of the first NaN. Words: out (int32), in, length, elements from one to the next."""
    length, step = words[2], words[3]
    out = view(arena, words[0], int32)
    for k in range(begin, end):
        outer = k // step
        x = view(arena, words[1] + (outer * length * step + k - outer * step) * WIDTH, real)
        place, best = 0, x[0]
        for i in range(1, length):
            value = x[i * step]
            if value > best or (value != value and best == best):
                place, best = i, value
        out[k] = place


def beats(value, place, best, other):
    """Whether an element is chosen before another: NaN before numbers, the greater before the less, the first of equals."""
    if value != value or best != best:
        return value != value and (best == best or place < other)
    return value > best or (value == best and place < other)


@grid("argmax", threads=THREADS, uses=(team_of, beats))
def argmax_grid(arena, words, size):
    """A team of threads for each place, or one thread where neighbours read neighbours. Words: out (int32), in, length, elements from one to the
    next."""
    length, step, out = int32(words[2]), int32(words[3]), view(arena, words[0], int32)
    numbers = cuda.shared.array(32, real)
    places = cuda.shared.array(32, int32)
    lanes = team_of(length) if step < 32 else int32(1)
    teams, lane = cuda.blockDim.x // lanes, cuda.threadIdx.x % lanes
    for first in range(cuda.blockIdx.x * teams, size, cuda.gridDim.x * teams):
        k = first + cuda.threadIdx.x // lanes
        outer = int32(k) // step
        x = view(arena, words[1] + (outer * length * step + k - outer * step) * WIDTH, real)
        place, best = int32(length), -INFINITY
        for i in range(lane, length if k < size else 0, lanes):
            value = load(x, i * step)
            if beats(value, i, best, place):
                place, best = int32(i), value
        apart = min(lanes, 32) // 2
        while apart > 0:
            value, other = cuda.shfl_xor_sync(-1, best, int32(apart)), cuda.shfl_xor_sync(-1, place, int32(apart))
            if beats(value, other, best, place):
                place, best = other, value
            apart //= 2
        if lanes > 32:
            if cuda.threadIdx.x % 32 == 0:
                numbers[cuda.threadIdx.x // 32], places[cuda.threadIdx.x // 32] = best, place
            cuda.syncthreads()
            for warp in range(cuda.blockDim.x // 32):
                if beats(numbers[warp], places[warp], best, place):
                    place, best = places[warp], numbers[warp]
            cuda.syncthreads()
        if lane == 0 and k < size:
            out[k] = place


def _argmax_shape(x: Node, axis: int | None = None, keepdims: bool = False) -> tuple[Shape, str]:
    if not isinstance(axis, int | np.integer | None):
        raise ShapeError(f"argmax takes one axis or None, found {axis!r}")
    return _shape_rule("argmax", False)(x, axis, keepdims)[0], "int32"


def _argmax_launch(node: Node) -> list[Launch]:
    x, axis = node.inputs[0], node.attrs["axis"]
    axes = axes_of(x, axis, "argmax")
    length = count(x.shape[a] for a in axes)
    step = 1 if axis is None else count(x.shape[axes[0] + 1:])
    return [Launch("argmax", x.dtype, (node, x, length, step), node.size, cost=1.0 * length)]


register(Op("argmax", shape=_argmax_shape, launch=_argmax_launch,
            oracle=lambda x, axis=None, keepdims=False: np.argmax(x, axis=axis, keepdims=keepdims),
            cases=tuple(Case(c.name, c.inputs, c.attrs) for c in _cases(empty=False) if not isinstance(c.attrs.get("axis"), tuple)),
            defaults={"axis": None, "keepdims": False}, description="The place of the first greatest element along an axis, or in everything."))
