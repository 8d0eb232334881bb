"""Parts of arrays, and arrays made of parts: slice, pad, concat, stack, and what `node[key]` means."""

from __future__ import annotations

from collections.abc import Sequence
from operator import index as index_of
from types import EllipsisType
from typing import Any

import numpy as np

from engine.core import FLOATS, Case, Launch, Node, Op, Sample, Shape, apply, constant, lift, register, root
from engine.errors import DtypeError, ShapeError
from engine.ops.indexing import gathering
from engine.ops.movement import fill, move, strides
from engine.ops.shape import axis_of

Ints = Sequence[int]


def _ones(step: Ints | None, rank: int) -> tuple[int, ...]:
    return (1,) * rank if step is None else tuple(int(s) for s in step)


# ---------------------------------------------------------------- slice, and its converse

def _ranges(start: Ints, stop: Ints, step: Ints | None) -> list[range]:
    return [range(int(a), int(b), s) for a, b, s in zip(start, stop, _ones(step, len(start)), strict=True)]


def _slice_shape(x: Node, start: Ints, stop: Ints, step: Ints | None = None) -> tuple[Shape, str]:
    if not len(start) == len(stop) == len(_ones(step, len(start))) == x.ndim:
        raise ShapeError(f"slice of {list(x.shape)} takes {x.ndim} starts, stops and steps, found {list(start)}, {list(stop)}, {step}")
    found = _ranges(start, stop, step)
    for axis, (r, n) in enumerate(zip(found, x.shape, strict=True)):
        if len(r) and not (0 <= r[0] < n and 0 <= r[-1] < n):
            raise ShapeError(f"slice {r.start}:{r.stop}:{r.step} of axis {axis} leaves its {n} elements")
    return tuple(len(r) for r in found), x.dtype


def _slice_launch(node: Node) -> list[Launch]:
    x, = node.inputs
    steps, start = strides(x.shape), node.attrs["start"]
    step = _ones(node.attrs["step"], x.ndim)
    return [move(node.dtype, node, x, node.shape, in_steps=[s * k for s, k in zip(steps, step, strict=True)],
                 in_start=sum(a * s for a, s in zip(start, steps, strict=True)) if node.size else 0)]


def _slice_back(node: Node, ct: Node) -> list[Node]:
    return [apply("place", ct, shape=node.inputs[0].shape, start=node.attrs["start"], step=node.attrs["step"])]


def _place_shape(x: Node, shape: Ints, start: Ints, step: Ints | None = None) -> tuple[Shape, str]:
    stop = tuple(a + n * s for a, n, s in zip(start, x.shape, _ones(step, x.ndim), strict=True))
    whole = Node(x.op, (), {}, tuple(shape), x.dtype)
    if _slice_shape(whole, start, stop, step)[0] != x.shape:
        raise ShapeError(f"place: {list(x.shape)} from {list(start)} on does not fit into {list(shape)}")
    return tuple(shape), x.dtype


def _place_launch(node: Node) -> list[Launch]:
    x, = node.inputs
    steps, start = strides(node.shape), node.attrs["start"]
    put = move(node.dtype, node, x, x.shape, out_steps=[s * k for s, k in zip(steps, _ones(node.attrs["step"], x.ndim), strict=True)],
               out_start=sum(a * s for a, s in zip(start, steps, strict=True)) if x.size else 0)
    return [fill(node, 0), put]


def _place_oracle(x: np.ndarray, shape: Ints, start: Ints, step: Ints | None = None) -> np.ndarray:
    out = np.zeros(shape, x.dtype)
    places = [a + np.arange(n) * s for a, n, s in zip(start, x.shape, _ones(step, x.ndim), strict=True)]
    out[np.ix_(*places)] = x
    return out


def _place_back(node: Node, ct: Node) -> list[Node]:
    x, start, step = node.inputs[0], node.attrs["start"], _ones(node.attrs["step"], node.ndim)
    return [apply("slice", ct, start=start, stop=tuple(a + n * s for a, n, s in zip(start, x.shape, step, strict=True)), step=step)]


def _linear(node: Node, tangents: Sequence[Node | None]) -> Node | None:
    return None if tangents[0] is None else apply(node.op, tangents[0], **node.attrs)


