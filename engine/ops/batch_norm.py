"""batch_norm: each feature moved and scaled by its moments (Ioffe and Szegedy 2015), kept whole, with its way back.

Arrays are read as in `moments`: in rows of several lanes, sums taken in fixed blocks of rows.
"""

# pyright: reportUndefinedVariable=false
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.core import FLOATS, Case, Launch, Node, Op, Sample, Scratch, Shape, apply, register
from engine.errors import DtypeError, ShapeError
from engine.kernels.library import define, kernel
from engine.ops.batch_norm_grid import define_rows
from engine.ops.moments import ACROSS, LEAST_ROWS, block_of, flat, lanes_of

# ---------------------------------------------------------------- kernels

# Rows of numbers that belong to the features, each repeated for every lane. Words: out, moments, features, lanes, epsilon, then what is named.
_ROWS = """def run(arena, words, begin, end):
    features, lanes, epsilon = words[2], words[3], real(number_of(words[4]))
    columns = features * lanes
    out, moments = view(arena, words[0], real), view(arena, words[1], real)
    {names}
    for j in range(lanes):
        for i in range(features):
            c = j * features + i
            scale = 1.0 / sqrt(moments[features + i] + epsilon)
            {rows}
"""


_READ = "view(arena, words[{}], real)", "real(number_of(words[{}]))"


def _rows(name: str, rows: str, *names: str) -> None:
    """`share` is a number, any other name an array."""
    found = "; ".join(f"{n} = {_READ[n == 'share'].format(5 + k)}" for k, n in enumerate(names)) or "pass"
    made = "; ".join(f"out[{k} * columns + c] = {row}" for k, row in enumerate(rows.split("; ")))
    define(name, _ROWS.format(names=found, rows=made))
    define_rows(name, found, made)


_rows("batch_norm_rows", "moments[i]; weight[i] * scale; bias[i]", "weight", "bias")
_rows("batch_norm_sums_rows", "moments[i]; scale")
_rows("batch_norm_grad_rows", "moments[i]; weight[i] * scale; sums[i] * share; sums[features + i] * scale * share", "weight", "sums", "share")


@kernel("batch_norm")
def batch_norm_kernel(arena, words, begin, end):
    """out = (x - mean) scale + bias. Words: out, x, rows of mean, scale and bias, columns."""
    columns, rows, size = words[3], view(arena, words[2], real), end - begin
    x, y = view(arena, words[1] + begin * WIDTH, real), view(arena, words[0] + begin * WIDTH, real)
    whole = size // (2 * columns) * 2 * columns
    for first in range(0, whole, 2 * columns):      # two rows at once: what belongs to the columns is read half as often
        second = first + columns
        for c in range(columns):
            mean, scale, bias = load(rows, c), load(rows, columns + c), load(rows, 2 * columns + c)
            y0, y1 = (load(x, first + c) - mean) * scale + bias, (load(x, second + c) - mean) * scale + bias
            store(y, first + c, y0)
            store(y, second + c, y1)
    for first in range(whole, size, columns):
        for c in range(min(columns, size - first)):
            store(y, first + c, (load(x, first + c) - load(rows, c)) * load(rows, columns + c) + load(rows, 2 * columns + c))


@kernel("batch_norm_sums_blocks")
def sums_blocks(arena, words, begin, end):
    """Sums of ct, then of ct (x - mean) scale, of each column of each block. Words: out, ct, x, rows of mean and scale, numbers, numbers in a block,
    columns."""
    columns, rows = words[6], view(arena, words[3], real)
    blocks = (words[4] + words[5] - 1) // words[5]
    for b in range(begin, end):
        size = min(words[5], words[4] - b * words[5])
        ct = view(arena, words[1] + b * words[5] * WIDTH, real)
        x = view(arena, words[2] + b * words[5] * WIDTH, real)
        total = view(arena, words[0] + b * columns * WIDTH, real)
        along = view(arena, words[0] + (blocks + b) * columns * WIDTH, real)
        for c in range(columns):
            store(total, c, 0.0)
            store(along, c, 0.0)
        whole = size // (4 * columns) * 4 * columns
        for first in range(0, whole, 4 * columns):
            r0, r1, r2, r3 = first, first + columns, first + 2 * columns, first + 3 * columns
            for c in range(columns):
                mean = load(rows, c)
                t0, t1, t2, t3 = load(ct, r0 + c), load(ct, r1 + c), load(ct, r2 + c), load(ct, r3 + c)
                near = t0 * (load(x, r0 + c) - mean) + t1 * (load(x, r1 + c) - mean)
                store(total, c, total[c] + ((t0 + t1) + (t2 + t3)))
                store(along, c, along[c] + (near + (t2 * (load(x, r2 + c) - mean) + t3 * (load(x, r3 + c) - mean))))
        for first in range(whole, size, columns):
            for c in range(min(columns, size - first)):
                total[c] += ct[first + c]
                along[c] += ct[first + c] * (x[first + c] - rows[c])
        for c in range(columns):
            along[c] *= rows[columns + c]


