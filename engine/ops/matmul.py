"""Matrix products: `a @ b`, either operand transposed, batched over equal leading axes.

Most products are done by tiles of our own, which keep a block of the output in registers: small ones as the operands lie, larger ones from copied
panels. Stacks and long or flat products call BLAS. A product is cut for threads in chunks that the plan fixes; with BLAS other cuts would give other
bits.
"""

# pyright: reportUndefinedVariable=false
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.core import FLOATS, Case, Launch, Node, Op, Sample, Scratch, Shape, apply, count, register
from engine.errors import DtypeError, ShapeError
from engine.kernels.library import kernel
from engine.ops import matmul_grid

SMALL = 1 << 23          # multiply-adds up to which operands need no copying
SMALL_TURNED = 1 << 18   # the same where the right operand must be turned first
FEW_ROWS = 48            # below this, copying panels costs more than it saves
LONG = 2048              # beyond this, a panel does not stay in the second-level cache


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


# ---------------------------------------------------------------- CPU: products in registers

def panel(arena, c, n, a, a_row, a_step, b, ldb, rows, k, columns, finish, m, ldm):
    """Up to 16 columns of C = A B, from byte offsets, in blocks of six rows and vectors no longer than the columns need.

    Long sums end with two blocks of about equal height: a low block waits for its own additions, which short sums hide behind the next block.
    """
    i = 0
    while i < rows:
        rest = rows - i
        height = 6 if rest > 9 or rest == 6 or (rest > 6 and k < 128) else (rest + 1) // 2 if rest > 6 else rest
        out, left, right = view(arena, c + i * n * WIDTH, real), view(arena, a + i * a_row * WIDTH, real), view(arena, b, real)
        more = view(arena, m + i * ldm * WIDTH, real)
        if columns == 16 and height == 6:
            tile_finishing(16, out, n, left, a_row, a_step, right, ldb, 6, k, 16, finish, more)
        elif columns == 16:
            tile_finishing(16, out, n, left, a_row, a_step, right, ldb, height, k, 16, finish, more)
        elif columns > 8:
            tile_finishing(16, out, n, left, a_row, a_step, right, ldb, height, k, columns, finish, more)
        elif columns > 4:
            tile_finishing(8, out, n, left, a_row, a_step, right, ldb, height, k, columns, finish, more)
        else:
            tile_finishing(4, out, n, left, a_row, a_step, right, ldb, height, k, columns, finish, more)
        i += height


def transpose(arena, y, ldy, x, ldx, rows, columns):
    """Y[j, i] = X[i, j] for at most 16 rows and columns of X, from byte offsets."""
    out, source = view(arena, y, real), view(arena, x, real)
    if rows == 16 and columns == 16:
        turn(out, ldy, source, ldx, 16, 16)
    else:
        for j in range(columns):
            for i in range(rows):
                out[j * ldy + i] = source[i * ldx + j]


# Words of the kernels of C = A B: C, A, B, n, k, row stride and step of A, how to finish, what with and its row stride (see `tile_finishing`); of
# panels also m and room for them.

@kernel("matmul_tiles", uses=(panel,), inline=True)
def matmul_tiles(arena, words, begin, end):
    """Rows [begin, end) of C, B as it lies."""
    n, k, a_row, a_step, ldm = words[3], words[4], words[5], words[6], words[9]
    for j in range(0, n, 16):
        panel(arena, words[0] + (begin * n + j) * WIDTH, n, words[1] + begin * a_row * WIDTH, a_row, a_step, words[2] + j * WIDTH, n,
              end - begin, k, min(16, n - j), words[7], words[8] + (begin * ldm + j) * WIDTH, ldm)


@kernel("matmul_panels", uses=(panel,))
def matmul_panels(arena, words, begin, end):
    """Panels [begin, end) of C, 16 columns each.

    The first block of rows copies its panel of B to where rows lie end to end, so that it stays in a near cache for the others.
    """
    n, k, a_row, a_step, finish, ldm, m = words[3], words[4], words[5], words[6], words[7], words[9], words[10]
    room = words[11] + begin * k * 16 * WIDTH     # one panel after the other in the same place
    height = min(m, 6)
    for j in range(16 * begin, min(16 * end, n), 16):
        columns, at = min(16, n - j), j * WIDTH
        tile_copying(16, view(arena, words[0] + at, real), n, view(arena, words[1], real), a_row, a_step, view(arena, words[2] + at, real), n,
                     height, k, columns, finish, view(arena, words[8] + at, real), view(arena, room, real))
        panel(arena, words[0] + at + height * n * WIDTH, n, words[1] + height * a_row * WIDTH, a_row, a_step, room, 16,
              m - height, k, columns, finish, words[8] + at + height * ldm * WIDTH, ldm)


@kernel("matmul_turned", uses=(panel, transpose))
def matmul_turned(arena, words, begin, end):
    """`matmul_panels` for C = A Bᵀ: each panel is turned while it is copied."""
    n, k, a_row, a_step, m = words[3], words[4], words[5], words[6], words[10]
    room = words[11] + begin * k * 16 * WIDTH
    for j in range(16 * begin, min(16 * end, n), 16):
        columns, at = min(16, n - j), j * WIDTH
        for p in range(0, k, 16):
            transpose(arena, room + p * 16 * WIDTH, 16, words[2] + (j * k + p) * WIDTH, k, columns, min(16, k - p))
        panel(arena, words[0] + at, n, words[1], a_row, a_step, room, 16, m, k, columns, words[7], words[8] + at, words[9])


