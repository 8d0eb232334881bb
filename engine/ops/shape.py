"""The same numbers in another shape, order or type: reshape, transpose, broadcast, flip, cast."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.core import DTYPES, FLOATS, Case, Launch, Node, Op, Sample, Shape, apply, broadcast_shape, count, register
from engine.errors import DtypeError, ShapeError
from engine.kernels.library import define
from engine.ops.elementwise_grid import define_cast
from engine.ops.movement import move, strides


def axis_of(axis: int, rank: int, op: str) -> int:
    """An axis counted from the front. Raises ShapeError where there is none such."""
    if not -rank <= axis < rank:
        raise ShapeError(f"{op}: there is no axis {axis} in an array of {rank} axes; axes are counted from 0, or from the last as -1")
    return axis % rank


# ---------------------------------------------------------------- reshape

def _reshape_shape(x: Node, shape: Sequence[int]) -> tuple[Shape, str]:
    found = tuple(int(n) for n in shape)
    if found.count(-1) == 1:
        known = -count(found)
        found = tuple(x.size // known if n == -1 and known else n for n in found)
    if min(found, default=0) < 0 or count(found) != x.size:
        raise ShapeError(f"reshape of {list(x.shape)} to {list(shape)}: {x.size} elements do not fit; one length may be -1, which is worked out")
    return found, x.dtype


def _reshape_oracle(x: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    return np.asarray(x).ravel().reshape(tuple(shape))


register(Op(
    "reshape", shape=_reshape_shape, oracle=_reshape_oracle, launch=lambda node: [move(node.dtype, node, node.inputs[0], node.shape)],
    vjp=lambda node, ct: [apply("reshape", ct, shape=node.inputs[0].shape)],
    jvp=lambda node, tangents: None if tangents[0] is None else apply("reshape", tangents[0], shape=node.shape),
    cases=(Case("merge", (Sample((3, 4, 5)),), {"shape": (12, 5)}), Case("infer", (Sample((6, 4)),), {"shape": (3, -1)}),
           Case("empty batch", (Sample((0, 4)),), {"shape": (0, 2, 2)}), Case("one", (Sample((1,)),), {"shape": ()})),
    description="The same elements in the same order under another shape."))


# ---------------------------------------------------------------- transpose

def _axes(x: Node | np.ndarray, axes: Sequence[int] | None) -> tuple[int, ...]:
    return tuple(reversed(range(x.ndim))) if axes is None else tuple(axis_of(int(a), x.ndim, "transpose") for a in axes)


def _transpose_shape(x: Node, axes: Sequence[int] | None = None) -> tuple[Shape, str]:
    order = _axes(x, axes)
    if sorted(order) != list(range(x.ndim)):
        raise ShapeError(f"transpose: axes {list(order)} must name each of the {x.ndim} axes of {list(x.shape)} once")
    return tuple(x.shape[a] for a in order), x.dtype


def _transpose_launch(node: Node) -> list[Launch]:
    x, = node.inputs
    steps = strides(x.shape)
    return [move(node.dtype, node, x, node.shape, in_steps=[steps[a] for a in _axes(x, node.attrs["axes"])])]


def _transpose_back(node: Node, ct: Node) -> list[Node]:
    order = _axes(node.inputs[0], node.attrs["axes"])
    return [apply("transpose", ct, axes=tuple(order.index(a) for a in range(len(order))))]


register(Op(
    "transpose", shape=_transpose_shape, oracle=lambda x, axes=None: np.einsum(x, range(x.ndim), _axes(x, axes)), launch=_transpose_launch,
    vjp=_transpose_back, jvp=lambda node, tangents: None if tangents[0] is None else apply("transpose", tangents[0], axes=node.attrs["axes"]),
    cases=(Case("matrix", (Sample((19, 37)),)), Case("heads", (Sample((2, 5, 3, 4)),), {"axes": (0, 2, 1, 3)}),
           Case("batched", (Sample((3, 4, 5)),), {"axes": (0, 2, 1)}), Case("turned", (Sample((2, 3, 4)),), {"axes": (2, 0, 1)}),
           Case("empty batch", (Sample((0, 3)),)), Case("integers", (Sample((3, 2), 0, 9, "int32"),), gradient=False),
           Case("bytes", (Sample((18, 5), 0, 9, "uint8"),), gradient=False), Case("one", (Sample((1,)),))),
    defaults={"axes": None}, description="Axes in another order, by default reversed."))


# ---------------------------------------------------------------- broadcast

def _broadcast_shape(x: Node, shape: Sequence[int]) -> tuple[Shape, str]:
    found = tuple(int(n) for n in shape)
    if broadcast_shape(x.shape, found) != found:
        raise ShapeError(f"broadcast: {list(x.shape)} does not stretch to {list(found)}: axes, counted from the last, must be equal or 1")
    return found, x.dtype


def _broadcast_launch(node: Node) -> list[Launch]:
    x, = node.inputs
    padded = (1,) * (node.ndim - x.ndim) + x.shape
    steps = [0 if n == 1 else step for n, step in zip(padded, strides(padded), strict=True)]
    return [move(node.dtype, node, x, node.shape, in_steps=steps)]


def _broadcast_back(node: Node, ct: Node) -> list[Node]:
    source = node.inputs[0].shape
    padded = (1,) * (node.ndim - len(source)) + source
    axes = tuple(i for i, n in enumerate(padded) if n == 1 and node.shape[i] != 1)
    total = apply("sum", ct, axis=axes) if axes else ct
    return [total if total.shape == source else apply("reshape", total, shape=source)]


register(Op(
    "broadcast", shape=_broadcast_shape, oracle=lambda x, shape: np.ones(shape, np.asarray(x).dtype) * x,
    launch=_broadcast_launch, vjp=_broadcast_back,
    jvp=lambda node, tangents: None if tangents[0] is None else apply("broadcast", tangents[0], shape=node.shape),
    cases=(Case("rows", (Sample((5,)),), {"shape": (7, 5)}), Case("columns", (Sample((7, 1)),), {"shape": (7, 5)}),
           Case("middle", (Sample((2, 1, 3)),), {"shape": (2, 4, 3)}), Case("number", (Sample(()),), {"shape": (3, 4)}),
           Case("both", (Sample((1, 4, 1)),), {"shape": (2, 4, 3)}), Case("empty batch", (Sample((5,)),), {"shape": (0, 5)})),
    description="The array repeated along axes where it has length 1, or none; its derivative is a sum."))


# ---------------------------------------------------------------- flip

def _flipped(x: Node | np.ndarray, axis: int | Sequence[int]) -> tuple[int, ...]:
    return tuple(axis_of(a, x.ndim, "flip") for a in ((axis,) if isinstance(axis, int) else axis))


def _flip_shape(x: Node, axis: int | Sequence[int] = -1) -> tuple[Shape, str]:
    _flipped(x, axis)
    return x.shape, x.dtype


def _flip_launch(node: Node) -> list[Launch]:
    x, = node.inputs
    axes, steps = _flipped(x, node.attrs["axis"]), strides(x.shape)
    start = sum(steps[a] * (x.shape[a] - 1) for a in axes) if x.size else 0
    return [move(node.dtype, node, x, node.shape, in_steps=[-s if i in axes else s for i, s in enumerate(steps)], in_start=start)]


register(Op(
    "flip", shape=_flip_shape, oracle=lambda x, axis=-1: np.flip(x, axis), launch=_flip_launch,
    vjp=lambda node, ct: [apply("flip", ct, axis=node.attrs["axis"])],
    jvp=lambda node, tangents: None if tangents[0] is None else apply("flip", tangents[0], axis=node.attrs["axis"]),
    cases=(Case("last", (Sample((3, 5)),)), Case("first", (Sample((4, 3)),), {"axis": 0}), Case("two", (Sample((4, 3, 2)),), {"axis": (0, 1)}),
           Case("empty batch", (Sample((0, 3)),), {"axis": 0}), Case("one", (Sample((1,)),))),
    defaults={"axis": -1}, description="The elements in reverse order along an axis, or along several."))


# ---------------------------------------------------------------- cast

for _source in DTYPES:
    for _target in DTYPES:
        define(f"cast_{_source}_{_target}", f"""def run(arena, words, begin, end):
    y = view(arena, words[0] + begin * {np.dtype(_target).itemsize}, {_target})
    x = view(arena, words[2] + begin * {np.dtype(_source).itemsize}, {_source})
    for i in range(end - begin):
        store(y, i, {_target}(load(x, i)))