register(Op(
    "place", shape=_place_shape, oracle=_place_oracle, launch=_place_launch, vjp=_place_back, jvp=_linear, public=False, defaults={"step": None},
    cases=(Case("steps", (Sample((2, 3)),), {"shape": (5, 4), "start": (1, 3), "step": (2, -1)}),
           Case("empty batch", (Sample((0, 3)),), {"shape": (0, 4), "start": (0, 1), "step": (1, 1)})),
    description="Zeros of a shape with the array at regular places: the converse of slice."))


# ---------------------------------------------------------------- node[key]

def index(node: Node, key: Any) -> Node:
    """`node[key]`: numbers, slices, None and ... as in numpy; arrays of whole numbers pick along the axes where they stand, side by side."""
    key = _places_of_mask(key, node.shape) if isinstance(key, np.ndarray) and key.dtype == np.bool_ else key
    keys = list(key) if isinstance(key, tuple) else [key]
    used = sum(k is not None and k is not Ellipsis for k in keys)
    if used > node.ndim:
        raise ShapeError(f"{used} indices for {node.ndim} axes of {list(node.shape)}")
    dots = next((i for i, k in enumerate(keys) if isinstance(k, EllipsisType)), len(keys))
    keys[dots:dots + 1] = [slice(None)] * (node.ndim - used)
    if any(k is Ellipsis for k in keys):
        raise ShapeError("an index holds at most one ellipsis (...)")
    ranges, shape, axis = [], [], 0
    for k in keys:
        if k is None:
            shape.append(1)
            continue
        found = _range_of(k, node.shape[axis], axis)
        ranges.append(found)
        if isinstance(k, slice) or _is_array(k):
            shape.append(len(found))
        axis += 1
    whole = all(r == range(n) for r, n in zip(ranges, node.shape, strict=True))
    part = node if whole else apply("slice", node, **{word: tuple(getattr(r, word) for r in ranges) for word in ("start", "stop", "step")})
    part = part if part.shape == tuple(shape) else apply("reshape", part, shape=tuple(shape))
    return _pick(part, [(i, k) for i, k in enumerate(k for k in keys if k is None or isinstance(k, slice) or _is_array(k)) if _is_array(k)])


def _places_of_mask(mask: np.ndarray, shape: Shape) -> tuple[np.ndarray, ...]:
    if not mask.ndim or mask.shape != shape[:mask.ndim]:
        raise IndexError(f"a mask of {list(mask.shape)} does not fit the first axes of {list(shape)}")
    return np.nonzero(mask)


def _is_array(key: Any) -> bool:
    return isinstance(key, Node | np.ndarray | list) and np.ndim(key) > 0


def _range_of(key: Any, size: int, axis: int) -> range:
    if isinstance(key, slice):
        return range(*key.indices(size))
    if _is_array(key):
        return range(size)
    try:
        i = int(key) if isinstance(key, Node) else index_of(key)
    except (TypeError, ValueError):
        raise TypeError(f"cannot index with {key!r}: give whole numbers, slices, None, ... or arrays of whole numbers") from None
    if not -size <= i < size:
        raise IndexError(f"index {i} is outside axis {axis}, which has {size} elements")
    return range(i % size, i % size + 1)


def _pick(node: Node, arrays: list[tuple[int, Any]]) -> Node:
    """Gather along neighbouring axes by arrays of one shape."""
    if not arrays:
        return node
    first = arrays[0][0]
    if [a for a, _ in arrays] != list(range(first, first + len(arrays))):
        raise ShapeError("index arrays must stand on neighbouring axes")
    places = [_places(k, node.shape[a]) for a, k in arrays]
    sizes = node.shape[first:first + len(arrays)]
    place = places[0]
    for size, more in zip(sizes[1:], places[1:], strict=True):   # row-major number of the picked element; exact in float64 below 2^53
        place = apply("cast", place.astype("float64") * size + more.astype("float64"), dtype="int64")
    picked = apply("reshape", node, shape=(*node.shape[:first], -1, *node.shape[first + len(arrays):])) if len(arrays) > 1 else node
    if first == 0:
        return apply("gather", picked, place)
    front = apply("transpose", picked, axes=(first, *(i for i in range(picked.ndim) if i != first)))
    found = apply("gather", front, place)
    k = place.ndim
    return apply("transpose", found, axes=(*range(k, k + first), *range(k), *range(k + first, found.ndim)))