@kernel("transpose_2d", uses=(transpose,))
def transpose_2d(arena, words, begin, end):
    """out[i, j] = in[j, i] for rows [begin, end) of out; words: out, in, columns of out, rows of out."""
    columns, rows = words[2], words[3]
    whole = begin + (end - begin) // 16 * 16
    for i in range(begin, whole, 16):
        for j in range(0, columns, 16):
            transpose(arena, words[0] + (i * columns + j) * WIDTH, columns, words[1] + (j * rows + i) * WIDTH, rows, min(16, columns - j), 16)
    x = view(arena, words[1], real)
    for i in range(whole, end):
        y = view(arena, words[0] + i * columns * WIDTH, real)
        for j in range(columns):
            y[j] = x[j * rows + i]


def launch(node: Node) -> Sequence[Launch]:
    if in_registers(node):
        return launch_in_registers(node)
    (a, b), (ta, tb) = node.inputs, _turns(node)
    m, n, k, batch = *node.shape[-2:], a.shape[-2] if ta else a.shape[-1], count(node.shape[:-2])
    by_rows = m >= n
    side = m if by_rows else n
    words = (node, a, b, m, n, k, int(ta), int(tb), int(by_rows), "gemm", batch)
    return (Launch("matmul_blas", node.dtype, words, side, grain=_quarter(side), cost=batch * m * n * k / max(side, 1) / 40),)


def _quarter(side: int) -> int:
    """BLAS copies its operands for each part: no more than four parts, of whole vectors."""
    return max(16, -(-side // 64) * 16)


def in_registers(node: Node) -> bool:
    """Whether a product is made by our own tiles, rather than by BLAS."""
    return node.ndim == 2 and (_small(node) or (node.shape[0] >= FEW_ROWS and _depth(node) <= LONG))


def launch_in_registers(node: Node, *finish: Any) -> Sequence[Launch]:
    """Launches of A B, A and B the first inputs. `finish`: how, what with and its row stride (see `tile_finishing`)."""
    finish = finish or (0, 0, 0)
    (a, b), (ta, tb), (m, n), k = node.inputs[:2], _turns(node), node.shape, _depth(node)
    strides = (1, m) if ta else (k, 1)      # from a row of op(A) to the next, and from a number of a row to the next
    width = np.dtype(node.dtype).itemsize
    if not _small(node):
        panels = -(-n // 16)
        words = (node, a, b, n, k, *strides, *finish, m, Scratch(panels * 16 * k * width))
        return (Launch("matmul_turned" if tb else "matmul_panels", node.dtype, words, panels, cost=m * k * 16 / 40),)
    if ta and not tb and finish[0] == 0 and _few_columns(m, n, k):
        turned = Scratch(m * n * width)
        return (Launch("matmul_tiles", node.dtype, (turned, b, a, m, k, 1, n, 0, 0, 0), n, grain=6, cost=m * k / 20),
                Launch("transpose_2d", node.dtype, (node, turned, n, m), m, grain=16, cost=n * 0.5))
    turned = Scratch(n * k * width) if tb else b
    product = Launch("matmul_tiles", node.dtype, (node, a, turned, n, k, *strides, *finish), m, grain=6, cost=n * k / 20)
    return (Launch("transpose_2d", node.dtype, (turned, b, n, k), k, grain=16, cost=n * 0.1), product) if tb else (product,)


def _few_columns(m: int, n: int, k: int) -> bool:
    """Whether Cᵀ = Bᵀ A, turned in the end, is cheaper than C = Aᵀ B: it fills vectors where C has few columns. Each number is the same sum."""
    vectors, turning = m // 2 if n <= 8 else m, m * n
    return n <= 16 and n * -(-m // 16) * k + turning < vectors * k


def _small(node: Node) -> bool:
    return node.size * _depth(node) <= (SMALL_TURNED if node.attrs["transpose_b"] else SMALL)


def _depth(node: Node) -> int:
    """How many products each number is a sum of."""
    return node.inputs[0].shape[-2 if node.attrs["transpose_a"] else -1]


def _turns(node: Node) -> tuple[bool, bool]:
    return node.attrs["transpose_a"], node.attrs["transpose_b"]


def _case(name: str, a: Shape, b: Shape, gradient: bool = True, **attrs: Any) -> Case:
    return Case(name, (Sample(a), Sample(b)), attrs, gradient)


MATMUL = register(Op(
    "matmul", shape=shape, oracle=oracle, launch=launch, cuda=matmul_grid.launches, vjp=vjp, jvp=jvp,
    defaults={"transpose_a": False, "transpose_b": False},
    formula="a @ b", description="Matrix product, of the last two axes.",
    cases=(
        _case("small", (5, 7), (7, 3)), _case("one by one", (1, 1), (1, 1)), _case("empty batch", (0, 4), (4, 3)),
        _case("nothing to sum", (2, 0), (0, 3)), _case("ragged", (13, 17), (17, 19)), _case("turned left", (7, 13), (7, 19), transpose_a=True),
        _case("turned right", (13, 7), (19, 7), transpose_b=True), _case("both turned", (7, 13), (19, 7), transpose_a=True, transpose_b=True),
        _case("stack", (3, 4, 5), (3, 5, 2)), _case("stack turned", (3, 5, 4), (3, 2, 5), transpose_a=True, transpose_b=True),
        _case("few columns", (70, 33), (70, 3), transpose_a=True),
        _case("large", (40, 64), (64, 33)), _case("large turned left", (64, 40), (64, 33), transpose_a=True),
        _case("large turned right", (40, 64), (33, 64), transpose_b=True), _case("wide", (20, 70), (70, 90)),
        _case("panels", (55, 410), (410, 405), gradient=False), _case("panels turned left", (405, 55), (405, 410), gradient=False, transpose_a=True),
        _case("panels turned right", (55, 410), (405, 410), gradient=False, transpose_b=True), _case("flat", (9, 1000), (1000, 950), gradient=False),
    )))
matmul = MATMUL