""")
        define_cast(f"cast_{_source}_{_target}", _source, _target)


def _cast_shape(x: Node, dtype: str) -> tuple[Shape, str]:
    if dtype not in DTYPES:
        raise DtypeError(f"cast to {dtype}: the engine computes in {', '.join(DTYPES)}")
    return x.shape, dtype


def _cast_launch(node: Node) -> list[Launch]:
    x, = node.inputs
    return [Launch(f"cast_{x.dtype}_{node.dtype}", "float32", (node, 0, x, 0, 1), node.size, cost=0.3, elementwise=True)]


register(Op(
    "cast", shape=_cast_shape, launch=_cast_launch,
    oracle=lambda x, dtype: np.trunc(x).astype(dtype) if dtype not in FLOATS else np.asarray(x, dtype),
    vjp=lambda node, ct: [apply("cast", ct, dtype=node.inputs[0].dtype) if {node.dtype, node.inputs[0].dtype} <= set(FLOATS) else None],
    jvp=lambda node, tangents: None if tangents[0] is None or node.dtype not in FLOATS else apply("cast", tangents[0], dtype=node.dtype),
    cases=(*(Case(f"{s} to {t}", (Sample((7, 3), 0, 100, s),), {"dtype": t}, gradient=False) for s, t in (
        ("uint8", "float32"), ("int32", "float64"), ("int64", "int32"), ("int32", "int64"), ("float", "int32"), ("float", "uint8"))),
           Case("to float64", (Sample((5, 2)),), {"dtype": "float64"})),
    description="The numbers in another type; whole numbers are cut towards 0."))