def _places(key: Any, size: int) -> Node:
    """An array of places as a node; those of numpy are checked, and counted from the end where negative."""
    places = key if isinstance(key, Node) else np.asarray(key)
    if np.dtype(places.dtype).kind not in "iu":
        raise DtypeError(f"an index array holds whole numbers, found {places.dtype}; for a mask use where()")
    if isinstance(places, Node):
        return places
    if places.size and (places.min() < -size or places.max() >= size):
        raise IndexError(f"an index lies outside the {size} elements: they run from {places.min()} to {places.max()}")
    return lift(np.where(places < 0, places + size, places).astype(np.int64))


register(Op(
    "slice", shape=_slice_shape, launch=_slice_launch, vjp=_slice_back, jvp=_linear, defaults={"step": None, "index": index},
    oracle=lambda x, start, stop, step=None: x[np.ix_(*_ranges(start, stop, step))] if x.ndim else x,
    cases=(Case("part", (Sample((5, 7)),), {"start": (1, 2), "stop": (4, 7)}),
           Case("steps", (Sample((5, 7)),), {"start": (4, 0), "stop": (-1, 7), "step": (-2, 3)}),
           Case("empty batch", (Sample((0, 3)),), {"start": (0, 1), "stop": (0, 3)}),
           Case("nothing", (Sample((3, 3)),), {"start": (2, 0), "stop": (2, 3)}),
           Case("one", (Sample((1,)),), {"start": (0,), "stop": (1,)}),
           Case("integers", (Sample((5, 3), 0, 9, "int64"),), {"start": (1, 1), "stop": (4, 2)}, gradient=False)),
    description="The elements from start to stop along each axis, by steps."))


# ---------------------------------------------------------------- pad

def _pad_shape(x: Node, low: Ints, high: Ints, value: float = 0.0) -> tuple[Shape, str]:
    if len(low) != x.ndim or len(high) != x.ndim or min((*low, *high), default=0) < 0:
        raise ShapeError(f"pad of {list(x.shape)} takes {x.ndim} numbers of 0 or more before and after, found {list(low)} and {list(high)}")
    return tuple(int(a + n + b) for a, n, b in zip(low, x.shape, high, strict=True)), x.dtype


def _pad_launch(node: Node) -> list[Launch]:
    x, = node.inputs
    steps = strides(node.shape)
    start = sum(a * s for a, s in zip(node.attrs["low"], steps, strict=True)) if x.size else 0
    return [fill(node, node.attrs["value"]), move(node.dtype, node, x, x.shape, out_steps=steps, out_start=start)]


def _pad_back(node: Node, ct: Node) -> list[Node]:
    low = tuple(node.attrs["low"])
    return [apply("slice", ct, start=low, stop=tuple(a + n for a, n in zip(low, node.inputs[0].shape, strict=True)))]


register(Op(
    "pad", shape=_pad_shape, launch=_pad_launch, vjp=_pad_back,
    oracle=lambda x, low, high, value=0.0: np.pad(x, list(zip(low, high, strict=True)), constant_values=value),
    jvp=lambda node, tangents: None if tangents[0] is None else apply("pad", tangents[0], low=node.attrs["low"], high=node.attrs["high"]),
    cases=(Case("around", (Sample((3, 5)),), {"low": (1, 0), "high": (2, 3), "value": 0.5}),
           Case("one", (Sample((1,)),), {"low": (2,), "high": (0,)}),
           Case("empty batch", (Sample((0, 3)),), {"low": (0, 1), "high": (0, 1)}),
           Case("bytes", (Sample((3,), 0, 9, "uint8"),), {"low": (1,), "high": (1,)}, gradient=False)),
    defaults={"value": 0.0}, description="The array with `low` elements of `value` before and `high` after it along each axis."))


# ---------------------------------------------------------------- concat and stack

def _alike(name: str, xs: Sequence[Node], axis: int) -> None:
    if not xs:
        raise ShapeError(f"{name} takes at least one array")
    if len({x.dtype for x in xs}) > 1:
        raise DtypeError(f"{name} takes arrays of one type, found {' and '.join(sorted({x.dtype for x in xs}))}; cast them first")
    shapes = {x.shape if name == "stack" else (*x.shape[:axis], *x.shape[axis + 1:]) for x in xs}
    if len(shapes) > 1:
        raise ShapeError(f"{name} along axis {axis}: {' and '.join(str(list(x.shape)) for x in xs)} must be equal on every other axis")


