"""Matrix products: `a @ b`, either operand transposed, batched over equal leading axes.

Large products call BLAS; small ones, where the call costs more than the arithmetic, are done by a kernel of our own. A product is cut for threads
along the longer side of its output, in chunks that the plan fixes: other cuts would give other bits.
"""

# pyright: reportUndefinedVariable=false
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.core import FLOATS, Case, Launch, Node, Op, Sample, Scratch, Shape, apply, count, register
from engine.errors import DtypeError, ShapeError
from engine.kernels.library import define, kernel

SMALL = 1 << 23        # multiply-adds below which our tiles are as fast as a call of BLAS, or faster
NARROW = 8               # columns up to which vectors of four lanes win over whole ones
SMALL_TURNED = 1 << 18   # the same where the right operand must be turned first


def shape(a: Node, b: Node, transpose_a: bool = False, transpose_b: bool = False) -> tuple[Shape, str]:
    if a.dtype != b.dtype or a.dtype not in FLOATS:
        raise DtypeError(f"matmul takes two float arrays of one type, found {a.dtype} and {b.dtype}")
    if a.ndim < 2 or b.ndim < 2:
        raise ShapeError(f"matmul takes arrays of two axes or more, found {list(a.shape)} and {list(b.shape)}")
    m, k = a.shape[-2:][::-1] if transpose_a else a.shape[-2:]
    k2, n = b.shape[-2:][::-1] if transpose_b else b.shape[-2:]
    if k != k2 or a.shape[:-2] != b.shape[:-2]:
        raise ShapeError(f"matmul of {list(a.shape)} and {list(b.shape)}: the inner sizes {k} and {k2} must be equal, and leading axes the same")
    return (*a.shape[:-2], m, n), a.dtype


def oracle(a: np.ndarray, b: np.ndarray, transpose_a: bool = False, transpose_b: bool = False) -> np.ndarray:
    a = a.swapaxes(-1, -2) if transpose_a else a
    b = b.swapaxes(-1, -2) if transpose_b else b
    return np.einsum("...mk,...kn->...mn", a, b)


def vjp(node: Node, ct: Node) -> Sequence[Node]:
    (a, b), ta, tb = node.inputs, node.attrs["transpose_a"], node.attrs["transpose_b"]
    da = product(b, ct, tb, True) if ta else product(ct, b, False, not tb)
    db = product(ct, a, True, ta) if tb else product(a, ct, not ta, False)
    return da, db


def jvp(node: Node, tangents: Sequence[Node | None]) -> Node | None:
    (a, b), (ta, tb), (da, db) = node.inputs, (node.attrs["transpose_a"], node.attrs["transpose_b"]), tangents
    terms = ([product(da, b, ta, tb)] if da is not None else []) + ([product(a, db, ta, tb)] if db is not None else [])
    return None if not terms else terms[0] if len(terms) == 1 else terms[0] + terms[1]


def product(a: Node, b: Node, transpose_a: bool, transpose_b: bool) -> Node:
    return apply("matmul", a, b, transpose_a=transpose_a, transpose_b=transpose_b)


# ---------------------------------------------------------------- CPU: BLAS

@kernel("matmul_blas")
def matmul_blas(arena, words, begin, end):
    m, n, k, ta, tb, by_rows, batch = words[3], words[4], words[5], words[6], words[7], words[8], words[10]
    a_row = WIDTH if ta == 1 else k * WIDTH   # bytes from one row of op(A) to the next
    b_column = k * WIDTH if tb == 1 else WIDTH
    part = end - begin
    if by_rows == 1:
        a_shift, b_shift, c_shift, rows, columns = begin * a_row, 0, begin * n * WIDTH, part, n
    else:
        a_shift, b_shift, c_shift, rows, columns = 0, begin * b_column, begin * WIDTH, m, part
    for s in range(batch):
        a = view(arena, words[1] + s * m * k * WIDTH + a_shift, real)
        b = view(arena, words[2] + s * k * n * WIDTH + b_shift, real)
        c = view(arena, words[0] + s * m * n * WIDTH + c_shift, real)
        # row-major C is column-major C transposed: op(B) comes first
        gemm(words[9], 84 if tb == 1 else 78, 84 if ta == 1 else 78, columns, rows, k, 1.0, b, k if tb == 1 else n, a, m if ta == 1 else k, 0.0, c, n)


# ---------------------------------------------------------------- CPU: small products

