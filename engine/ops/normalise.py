"""layer_norm: each row moved to mean 0 and scaled to deviation 1 (Ba, Kiros and Hinton 2016, without the gain), kept whole."""

# pyright: reportUndefinedVariable=false
from __future__ import annotations

import numpy as np

from engine.core import FLOATS, Case, Launch, Node, Op, Sample, Shape, apply, register
from engine.errors import DtypeError, ShapeError
from engine.kernels.grid import grid
from engine.kernels.library import kernel
from engine.ops.teams import TEAMS, THREADS

SUMS = ("contract", "reassoc", "nsz")


@kernel("layer_norm", fastmath=SUMS)
def layer_norm_kernel(arena, words, begin, end):
    """Rows from the number `begin` to the number `end`. Words: out, in, row length, epsilon."""
    n, epsilon = words[2], real(number_of(words[3]))
    share = 1.0 / real(n)
    for r in range(begin // n, end // n):
        x = view(arena, words[1] + r * n * WIDTH, real)
        y = view(arena, words[0] + r * n * WIDTH, real)
        total = 0.0
        for i in range(n):
            total += load(x, i)
        mean = total * share
        squares = 0.0
        for i in range(n):
            squares += (load(x, i) - mean) * (load(x, i) - mean)
        scale = 1.0 / sqrt(squares * share + epsilon)
        for i in range(n):
            store(y, i, (load(x, i) - mean) * scale)


@kernel("layer_norm_grad", fastmath=SUMS)
def layer_norm_grad_kernel(arena, words, begin, end):
    """out = scale (ct - mean(ct) - y mean(ct y)), y = (x - mean) scale made anew. Words: out, ct, x, row length, epsilon."""
    n, epsilon = words[3], real(number_of(words[4]))
    share = 1.0 / real(n)
    for r in range(begin // n, end // n):
        ct = view(arena, words[1] + r * n * WIDTH, real)
        x = view(arena, words[2] + r * n * WIDTH, real)
        out = view(arena, words[0] + r * n * WIDTH, real)
        total, slope = 0.0, 0.0
        for i in range(n):
            total += load(x, i)
            slope += load(ct, i)
        mean, slope = total * share, slope * share
        squares, along = 0.0, 0.0
        for i in range(n):
            squares += (load(x, i) - mean) * (load(x, i) - mean)
            along += load(ct, i) * (load(x, i) - mean)
        scale = 1.0 / sqrt(squares * share + epsilon)
        along = along * share * scale * scale
        for i in range(n):
            store(out, i, scale * (load(ct, i) - slope - (load(x, i) - mean) * along))


@grid("layer_norm", threads=THREADS, uses=TEAMS)
def layer_norm_grid(arena, words, size):
    """A team of threads for each row. Words: out, in, row length, epsilon."""
    n, epsilon, room = int32(words[2]), real(number_of(words[3])), cuda.shared.array(32, real)
    lanes, rows, share = team_of(n), int32(size) // n, 1.0 / real(n)
    teams, lane = cuda.blockDim.x // lanes, cuda.threadIdx.x % lanes
    for first in range(cuda.blockIdx.x * teams, rows, cuda.gridDim.x * teams):
        row = first + cuda.threadIdx.x // lanes
        mine = n if row < rows else 0
        x = view(arena, words[1] + row * n * WIDTH, real)
        y = view(arena, words[0] + row * n * WIDTH, real)
        total, squares = 0.0, 0.0
        for i in range(lane, mine, lanes):
            total += load(x, i)
        mean = team_sum(total, lanes, room) * share
        for i in range(lane, mine, lanes):
            squares += (load(x, i) - mean) * (load(x, i) - mean)
        scale = 1.0 / sqrt(team_sum(squares, lanes, room) * share + epsilon)
        for i in range(lane, mine, lanes):
            store(y, i, (load(x, i) - mean) * scale)


@grid("layer_norm_grad", threads=THREADS, uses=TEAMS)
def layer_norm_grad_grid(arena, words, size):
    """As on the CPU, a team of threads for each row. Words: out, ct, x, row length, epsilon."""
    n, epsilon, room = int32(words[3]), real(number_of(words[4])), cuda.shared.array(32, real)
    lanes, rows, share = team_of(n), int32(size) // n, 1.0 / real(n)
    teams, lane = cuda.blockDim.x // lanes, cuda.threadIdx.x % lanes
    for first in range(cuda.blockIdx.x * teams, rows, cuda.gridDim.x * teams):
        row = first + cuda.threadIdx.x // lanes
        mine = n if row < rows else 0
        ct = view(arena, words[1] + row * n * WIDTH, real)
        x = view(arena, words[2] + row * n * WIDTH, real)
        out = view(arena, words[0] + row * n * WIDTH, real)
        total, slope, squares, along = 0.0, 0.0, 0.0, 0.0
        for i in range(lane, mine, lanes):
            total += load(x, i)
            slope += load(ct, i)
        mean = team_sum(total, lanes, room) * share
        slope = team_sum(slope, lanes, room) * share
        for i in range(lane, mine, lanes):
            squares += (load(x, i) - mean) * (load(x, i) - mean)
            along += load(ct, i) * (load(x, i) - mean)
        scale = 1.0 / sqrt(team_sum(squares, lanes, room) * share + epsilon)
        along = team_sum(along, lanes, room) * share * scale * scale
        for i in range(lane, mine, lanes):
            store(out, i, scale * (load(ct, i) - slope - (load(x, i) - mean) * along))


def _shape(*nodes: Node, epsilon: float = 1e-5) -> tuple[Shape, str]:
    x = nodes[-1]
    if not x.ndim or not x.shape[-1]:
        raise ShapeError(f"layer_norm takes rows of at least one element, found {list(x.shape)}")
    if x.dtype not in FLOATS:
        raise DtypeError(f"layer_norm takes floats, found {x.dtype}; cast first")
    return x.shape, x.dtype


def _oracle(x: np.ndarray, epsilon: float = 1e-5) -> np.ndarray:
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + epsilon)


def _grad_oracle(ct: np.ndarray, x: np.ndarray, epsilon: float = 1e-5) -> np.ndarray:
    """By the matrix of derivatives of one row: scale (I - 1/n - y yᵀ / n)."""
    n = x.shape[-1]
    y = _oracle(x, epsilon)
    scale = 1 / np.sqrt(x.var(-1) + epsilon)
    matrix = scale[..., None, None] * (np.eye(n) - 1 / n - y[..., :, None] * y[..., None, :] / n)
    return np.einsum("...ij,...j->...i", matrix, ct)


def _parts(x: Node, epsilon: float) -> tuple[Node, Node]:
    """x - mean and 1 / deviation."""
    centred = x - x.mean(-1, keepdims=True)
    return centred, apply("rsqrt", apply("square", centred).mean(-1, keepdims=True) + epsilon)


def _compose(node: Node) -> Node:
    centred, scale = _parts(node.inputs[0], node.attrs["epsilon"])
    return centred * scale


def _grad_compose(node: Node) -> Node:
    ct, x = node.inputs
    centred, scale = _parts(x, node.attrs["epsilon"])
    y = centred * scale
    return scale * (ct - ct.mean(-1, keepdims=True) - y * (ct * y).mean(-1, keepdims=True))


def _launch(node: Node) -> list[Launch]:
    n = node.shape[-1]
    words = (node, *node.inputs, n, float(node.attrs["epsilon"]))
    return [Launch(node.op.name, node.dtype, words, node.size, grain=n, cost=5 / n + 0.2 * len(node.inputs), elementwise=True)]


def _cases(inputs: int) -> tuple[Case, ...]:
    return tuple(Case(name, (Sample(shape),) * inputs, {"epsilon": epsilon}) for name, shape, epsilon in (
        ("rows", (7, 5), 1e-5), ("three axes", (2, 3, 40), 1e-3), ("empty batch", (0, 4), 1e-5), ("one", (3, 1), 1e-5)))


register(Op("layer_norm_grad", shape=_shape, oracle=_grad_oracle, launch=_launch, compose=_grad_compose, cases=_cases(2), defaults={"epsilon": 1e-5},
            public=False, description="The cotangent carried back through layer_norm."))
register(Op("layer_norm", shape=_shape, oracle=_oracle, launch=_launch, compose=_compose, cases=_cases(1), defaults={"epsilon": 1e-5},
            vjp=lambda node, ct: [apply("layer_norm_grad", ct, node.inputs[0], epsilon=node.attrs["epsilon"])],
            formula="(x - mean(x)) / sqrt(var(x) + epsilon)", description="Each row along the last axis moved to mean 0 and scaled to deviation 1."))