@kernel("batch_norm_grad")
def grad_kernel(arena, words, begin, end):
    """out = scale (ct - level - (x - mean) slope). Words: out, ct, x, rows of mean, scale, level and slope, columns."""
    columns, rows, size = words[4], view(arena, words[3], real), end - begin
    ct, x, y = view(arena, words[1] + begin * WIDTH, real), view(arena, words[2] + begin * WIDTH, real), view(arena, words[0] + begin * WIDTH, real)
    whole = size // (2 * columns) * 2 * columns
    for first in range(0, whole, 2 * columns):
        second = first + columns
        for c in range(columns):
            mean, scale, level, steep = load(rows, c), load(rows, columns + c), load(rows, 2 * columns + c), load(rows, 3 * columns + c)
            y0 = scale * (load(ct, first + c) - level - (load(x, first + c) - mean) * steep)
            y1 = scale * (load(ct, second + c) - level - (load(x, second + c) - mean) * steep)
            store(y, first + c, y0)
            store(y, second + c, y1)
    for first in range(whole, size, columns):
        for c in range(min(columns, size - first)):
            slope = (load(x, first + c) - load(rows, c)) * load(rows, 3 * columns + c)
            store(y, first + c, load(rows, columns + c) * (load(ct, first + c) - load(rows, 2 * columns + c) - slope))


# ---------------------------------------------------------------- launches

def _width(node: Node) -> int:
    return np.dtype(node.dtype).itemsize


def _made_with(node: Node, kernel: str, count: int, moments: Node, *more: Any) -> tuple[Launch, Scratch, int]:
    """The launch that makes `count` rows of the features' numbers, where they are, and how long they are."""
    features = moments.shape[1]
    lanes = lanes_of(features)
    rows = Scratch(count * features * lanes * _width(node))
    return Launch(kernel, node.dtype, (rows, moments, features, lanes, float(node.attrs["epsilon"]), *more), 1), rows, features * lanes


def _launch(node: Node) -> list[Launch]:
    x, moments, weight, bias = node.inputs
    prepare, rows, columns = _made_with(node, "batch_norm_rows", 3, moments, weight, bias)
    return [prepare, Launch("batch_norm", node.dtype, (node, x, rows, columns), x.size, grain=columns, cost=0.2, elementwise=True)]


