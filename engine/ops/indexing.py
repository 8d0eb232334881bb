"""Rows chosen by numbers: gather, its converse scatter_add, and one_hot. A number outside the table gives a row of NaN, and is left out of sums."""

# pyright: reportUndefinedVariable=false
from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.core import FLOATS, Case, Launch, Node, Op, Sample, Shape, apply, count, register, root
from engine.errors import DtypeError, ShapeError
from engine.kernels.library import kernel
from engine.ops.indexing_grid import scattering

INDEX_TYPES = ("int32", "int64", "uint8")


def outside(indices: Node, rows: int) -> float | None:
    """A number among indices whose values are known that is no row of 0 to rows - 1; None where all are, or where nothing is known yet."""
    values = indices.value
    if values is None or not values.size or (values.min() >= 0 and values.max() < rows and (values.dtype.kind in "iu" or not (values % 1).any())):
        return None
    return values[~np.isin(values, np.arange(rows))][0].item()


@kernel("gather")
def gather_kernel(arena, words, begin, end):
    """out[i] = table[index[i]].

    Words: out, table, rows of the table, indices, their bytes, elements of a row; first element of out, from row to row.
    """
    rows, width, step = words[2], words[5], words[7]
    y = view(arena, words[0] + (words[6] + begin * step) * WIDTH, real)
    for i in range(end - begin):
        k = whole_number(arena, words[3], words[4], begin + i)
        if 0 <= k < rows:
            x = view(arena, words[1] + k * width * WIDTH, real)
            for c in range(width):
                store(y, i * step + c, load(x, c))
        else:
            for c in range(width):
                store(y, i * step + c, NAN)


@kernel("scatter_add")
def scatter_add_kernel(arena, words, begin, end):
    """Rows [begin, end) of out[index[i]] += updates[i], in order of i.

    Words: out, updates, indices, their bytes, how many, elements of a row; first element of updates, from row to row.
    """
    width = words[5]
    y = view(arena, words[0] + begin * width * WIDTH, real)
    for c in range((end - begin) * width):
        y[c] = 0.0
    for i in range(words[4]):
        k = whole_number(arena, words[2], words[3], i)
        if begin <= k < end:
            x = view(arena, words[1] + (words[6] + i * words[7]) * WIDTH, real)
            row = view(arena, words[0] + k * width * WIDTH, real)
            for c in range(width):
                store(row, c, row[c] + load(x, c))


@kernel("one_hot")
def one_hot_kernel(arena, words, begin, end):
    """Rows of zeros with a 1 at the class. Words: out, indices, their bytes, classes."""
    classes = words[3]
    y = view(arena, words[0] + begin * classes * WIDTH, real)
    for i in range((end - begin) * classes):
        y[i] = 0.0
    for i in range(end - begin):
        k = whole_number(arena, words[1], words[2], begin + i)
        if 0 <= k < classes:
            y[i * classes + k] = 1.0


def _check(name: str, indices: Node) -> None:
    if indices.dtype not in INDEX_TYPES:
        raise DtypeError(f"{name} takes whole numbers ({', '.join(INDEX_TYPES)}) as indices, found {indices.dtype}; cast them first")


def _bytes(indices: Node) -> int:
    return np.dtype(indices.dtype).itemsize


# ---------------------------------------------------------------- gather

def _gather_shape(table: Node, indices: Node) -> tuple[Shape, str]:
    _check("gather", indices)
    if not table.shape or table.dtype not in FLOATS:
        raise ShapeError(f"gather takes a table of floats with rows, found {table.dtype}{list(table.shape)}")
    return (*indices.shape, *table.shape[1:]), table.dtype


def _gather_oracle(table: np.ndarray, indices: np.ndarray) -> np.ndarray:
    if not len(table):
        return np.full((*indices.shape, *table.shape[1:]), np.nan)
    inside = (indices >= 0) & (indices < len(table))
    found = np.take(table, np.where(inside, indices, 0), axis=0)
    return np.where(inside.reshape(*indices.shape, *[1] * (table.ndim - 1)), found, np.nan)


def gathering(node: Node, out: Node, start: int, step: int) -> Launch:
    """The rows of a gather, written to `out` from element `start` on, `step` elements from row to row: alone, or beside other columns."""
    table, indices = node.inputs
    width = count(table.shape[1:])
    words = (out, table, table.shape[0], indices, _bytes(indices), width, start, step)
    return Launch("gather", node.dtype, words, indices.size, cost=3 + 0.2 * width)


def _gather_forward(node: Node, tangents: Sequence[Node | None]) -> Node | None:
    return None if tangents[0] is None else apply("gather", tangents[0], node.inputs[1])


_PLACES = Sample((7,), 0, 5, "int32")

