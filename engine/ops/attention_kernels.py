"""Kernels of scaled dot product attention. One sample's head is one piece of work: its queries go block by block over all keys they may see, so that
weights exist for one block only; the way back makes them anew (Dao et al. 2022).

Words: out, q, k, v, bias, key, room, heads, queries, keys, size of a query and of a value, whether causal, whether there is a bias and its
steps from sample to sample, head to head and query to query, pieces that share room, bytes of room, queries in a block, threshold of dropout or 0,
its place, factor of what it keeps, factor of the scores; then, on the way back, ct, and how many numbers dq and dk are.
"""

# pyright: reportUndefinedVariable=false
from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable
from typing import Any

from engine.kernels.library import define

SUMS = ("contract", "reassoc", "nsz")


def _define(name: str, kernel: Callable[..., Any], inside: tuple[Callable[..., Any], ...], uses: tuple[Callable[..., Any], ...]) -> None:
    """Add a kernel with functions `inside` it: their sums may be reordered and their numbers are of the kernel's type, as its own."""
    def text() -> str:
        head, rest = inspect.getsource(kernel).split("\n", 1)
        return "\n".join([head, *(textwrap.indent(inspect.getsource(f), "    ") for f in inside), rest])

    define(name, text, SUMS, uses)


def stripe(arena, c, ldc, start, a, a_row, a_step, b, ldb, rows, k, columns):
    """Up to six rows of C = A B from byte offsets; added to C where `start` is its step from row to row, not where it is -1."""
    left = view(arena, a, real)
    for j in range(0, columns, 16):
        y = view(arena, c + j * WIDTH, real)
        tile(16, y, ldc, y, start, left, a_row, a_step, view(arena, b + j * WIDTH, real), ldb, rows, k, min(16, columns - j))


def turned(arena, to, ldt, fro, ldf, rows, columns):
    """Columns as rows: to[j, i] = fro[i, j]."""
    x = view(arena, fro, real)
    for j in range(columns):
        y = view(arena, to + j * ldt * WIDTH, real)
        for i in range(rows):
            y[i] = x[i * ldf + j]


def weigh(arena, words, at, ld, rows, first, piece):
    """Scores of a block of queries, rows `ld` apart, become weights: softmax over the keys that each may see, nought for the others."""
    sample = piece // words[7]
    head = piece - sample * words[7]
    factor = real(number_of(words[23]))
    for r in range(rows):
        x = view(arena, at + r * ld * WIDTH, real)
        if words[13] == 1:
            bias = view(arena, words[4] + (sample * words[14] + head * words[15] + (first + r) * words[16]) * WIDTH, real)
            for j in range(min(ld, words[9])):
                store(x, j, load(x, j) * factor + load(bias, j))
        for j in range(first + r + 1 if words[12] == 1 else words[9], ld):
            x[j] = -INFINITY
        top, scale = greatest(x, ld), 1.0 if words[13] == 1 else factor
        for j in range(ld):
            store(x, j, (load(x, j) - top) * scale)
    x = view(arena, at, real)
    for j in range(rows * ld):
        x[j] = exp(x[j])
    for r in range(rows):
        x = view(arena, at + r * ld * WIDTH, real)
        total = 0.0
        for j in range(ld):
            total += load(x, j)
        scale = 1.0 / total
        for j in range(ld):
            store(x, j, load(x, j) * scale)