TILES = """\
def run(arena, words, begin, end):
    n, k, a_row, a_step = words[3], words[4], words[5], words[6]
    for j in range(0, n, LANES):
        columns = min(LANES, n - j)
        b = view(arena, words[2] + j * WIDTH, real)
        i = begin
        while i < end:
            c = view(arena, words[0] + (i * n + j) * WIDTH, real)
            a = view(arena, words[1] + i * a_row * WIDTH, real)
            if end - i >= 6:
                tile(6, LANES, c, n, a, a_row, a_step, b, n, k, columns)
                i += 6
            elif end - i >= 2:
                tile(2, LANES, c, n, a, a_row, a_step, b, n, k, columns)
                i += 2
            else:
                tile(1, LANES, c, n, a, a_row, a_step, b, n, k, columns)
                i += 1
"""
# Rows [begin, end) of C = A B, A with any strides, B with contiguous rows: words C, A, B, n, k, row stride and step of A.
# An output of few columns wastes fewer lanes of a short vector.
define("matmul_tiles", TILES.replace("LANES", "16"))
define("matmul_narrow", TILES.replace("LANES", "4"))


@kernel("transpose_2d")
def transpose_2d(arena, words, begin, end):
    """out[i, j] = in[j, i] for rows [begin, end) of out; words: out, in, columns of out, rows of out."""
    columns, rows = words[2], words[3]
    x = view(arena, words[1], real)
    for i in range(begin, end):
        y = view(arena, words[0] + i * columns * WIDTH, real)
        for j in range(columns):
            y[j] = x[j * rows + i]


def launch(node: Node) -> Sequence[Launch]:
    (a, b), ta, tb = node.inputs, node.attrs["transpose_a"], node.attrs["transpose_b"]
    m, n = node.shape[-2:]
    k = a.shape[-2] if ta else a.shape[-1]
    batch = count(node.shape[:-2])
    if batch == 1 and m * n * k <= (SMALL_TURNED if tb else SMALL):
        return _small(node, a, b, m, n, k, ta, tb)
    by_rows = m >= n
    side = m if by_rows else n
    words = (node, a, b, m, n, k, int(ta), int(tb), int(by_rows), "gemm", batch)
    return (Launch("matmul_blas", node.dtype, words, side, grain=_quarter(side), cost=batch * m * n * k / max(side, 1) / 40),)


def _quarter(side: int) -> int:
    """BLAS copies its operands for each part: no more than four parts, of whole vectors."""
    return max(16, -(-side // 64) * 16)


def _small(node: Node, a: Any, b: Any, m: int, n: int, k: int, ta: bool, tb: bool) -> Sequence[Launch]:
    a_row, a_step = (1, m) if ta else (k, 1)
    cost = n * k / 20
    name = "matmul_narrow" if n <= NARROW else "matmul_tiles"
    if not tb:
        return (Launch(name, node.dtype, (node, a, b, n, k, a_row, a_step), m, grain=6, cost=cost),)
    turned = Scratch(n * k * np.dtype(node.dtype).itemsize)
    return (Launch("transpose_2d", node.dtype, (turned, b, n, k), k, cost=n * 0.5),
            Launch(name, node.dtype, (node, a, turned, n, k, a_row, a_step), m, grain=6, cost=cost))


def _case(name: str, a: Shape, b: Shape, **attrs: Any) -> Case:
    return Case(name, (Sample(a), Sample(b)), attrs)


MATMUL = register(Op(
    "matmul", shape=shape, oracle=oracle, launch=launch, vjp=vjp, jvp=jvp, defaults={"transpose_a": False, "transpose_b": False},
    formula="a @ b", description="Matrix product, of the last two axes.",
    cases=(
        _case("small", (5, 7), (7, 3)), _case("one by one", (1, 1), (1, 1)), _case("empty batch", (0, 4), (4, 3)),
        _case("nothing to sum", (2, 0), (0, 3)), _case("ragged", (13, 17), (17, 19)), _case("turned left", (7, 13), (7, 19), transpose_a=True),
        _case("turned right", (13, 7), (19, 7), transpose_b=True), _case("both turned", (7, 13), (19, 7), transpose_a=True, transpose_b=True),
        _case("stack", (3, 4, 5), (3, 5, 2)), _case("stack turned", (3, 5, 4), (3, 2, 5), transpose_a=True, transpose_b=True),
        _case("large", (40, 64), (64, 33)), _case("large turned left", (64, 40), (64, 33), transpose_a=True),
        _case("large turned right", (40, 64), (33, 64), transpose_b=True), _case("wide", (20, 70), (70, 90)),
    )))
matmul = MATMUL
