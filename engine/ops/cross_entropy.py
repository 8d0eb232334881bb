"""softmax_cross_entropy: what a classifier's last layer and its loss are together, one number per row."""

# pyright: reportUndefinedVariable=false
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from engine import special
from engine.core import FLOATS, Case, Launch, Node, Op, Sample, Scratch, Shape, apply, register
from engine.errors import DtypeError, ShapeError
from engine.kernels.library import kernel
from engine.ops import cross_entropy_grid  # noqa: F401
from engine.ops.indexing import INDEX_TYPES

SUMS = ("contract", "reassoc", "nsz")


@kernel("softmax_cross_entropy", fastmath=SUMS)
def loss_kernel(arena, words, begin, end):
    """out[r] = sum(t) log(sum(exp(x))) - sum(t x). Words: out, x, t, bytes of a label or 0 where t are floats, row length, room for exponentials."""
    wide, n = words[3], words[4]
    out = view(arena, words[0], real)
    block = max(1, 2048 // n)
    for first in range(begin, end, block):
        rows = min(block, end - first)
        y = view(arena, words[5] + first * n * WIDTH, real)
        for r in range(rows):
            x = view(arena, words[1] + (first + r) * n * WIDTH, real)
            top = greatest(x, n)
            for i in range(n):
                store(y, r * n + i, load(x, i) - top)
            out[first + r] = top
        for i in range(rows * n):
            y[i] = exp(y[i])
        for r in range(rows):
            total = 0.0
            for i in range(n):
                total += y[r * n + i]
            y[r] = total        # the row's own exponentials are read already
        for r in range(rows):
            y[r] = log(y[r])
        for r in range(rows):
            x = view(arena, words[1] + (first + r) * n * WIDTH, real)
            shift, top = y[r], out[first + r]
            if wide != 0:
                k = whole_number(arena, words[2], wide, first + r)
                out[first + r] = shift - (x[k] - top) if 0 <= k < n else NAN
            else:
                t = view(arena, words[2] + (first + r) * n * WIDTH, real)
                loss = 0.0
                for i in range(n):
                    loss += select(load(t, i) == 0.0, 0.0, load(t, i) * (shift - (load(x, i) - top)))
                out[first + r] = loss


@kernel("softmax_cross_entropy_grad", fastmath=SUMS)
def grad_kernel(arena, words, begin, end):
    """out = ct (sum(t) softmax(x) - t) per row. Words: out, ct, its step from row to row, x, t, bytes of a label or 0, row length."""
    wide, n = words[5], words[6]
    block = max(1, 2048 // n)
    for first in range(begin, end, block):
        rows = min(block, end - first)
        y = view(arena, words[0] + first * n * WIDTH, real)
        for r in range(rows):
            x = view(arena, words[3] + (first + r) * n * WIDTH, real)
            top = greatest(x, n)
            for i in range(n):
                store(y, r * n + i, load(x, i) - top)
        for i in range(rows * n):
            y[i] = exp(y[i])
        for r in range(rows):
            ct = view(arena, words[1] + (first + r) * words[2] * WIDTH, real)[0]
            total = 0.0
            for i in range(n):
                total += y[r * n + i]
            if wide != 0:
                k = whole_number(arena, words[4], wide, first + r)
                scale = ct / total if 0 <= k < n else NAN
                for i in range(n):
                    y[r * n + i] *= scale
                if 0 <= k < n:
                    y[r * n + k] -= ct
            else:
                t = view(arena, words[4] + (first + r) * n * WIDTH, real)
                weight = 0.0
                for i in range(n):
                    weight += load(t, i)
                scale = weight / total
                for i in range(n):
                    y[r * n + i] = ct * (y[r * n + i] * scale - load(t, i))


# Few classes: sixteen rows side by side, one to a lane, so that no lane is idle and nothing is added up across lanes. MANY rows at a time, Y in
# blocks of [classes, 16], then the greatest of each row, then the sums: room for 18 numbers a row.

MANY = 128


def exponentials(arena, room, at, rows, n):
    """Y = exp(x - greatest) of at most MANY rows of x, and the sums; the number of lanes."""
    lanes = (rows + 15) // 16 * 16
    for i in range(0, lanes, 16):
        x, y = view(arena, at + i * n * WIDTH, real), view(arena, room + i * n * WIDTH, real)
        if rows - i >= 16:
            turn(y, 16, x, n, 16, n)
        else:
            for r in range(rows - i):
                for j in range(n):
                    y[16 * j + r] = x[r * n + j]
        lower(y, n, view(arena, room + (lanes * 16 + i) * WIDTH, real))
    y = view(arena, room, real)
    for i in range(lanes * n):
        y[i] = exp(y[i])
    for i in range(0, lanes, 16):
        total(view(arena, room + i * n * WIDTH, real), n, view(arena, room + (lanes * 17 + i) * WIDTH, real))
    return lanes


@kernel("softmax_cross_entropy_few", fastmath=SUMS, uses=(exponentials,))
def few_loss_kernel(arena, words, begin, end):
    """As softmax_cross_entropy, for class numbers. Words: out, x, labels, their bytes, row length, room."""
    n = words[4]
    for first in range(begin, end, 128):
        rows, room = min(128, end - first), words[5] + first * 18 * WIDTH
        lanes = exponentials(arena, room, words[1] + first * n * WIDTH, rows, n)
        x, out = view(arena, words[1] + first * n * WIDTH, real), view(arena, words[0] + first * WIDTH, real)
        top, sums = view(arena, room + lanes * 16 * WIDTH, real), view(arena, room + lanes * 17 * WIDTH, real)
        for i in range(rows):
            out[i] = log(sums[i])
        for i in range(rows):
            k = whole_number(arena, words[2], words[3], first + i)
            out[i] = out[i] - (x[i * n + k] - top[i]) if 0 <= k < n else NAN


@kernel("softmax_cross_entropy_few_grad", fastmath=SUMS, uses=(exponentials,))
def few_grad_kernel(arena, words, begin, end):
    """As softmax_cross_entropy_grad, for class numbers. Words: out, ct, its step from row to row, x, labels, their bytes, row length, room."""
    n, step = words[6], words[2]
    for first in range(begin, end, 128):
        rows, room = min(128, end - first), words[7] + first * 18 * WIDTH
        lanes = exponentials(arena, room, words[3] + first * n * WIDTH, rows, n)
        ct, sums = view(arena, words[1] + first * step * WIDTH, real), view(arena, room + lanes * 17 * WIDTH, real)
        for i in range(rows):
            sums[i] = ct[i * step] / sums[i]
        for i in range(0, lanes, 16):
            out, y = view(arena, words[0] + (first + i) * n * WIDTH, real), view(arena, room + i * n * WIDTH, real)
            scale(y, n, view(arena, room + (lanes * 17 + i) * WIDTH, real))
            if rows - i >= 16:
                turn(out, n, y, 16, n, 16)
            else:
                for r in range(rows - i):
                    for j in range(n):
                        out[r * n + j] = y[16 * j + r]
        out = view(arena, words[0] + first * n * WIDTH, real)
        for i in range(rows):
            k = whole_number(arena, words[4], words[5], first + i)
            if 0 <= k < n:
                out[i * n + k] -= ct[i * step]
            else:
                for j in range(n):
                    out[i * n + j] = NAN


# ---------------------------------------------------------------- meaning

def _shape(logits: Node, labels: Node) -> tuple[Shape, str]:
    if logits.ndim != 2 or logits.dtype not in FLOATS or not logits.shape[1]:
        raise ShapeError(f"softmax_cross_entropy takes float logits [rows, classes], found {logits.dtype}{list(logits.shape)}")
    if labels.dtype in INDEX_TYPES:
        if labels.shape != logits.shape[:1]:
            raise ShapeError(f"softmax_cross_entropy: {logits.shape[0]} rows of logits take as many class numbers, found {list(labels.shape)}")
    elif labels.shape != logits.shape:
        raise ShapeError(f"softmax_cross_entropy: targets {list(labels.shape)} must have the shape of the logits, {list(logits.shape)}; "
                         "or give class numbers")
    elif labels.dtype != logits.dtype:
        raise DtypeError(f"softmax_cross_entropy: logits are {logits.dtype} and targets {labels.dtype}; cast one")
    return logits.shape[:1], logits.dtype


def _targets(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Class numbers as rows of probabilities, NaN where there is no such class."""
    if labels.dtype.kind == "f":
        return labels
    rows = np.equal.outer(labels, np.arange(logits.shape[1])).astype(logits.dtype)
    return np.where(rows.sum(1, keepdims=True) == 1, rows, np.nan)


def _oracle(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return -(_targets(logits, labels) * special.log_softmax(logits, 1)).sum(1)


def _grad_oracle(ct: np.ndarray, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    targets = _targets(logits, labels)
    return ct[:, None] * (special.softmax(logits, 1) * targets.sum(1, keepdims=True) - targets)


def _whole(labels: Node) -> bool:
    return labels.dtype in INDEX_TYPES


def _as_targets(logits: Node, labels: Node) -> Node:
    return apply("one_hot", labels, classes=logits.shape[1], dtype=logits.dtype) if _whole(labels) else labels


def _compose(node: Node) -> Node:
    logits, labels = node.inputs
    return -(_as_targets(logits, labels) * apply("log_softmax", logits)).sum(1)


def _grad_compose(node: Node) -> Node:
    ct, logits, labels = node.inputs
    targets = _as_targets(logits, labels)
    weight = 1.0 if _whole(labels) else targets.sum(1, keepdims=True)
    return ct.reshape(-1, 1) * (apply("softmax", logits) * weight - targets)


def _vjp(node: Node, ct: Node) -> Sequence[Node | None]:
    logits, labels = node.inputs
    back = apply("softmax_cross_entropy_grad", ct, logits, labels)
    return back, None if _whole(labels) else -ct.reshape(-1, 1) * apply("log_softmax", logits)


# ---------------------------------------------------------------- launches

def _label_bytes(labels: Node) -> int:
    return np.dtype(labels.dtype).itemsize if _whole(labels) else 0


def _few(labels: Node, classes: int) -> bool:
    return _whole(labels) and classes <= 16


def _room(dtype: str, rows: int) -> Scratch:
    """18 numbers for each row."""
    return Scratch(-(-rows // 16) * 16 * 18 * np.dtype(dtype).itemsize)


def _launch(node: Node) -> list[Launch]:
    logits, labels = node.inputs
    rows, n = logits.shape
    if _few(labels, n):
        words = (node, logits, labels, _label_bytes(labels), n, _room(node.dtype, rows))
        return [Launch("softmax_cross_entropy_few", node.dtype, words, rows, grain=MANY, cost=3 + 0.5 * n)]
    room = Scratch(rows * n * np.dtype(node.dtype).itemsize)
    return [Launch("softmax_cross_entropy", node.dtype, (node, logits, labels, _label_bytes(labels), n, room), rows, cost=10 + n)]


def _grad_words(node: Node) -> tuple[Any, ...]:
    ct, logits, labels = node.inputs
    step = 1
    if ct.op.name == "broadcast" and ct.inputs[0].size == 1:   # the mean's share is the same for every row
        ct, step = ct.inputs[0], 0
    return node, ct, step, logits, labels, _label_bytes(labels), node.shape[1]


def _grad_launch(node: Node) -> list[Launch]:
    if _few(node.inputs[2], node.shape[1]):
        words = (*_grad_words(node), _room(node.dtype, node.shape[0]))
        return [Launch("softmax_cross_entropy_few_grad", node.dtype, words, node.shape[0], grain=MANY, cost=3 + 0.5 * node.shape[1])]
    return [Launch("softmax_cross_entropy_grad", node.dtype, _grad_words(node), node.shape[0], cost=10 + 1.2 * node.shape[1])]


def _grid_launch(node: Node) -> list[Launch]:
    """On a GPU: of any number of classes, without room."""
    logits, labels = node.inputs
    return [Launch("softmax_cross_entropy", node.dtype, (node, logits, labels, _label_bytes(labels), logits.shape[1], 0), node.size)]


def _grid_grad_launch(node: Node) -> list[Launch]:
    return [Launch("softmax_cross_entropy_grad", node.dtype, _grad_words(node), node.shape[0])]


def _cases(back: bool) -> tuple[Case, ...]:
    def case(name: str, rows: int, classes: int, labels: Sample, gradient: bool = True) -> Case:
        return Case(name, ((Sample((rows,)),) if back else ()) + (Sample((rows, classes), -4.0, 4.0), labels), gradient=gradient)

    return (case("class numbers", 7, 5, Sample((7,), 0, 5, "int32")), case("wide numbers", 3, 150, Sample((3,), 0, 150, "int64")),
            case("probabilities", 6, 4, Sample((6, 4), 0.0, 1.0)), case("empty batch", 0, 5, Sample((0,), 0, 5, "int32")),
            case("unknown classes", 9, 3, Sample((9,), -1, 5, "int32"), gradient=False),
            case("many rows", 300, 10, Sample((300,), 0, 10, "uint8"), gradient=False),
            case("one", 1, 1, Sample((1,), 0, 1, "int32")))


register(Op("softmax_cross_entropy_grad", shape=lambda ct, logits, labels: (logits.shape, logits.dtype), oracle=_grad_oracle,
            launch=_grad_launch, cuda=_grid_grad_launch, compose=_grad_compose, cases=_cases(True), public=False,
            description="The cotangent carried back to the logits."))
register(Op("softmax_cross_entropy", shape=_shape, oracle=_oracle, launch=_launch, cuda=_grid_launch, vjp=_vjp, compose=_compose,
            cases=_cases(False),
            formula="-sum(targets * log_softmax(logits))",
            description="The cross entropy of each row of logits against its class number, or a row of probabilities; NaN for an unknown class."))