def _sums_launch(node: Node, on_gpu: bool = False) -> list[Launch]:
    ct, x, moments = node.inputs
    prepare, rows, columns = _made_with(node, "batch_norm_sums_rows", 2, moments)
    block, blocks = block_of(x, LEAST_ROWS if on_gpu else 1)
    parts, lanes = Scratch(2 * blocks * columns * _width(x)), blocks * lanes_of(x.shape[-1])
    kernel, size = ("batch_norm_sums_tiles", blocks * -(-columns // ACROSS)) if on_gpu else ("batch_norm_sums_blocks", blocks)
    return [prepare, Launch(kernel, x.dtype, (parts, ct, x, rows, x.size, block, columns), size, cost=0.3 * block),
            Launch("sum_across", x.dtype, (node, parts, lanes, max(lanes, 1), 1, 1.0, x.shape[-1]), node.size, cost=0.2 * lanes)]


def _grad_launch(node: Node) -> list[Launch]:
    ct, x, moments, weight, sums = node.inputs
    share = x.shape[-1] / x.size if x.size else 0.0
    prepare, rows, columns = _made_with(node, "batch_norm_grad_rows", 4, moments, weight, sums, share)
    return [prepare, Launch("batch_norm_grad", node.dtype, (node, ct, x, rows, columns), x.size, grain=columns, cost=0.3, elementwise=True)]


# ---------------------------------------------------------------- meaning

def _check(name: str, x: Node, *rows: Node) -> None:
    if x.ndim < 2 or not x.shape[-1]:
        raise ShapeError(f"{name} takes rows of at least one feature, found {list(x.shape)}")
    if {n.dtype for n in (x, *rows)} != {x.dtype} or x.dtype not in FLOATS:
        raise DtypeError(f"{name} takes floats of one type, found {' and '.join(sorted({n.dtype for n in (x, *rows)}))}; cast first")
    features = x.shape[-1:]
    for row, shape in zip(rows, ((2, *features), features, (2, *features) if name.endswith("grad") else features), strict=False):
        if row.shape != shape:
            raise ShapeError(f"{name} of {list(x.shape)} takes {list(shape)} beside it, found {list(row.shape)}")


def _shape(x: Node, moments: Node, weight: Node, bias: Node, epsilon: float = 1e-5) -> tuple[Shape, str]:
    _check("batch_norm", x, moments, weight, bias)
    return x.shape, x.dtype


def _sums_shape(ct: Node, x: Node, moments: Node, epsilon: float = 1e-5) -> tuple[Shape, str]:
    _check("batch_norm_sums", x, moments)
    return moments.shape, x.dtype


def _grad_shape(ct: Node, x: Node, moments: Node, weight: Node, sums: Node, epsilon: float = 1e-5) -> tuple[Shape, str]:
    _check("batch_norm_grad", x, moments, weight, sums)
    return x.shape, x.dtype


def _distance(x: np.ndarray, moments: np.ndarray, epsilon: float) -> np.ndarray:
    return (x - moments[0]) / np.sqrt(moments[1] + epsilon)


def _sums_oracle(ct: np.ndarray, x: np.ndarray, moments: np.ndarray, epsilon: float = 1e-5) -> np.ndarray:
    return np.stack([flat(ct).sum(0), np.einsum("rc,rc->c", flat(ct), flat(_distance(x, moments, epsilon)))])


def _grad_oracle(ct: np.ndarray, x: np.ndarray, moments: np.ndarray, weight: np.ndarray, sums: np.ndarray, epsilon: float = 1e-5) -> np.ndarray:
    mean_ct, mean_along = sums / max(len(flat(x)), 1)
    return weight / np.sqrt(moments[1] + epsilon) * (ct - mean_ct - _distance(x, moments, epsilon) * mean_along)


def _axes(x: Node) -> tuple[int, ...]:
    return tuple(range(x.ndim - 1))


def _parts(x: Node, moments: Node, epsilon: float) -> tuple[Node, Node]:
    """(x - mean) / deviation, and 1 / deviation."""
    scale = apply("rsqrt", moments[1] + epsilon)
    return (x - moments[0]) * scale, scale


def _compose(node: Node) -> Node:
    x, moments, weight, bias = node.inputs
    return _parts(x, moments, node.attrs["epsilon"])[0] * weight + bias


def _sums_compose(node: Node) -> Node:
    ct, x, moments = node.inputs
    return apply("stack", ct.sum(_axes(x)), (ct * _parts(x, moments, node.attrs["epsilon"])[0]).sum(_axes(x)))


def _grad_compose(node: Node) -> Node:
    ct, x, moments, weight, sums = node.inputs
    y, scale = _parts(x, moments, node.attrs["epsilon"])
    share = x.shape[-1] / x.size if x.size else 0.0
    return weight * scale * (ct - sums[0] * share - y * (sums[1] * share))


def _vjp(node: Node, ct: Node) -> Sequence[Node | None]:
    """Where the moments are those of x, what reaches x through them is counted in its own derivative."""
    (x, moments, weight, _), epsilon = node.inputs, node.attrs["epsilon"]
    sums = apply("batch_norm_sums", ct, x, moments, epsilon=epsilon)
    if moments.op.name == "batch_moments" and moments.inputs[0] is x:
        return apply("batch_norm_grad", ct, x, moments, weight, sums, epsilon=epsilon), None, sums[1], sums[0]
    scale = apply("rsqrt", moments[1] + epsilon)
    back = apply("stack", -(weight * scale) * sums[0], -0.5 * weight * apply("square", scale) * sums[1])
    return ct * (weight * scale), back, sums[1], sums[0]


def _cases(*kinds: str) -> tuple[Case, ...]:
    """`x` an array, `m` moments, `s` sums, `c` one number for each feature."""
    def sample(kind: str, shape: Shape) -> Sample:
        low = 0.5 if kind == "m" else -2.0
        return Sample(shape if kind == "x" else shape[-1:] if kind == "c" else (2, shape[-1]), low)

    shapes = (("rows", (7, 5)), ("four axes", (2, 5, 3, 6)), ("many blocks", (97, 3, 70)), ("one", (1, 1)), ("empty batch", (0, 4)))
    return tuple(Case(name, tuple(sample(k, shape) for k in kinds), {"epsilon": 1e-3}, gradient=name != "many blocks")
                 for name, shape in shapes)


register(Op("batch_norm_sums", shape=_sums_shape, oracle=_sums_oracle, launch=_sums_launch,
            cuda=lambda node: _sums_launch(node, True), compose=_sums_compose, cases=_cases("x", "x", "m"), defaults={"epsilon": 1e-5},
            public=False, description="The cotangents of batch_norm's bias and weight."))
register(Op("batch_norm_grad", shape=_grad_shape, oracle=_grad_oracle, launch=_grad_launch, compose=_grad_compose,
            cases=_cases("x", "x", "m", "c", "s"), defaults={"epsilon": 1e-5}, public=False,
            description="The cotangent carried back through batch_norm and the moments of its batch."))
register(Op("batch_norm", shape=_shape, launch=_launch, vjp=_vjp, compose=_compose,
            oracle=lambda x, moments, weight, bias, epsilon=1e-5: _distance(x, moments, epsilon) * weight + bias,
            cases=_cases("x", "m", "c", "c"), defaults={"epsilon": 1e-5},
            formula="(x - moments[0]) / sqrt(moments[1] + epsilon) * weight + bias",
            description="Each feature moved and scaled by its moments, then by a weight and a bias."))
