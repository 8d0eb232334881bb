"""Squares of 32 × 32 numbers, which a block of 64 threads makes from two sides: text for GPU kernels (see `grid`).

Thread 8y + x has the four rows from 4y and the four columns from 4x on, in registers. A side is a shared array in which the 32 numbers of one depth
lie together, `LINE` apart from the next, so that four of them are read at once.
"""

# pyright: reportUndefinedVariable=false
from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Iterable
from typing import Any

from engine.kernels.grid import define_grid
from engine.kernels.library import text_of

THREADS = 64


class _Written(ast.NodeTransformer):
    """`for i in each(4)` written four times: arrays in registers have no index that is not a number."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def visit_For(self, node: ast.For) -> Any:
        if not (isinstance(node.iter, ast.Call) and ast.unparse(node.iter.func) == "each"):
            return self.generic_visit(node)
        name, lines = ast.unparse(node.target), []
        for number in range(ast.literal_eval(node.iter.args[0])):
            self.numbers[name] = number
            lines += [self.visit(copy.deepcopy(line)) for line in node.body]
        del self.numbers[name]
        return [line for part in lines for line in (part if isinstance(part, list) else [part])]

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.Constant(self.numbers[node.id]) if node.id in self.numbers else node


def squares(name: str, uses: Iterable[Callable[..., Any]] = ()) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add a kernel of squares to the GPU kernels, in which loops over `each` are written out."""
    def add(function: Callable[..., None]) -> Callable[..., None]:
        define_grid(name, lambda: ast.unparse(ast.fix_missing_locations(_Written().visit(ast.parse(text_of(function))))), THREADS,
                    uses=(*SQUARES, *uses))
        return function

    return add


def outer(sums, at, left, right):
    """sums[at + 4i + j] += left[i] * right[j] for four numbers each."""
    a0, a1, a2, a3 = left
    b0, b1, b2, b3 = right
    sums[at] += a0 * b0
    sums[at + 1] += a0 * b1
    sums[at + 2] += a0 * b2
    sums[at + 3] += a0 * b3
    sums[at + 4] += a1 * b0
    sums[at + 5] += a1 * b1
    sums[at + 6] += a1 * b2
    sums[at + 7] += a1 * b3
    sums[at + 8] += a2 * b0
    sums[at + 9] += a2 * b1
    sums[at + 10] += a2 * b2
    sums[at + 11] += a2 * b3
    sums[at + 12] += a3 * b0
    sums[at + 13] += a3 * b1
    sums[at + 14] += a3 * b2
    sums[at + 15] += a3 * b3


def dot_square(arena, words, found, a, rows, b, columns, kind, left, right):
    """found[4i + j] = the product of rows of A and B, from byte offsets; rows that are not among the first ones, `rows` and `columns`, are noughts.

    A row is as long as a head's in all heads, words[7] * words[kind]: which is read again each time, so that no multiple of it is kept in a register.
    The sides `left` and `right` are of depth 16, and free again afterwards.
    """
    thread = cuda.threadIdx.x
    y, x, row, column = (thread >> 3) * 4, (thread & 7) * 4, thread >> 4, thread & 15
    a, b = view(arena, a, real), view(arena, b, real)
    for e in range(16):
        found[e] = real(0)
    depth = words[kind]
    for p in range(0, depth, 16):
        inside, ld = p + column < depth, words[7] * words[kind]
        r, at = row, row * ld + p + column
        while r < 32:       # not known to be eight times: written out, sixteen numbers and their addresses would wait in registers
            left[column * 36 + r] = a[at] if inside and r < rows else real(0)
            right[column * 36 + r] = b[at] if inside and r < columns else real(0)
            r, at = r + 4, at + 4 * ld
        cuda.syncthreads()
        for d in range(min(16, depth - p)):
            outer(found, 0, four_of(left, d * 36 + y), four_of(right, d * 36 + x))
        cuda.syncthreads()


def add_products(arena, words, sums, square, b, kind, depth, columns, right):
    """sums[16g + 4i + j] += the sum over d < depth, 32 at most, of square[d, i] B[d, 32g + j], where a square is a side of depth 32.

    B's rows are as `dot_square` says. The side `right` is of depth 16 and as wide as `8 // WIDTH` squares; it is free again afterwards.
    """
    thread = cuda.threadIdx.x
    y, x, row, column = (thread >> 3) * 4, (thread & 7) * 4, thread >> 5, thread & 31
    b, line = view(arena, b, real), 256 // WIDTH + 4
    for p in range(0, depth, 16):
        ld = words[7] * words[kind]
        for g in range(8 // WIDTH):
            if 32 * g < columns:
                r, at = row, (p + row) * ld + 32 * g + column
                while r < 16:
                    inside = p + r < depth and 32 * g + column < columns
                    right[r * line + 32 * g + column] = b[at] if inside else real(0)
                    r, at = r + 2, at + 2 * ld
        cuda.syncthreads()
        for d in range(min(16, depth - p)):
            a, at = four_of(square, (p + d) * 36 + y), d * line + x
            outer(sums, 0, a, four_of(right, at))
            if WIDTH == 4 and columns > 32:
                outer(sums, 16, a, four_of(right, at + 32))
        cuda.syncthreads()


def put_four_of(out, at, rest, factor, a, b, c, d):
    """out[at : at + 4] = factor (a, b, c, d), of which there is room for `rest`."""
    if rest > 0:
        out[at] = a * factor
    if rest > 1:
        out[at + 1] = b * factor
    if rest > 2:
        out[at + 2] = c * factor
    if rest > 3:
        out[at + 3] = d * factor


def put_row(out, at, rest, factor, sums, first):
    """A thread's numbers of one row of a window, from `first` on in each square of it; `rest` as for `put_four_of`."""
    put_four_of(out, at, rest, factor, sums[first], sums[first + 1], sums[first + 2], sums[first + 3])
    if WIDTH == 4:
        put_four_of(out, at + 32, rest - 32, factor, sums[first + 16], sums[first + 17], sums[first + 18], sums[first + 19])


SQUARES = (outer, dot_square, add_products, put_four_of, put_row)