def kept(arena, words, at, query, piece, seen):
    """What each weight of a query is multiplied by in dropout, as `bernoulli` draws it for all weights; the offset of the first in bytes."""
    key, y = view(arena, words[5], int64), view(arena, at, real)
    number = (piece * words[8] + query) * words[9]
    block, threshold, factor = number // 8, words[20], real(number_of(words[22]))
    for i in range((number + seen + 7) // 8 - block):
        a, b, c, d = philox(block + i, words[21], key[1], 2, key[0])
        y[8 * i] = select((a & 65535) < threshold, factor, real(0.0))
        y[8 * i + 1] = select((a >> 16) < threshold, factor, real(0.0))
        y[8 * i + 2] = select((b & 65535) < threshold, factor, real(0.0))
        y[8 * i + 3] = select((b >> 16) < threshold, factor, real(0.0))
        y[8 * i + 4] = select((c & 65535) < threshold, factor, real(0.0))
        y[8 * i + 5] = select((c >> 16) < threshold, factor, real(0.0))
        y[8 * i + 6] = select((d & 65535) < threshold, factor, real(0.0))
        y[8 * i + 7] = select((d >> 16) < threshold, factor, real(0.0))
    return at + (number - 8 * block) * WIDTH


def attention_kernel(arena, words, begin, end):
    """out = softmax(q kᵀ scale + bias) v for pieces [begin, end)."""
    heads, queries, keys, size, value_size = words[7], words[8], words[9], words[10], words[11]
    ldq, ldv, ldt = heads * size, heads * value_size, (keys + 15) // 16 * 16
    room = words[6] + begin // words[17] * words[18]
    scores = room + size * ldt * WIDTH
    mask = scores + words[19] * ldt * WIDTH
    for piece in range(begin, end):
        sample = piece // heads
        head = piece - sample * heads
        q = words[1] + (sample * queries * ldq + head * size) * WIDTH
        v = words[3] + (sample * keys * ldv + head * value_size) * WIDTH
        out = words[0] + (sample * queries * ldv + head * value_size) * WIDTH
        turned(arena, room, ldt, words[2] + (sample * keys * ldq + head * size) * WIDTH, ldq, keys, size)
        for first in range(0, queries, words[19]):
            rows = min(words[19], queries - first)
            ld = (first + rows + 15) // 16 * 16 if words[12] == 1 else ldt
            for i in range(0, rows, 6):
                height = min(6, rows - i)
                seen = first + i + height if words[12] == 1 else keys
                stripe(arena, scores + i * ld * WIDTH, ld, -1, q + (first + i) * ldq * WIDTH, ldq, 1, room, ldt, height, size, seen)
            weigh(arena, words, scores, ld, rows, first, piece)
            if words[20] > 0:
                for i in range(rows):
                    seen = first + i + 1 if words[12] == 1 else keys
                    x, m = view(arena, scores + i * ld * WIDTH, real), view(arena, kept(arena, words, mask, first + i, piece, seen), real)
                    for j in range(seen):
                        store(x, j, load(x, j) * load(m, j))
            for i in range(0, rows, 6):
                height = min(6, rows - i)
                seen = first + i + height if words[12] == 1 else keys
                stripe(arena, out + (first + i) * ldv * WIDTH, ldv, -1, scores + i * ld * WIDTH, ld, 1, v, ldv, height, seen, value_size)


_define("attention", attention_kernel, (weigh,), (stripe, turned, kept))


def slopes(arena, words, weights, ld, back, mask, rows, first, piece):
    """The derivatives of a block's weights become those of its scores; the weights become what they are after dropout."""
    for r in range(rows):
        seen = first + r + 1 if words[12] == 1 else words[9]
        w, s = view(arena, weights + r * ld * WIDTH, real), view(arena, back + r * ld * WIDTH, real)
        m = view(arena, kept(arena, words, mask, first + r, piece, seen) if words[20] > 0 else mask, real)
        total = 0.0
        if words[20] > 0:
            for j in range(seen):
                store(s, j, load(s, j) * load(m, j))
        for j in range(seen):
            total += load(s, j) * load(w, j)
        for j in range(seen):
            s[j] = w[j] * (s[j] - total) * real(number_of(words[23]))
        for j in range(seen, ld):
            s[j] = 0.0
        if words[20] > 0:
            for j in range(seen):
                store(w, j, load(w, j) * load(m, j))


def attention_grad_kernel(arena, words, begin, end):
    """dq, dk and dv, one behind the other, for pieces [begin, end)."""
    heads, queries, keys, size, value_size = words[7], words[8], words[9], words[10], words[11]
    ldq, ldv, ldt = heads * size, heads * value_size, (keys + 15) // 16 * 16
    room = words[6] + begin // words[17] * words[18]
    turned_v = room + size * ldt * WIDTH
    weights = turned_v + value_size * ldt * WIDTH
    back = weights + words[19] * ldt * WIDTH
    mask = back + words[19] * ldt * WIDTH
    for piece in range(begin, end):
        sample = piece // heads
        head = piece - sample * heads
        shift, key_shift = sample * queries * ldq + head * size, sample * keys * ldq + head * size
        value_shift = sample * keys * ldv + head * value_size
        q, k = words[1] + shift * WIDTH, words[2] + key_shift * WIDTH
        ct = words[24] + (sample * queries * ldv + head * value_size) * WIDTH
        dq, dk = words[0] + shift * WIDTH, words[0] + (words[25] + key_shift) * WIDTH
        dv = words[0] + (words[25] + words[26] + value_shift) * WIDTH
        turned(arena, room, ldt, k, ldq, keys, size)
        turned(arena, turned_v, ldt, words[3] + value_shift * WIDTH, ldv, keys, value_size)
        for j in range(keys):
            to_k, to_v = view(arena, dk + j * ldq * WIDTH, real), view(arena, dv + j * ldv * WIDTH, real)
            for i in range(size):
                to_k[i] = 0.0
            for i in range(value_size):
                to_v[i] = 0.0
        for first in range(0, queries, words[19]):
            rows = min(words[19], queries - first)
            ld = (first + rows + 15) // 16 * 16 if words[12] == 1 else ldt
            for i in range(0, rows, 6):
                height = min(6, rows - i)
                seen = first + i + height if words[12] == 1 else keys
                stripe(arena, weights + i * ld * WIDTH, ld, -1, q + (first + i) * ldq * WIDTH, ldq, 1, room, ldt, height, size, seen)
                stripe(arena, back + i * ld * WIDTH, ld, -1, ct + (first + i) * ldv * WIDTH, ldv, 1, turned_v, ldt, height, value_size, seen)
            weigh(arena, words, weights, ld, rows, first, piece)
            slopes(arena, words, weights, ld, back, mask, rows, first, piece)
            for i in range(0, rows, 6):
                height = min(6, rows - i)
                seen = first + i + height if words[12] == 1 else keys
                stripe(arena, dq + (first + i) * ldq * WIDTH, ldq, -1, back + i * ld * WIDTH, ld, 1, k, ldq, height, seen, size)
            for j in range(0, first + rows if words[12] == 1 else keys, 6):
                i = max(0, j - first) if words[12] == 1 else 0      # the first query of the block that sees key j
                height = min(6, (first + rows if words[12] == 1 else keys) - j)
                stripe(arena, dk + j * ldq * WIDTH, ldq, ldq, back + (i * ld + j) * WIDTH, 1, ld, q + (first + i) * ldq * WIDTH, ldq, height,
                       rows - i, size)
                stripe(arena, dv + j * ldv * WIDTH, ldv, ldv, weights + (i * ld + j) * WIDTH, 1, ld, ct + (first + i) * ldv * WIDTH, ldv, height,
                       rows - i, value_size)


_define("attention_grad", attention_grad_kernel, (weigh, slopes), (stripe, turned, kept))