register(Op("gather", shape=_gather_shape, oracle=_gather_oracle, jvp=_gather_forward,
            launch=lambda node: [gathering(node, node, 0, count(node.inputs[0].shape[1:]))],
            vjp=lambda node, ct: [apply("scatter_add", node.inputs[1], ct, rows=node.inputs[0].shape[0]), None],
            cases=(Case("rows", (Sample((5, 3)), _PLACES)), Case("numbers", (Sample((5,)), Sample((2, 3), 0, 5, "int64"))),
                   Case("outside", (Sample((5, 3)), Sample((9,), -3, 9, "int32")), gradient=False),
                   Case("empty batch", (Sample((5, 3)), Sample((0,), 0, 5, "int32"))),
                   Case("one", (Sample((1, 1)), Sample((), 0, 1, "uint8")))),
            description="Rows of a table by their numbers; NaN for a number that is not in the table."))


# ---------------------------------------------------------------- scatter_add

def _scatter_shape(indices: Node, updates: Node, rows: int) -> tuple[Shape, str]:
    _check("scatter_add", indices)
    if updates.dtype not in FLOATS or updates.shape[:indices.ndim] != indices.shape:
        raise ShapeError(f"scatter_add: float updates of {list(indices.shape)} and more axes are expected, "
                         f"found {updates.dtype}{list(updates.shape)}")
    return (int(rows), *updates.shape[indices.ndim:]), updates.dtype


def _scatter_oracle(indices: np.ndarray, updates: np.ndarray, rows: int) -> np.ndarray:
    out = np.zeros((rows, *updates.shape[indices.ndim:]), updates.dtype)
    inside = (indices >= 0) & (indices < rows)
    np.add.at(out, indices[inside], updates[inside])
    return out


def _scatter_launch(node: Node) -> list[Launch]:
    indices, updates = node.inputs
    width, rows = count(node.shape[1:]), node.shape[0]
    price = 0.1 * width + indices.size * (1 + 0.2 * width) / max(rows, 1)
    whole, start, step = _columns(updates, width)
    return [Launch("scatter_add", node.dtype, (node, whole, indices, _bytes(indices), indices.size, width, start, step), rows, cost=price)]


def _scatter_grid_launch(node: Node) -> list[Launch]:
    indices, updates = node.inputs
    width = count(node.shape[1:])
    return scattering(node, indices, _bytes(indices), width, *_columns(updates, width))


def _columns(updates: Node, width: int) -> tuple[Node, int, int]:
    """Where rows of updates lie: an array, the first element, and from row to row. Columns cut from a wider array are read where they are."""
    cut = root(updates)
    if cut.op.name == "slice" and cut.shape[1:] == (width,) and cut.attrs["start"][0] == 0 and set(cut.attrs["step"] or (1,)) == {1}:
        whole, = cut.inputs
        return whole, cut.attrs["start"][1], whole.shape[1]
    return updates, 0, width


def _scatter_forward(node: Node, tangents: Sequence[Node | None]) -> Node | None:
    return None if tangents[1] is None else apply("scatter_add", node.inputs[0], tangents[1], **node.attrs)


register(Op("scatter_add", shape=_scatter_shape, oracle=_scatter_oracle, launch=_scatter_launch, cuda=_scatter_grid_launch,
            jvp=_scatter_forward, vjp=lambda node, ct: [None, apply("gather", ct, node.inputs[0])],
            cases=(Case("rows", (_PLACES, Sample((7, 3))), {"rows": 5}),
                   Case("numbers", (Sample((2, 3), 0, 5, "int64"), Sample((2, 3))), {"rows": 5}),
                   Case("outside", (Sample((9,), -3, 9, "int32"), Sample((9, 2))), {"rows": 5}, gradient=False),
                   Case("empty batch", (Sample((0,), 0, 5, "int32"), Sample((0, 3))), {"rows": 5})),
            description="Rows added up by their numbers into a table of zeros, in their order."))


# ---------------------------------------------------------------- one_hot

def _one_hot_shape(indices: Node, classes: int, dtype: str = "float32") -> tuple[Shape, str]:
    _check("one_hot", indices)
    if classes < 1 or dtype not in FLOATS:
        raise ShapeError(f"one_hot takes at least one class and a float type, found {classes} and {dtype}")
    return (*indices.shape, int(classes)), dtype


def _one_hot_launch(node: Node) -> list[Launch]:
    indices, = node.inputs
    classes = node.attrs["classes"]
    return [Launch("one_hot", node.dtype, (node, indices, _bytes(indices), classes), indices.size, cost=2 + 0.1 * classes)]


register(Op("one_hot", shape=_one_hot_shape, launch=_one_hot_launch, defaults={"dtype": "float32"},
            oracle=lambda indices, classes, dtype="float32": (indices[..., None] == np.arange(classes)).astype(dtype),
            cases=(Case("rows", (Sample((7,), 0, 4, "int32"),), {"classes": 4}),
                   Case("outside", (Sample((2, 4), -2, 6, "int64"),), {"classes": 4, "dtype": "float64"}),
                   Case("empty batch", (Sample((0,), 0, 4, "int32"),), {"classes": 4}), Case("one", (Sample((), 0, 1, "uint8"),), {"classes": 1})),
            description="A row per number with 1 at its place and 0 elsewhere; all 0 for a number outside."))