def _concat_shape(*xs: Node, axis: int = 0) -> tuple[Shape, str]:
    at = axis_of(axis, xs[0].ndim if xs else 1, "concat")
    _alike("concat", xs, at)
    return (*xs[0].shape[:at], sum(x.shape[at] for x in xs), *xs[0].shape[at + 1:]), xs[0].dtype


def _stack_shape(*xs: Node, axis: int = 0) -> tuple[Shape, str]:
    at = axis_of(axis, xs[0].ndim + 1 if xs else 1, "stack")
    _alike("stack", xs, at)
    return (*xs[0].shape[:at], len(xs), *xs[0].shape[at:]), xs[0].dtype


def _parts(node: Node) -> list[tuple[Node, int, Shape]]:
    """Each input, where it begins along the axis, and the shape that it takes in the output."""
    axis = node.attrs["axis"] % node.ndim
    found, at = [], 0
    for x in node.inputs:
        shape = x.shape if node.op.name == "concat" else (*x.shape[:axis], 1, *x.shape[axis:])
        found.append((x, at, shape))
        at += shape[axis]
    return found


def _join_launch(node: Node) -> list[Launch]:
    steps = strides(node.shape)
    axis = node.attrs["axis"] % node.ndim

    def put(x: Node, at: int, shape: Shape) -> Launch:
        found = root(x)
        if found.op.name == "gather" and node.ndim == 2 and axis == 1 and found.inputs[1].size == node.shape[0]:
            return gathering(found, node, at, node.shape[1])        # rows of a table need not be written twice
        return move(node.dtype, node, x, shape, out_steps=steps, out_start=at * steps[axis])

    return [put(x, at, shape) for x, at, shape in _parts(node) if x.size]


def _join_back(node: Node, ct: Node) -> list[Node]:
    axis = node.attrs["axis"] % node.ndim
    found = []
    for x, at, shape in _parts(node):
        start = tuple(at if i == axis else 0 for i in range(node.ndim))
        part = apply("slice", ct, start=start, stop=tuple(a + n for a, n in zip(start, shape, strict=True)))
        found.append(part if shape == x.shape else apply("reshape", part, shape=x.shape))
    return found


def _join_forward(node: Node, tangents: Sequence[Node | None]) -> Node | None:
    if node.dtype not in FLOATS or all(t is None for t in tangents):
        return None
    zeros = [apply("broadcast", constant(0.0, x.dtype), shape=x.shape) for x in node.inputs]
    return apply(node.op, *(z if t is None else t for z, t in zip(zeros, tangents, strict=True)), axis=node.attrs["axis"])


def _join_cases(*shapes: tuple[str, int, tuple[Shape, ...]]) -> tuple[Case, ...]:
    return tuple(Case(name, tuple(Sample(s) for s in each), {"axis": axis}) for name, axis, each in shapes)


register(Op("concat", shape=_concat_shape, oracle=lambda *xs, axis=0: np.concatenate(xs, axis), launch=_join_launch,
            vjp=_join_back, jvp=_join_forward,
            cases=_join_cases(("rows", 0, ((3, 4), (2, 4))), ("columns", -1, ((3, 4), (3, 1), (3, 2))),
                              ("empty batch", 1, ((0, 4), (0, 2))), ("one", 0, ((1,),)), ("with nothing", 0, ((0, 2), (3, 2)))),
            defaults={"axis": 0}, description="Arrays one after the other along an axis."))
register(Op("stack", shape=_stack_shape, oracle=lambda *xs, axis=0: np.stack(xs, axis), launch=_join_launch, vjp=_join_back, jvp=_join_forward,
            cases=_join_cases(("first", 0, ((3, 4), (3, 4))), ("last", -1, ((3, 4), (3, 4), (3, 4))), ("numbers", 0, ((), ())),
                              ("empty batch", 1, ((0, 2), (0, 2)))),
            defaults={"axis": 0}, description="Arrays side by side along a new axis."))
