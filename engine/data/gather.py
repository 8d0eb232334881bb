"""The rows of a plan that fill a batch: which rows of the data come next, and each feed copied and transformed on the way."""

# pyright: reportUndefinedVariable=false
from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.core import Address, Launch
from engine.data.feed import Feed, Span
from engine.data.permutation import domain, drawing_key, drawn_row, mixed, network, scrambled, shuffled_row
from engine.kernels.grid import grid
from engine.kernels.library import kernel

SOURCES = ("float32", "float64", "int32", "int64", "uint8")


# ---------------------------------------------------------------- what the kernels ask of one value

def read_number(address, kind, at):
    """Element `at` of a column, as float64. `kind` is its type's place in SOURCES."""
    if kind == 0:
        return float64(view_at(address + 4 * at, float32)[0])
    if kind == 1:
        return view_at(address + 8 * at, float64)[0]
    if kind == 2:
        return float64(view_at(address + 4 * at, int32)[0])
    if kind == 3:
        return float64(view_at(address + 8 * at, int64)[0])
    return float64(view_at(address + at, uint8)[0])


def read_code(words, at):
    """The class number of element `at`. Words: 3 column, 4 its type, 6 lookup or 0, 7 entries, 8 base, 9 classes, 10 what is unknown."""
    value = read_number(words[3], words[4], at)
    code = int64(value) - words[8] if value == value else int64(-1)
    if words[6] != 0:
        code = int64(view_at(words[6] + 4 * code, int32)[0]) if 0 <= code < words[7] else int64(-1)
    return code if 0 <= code < words[9] else words[10]


def plain_codes(words, y, column, index, begin, end):
    """The class numbers of rows of one whole number each that is looked up nowhere. Words as for `read_code`."""
    stride, base, classes, unknown = words[1], words[8], words[9], words[10]
    for r in range(begin, end):
        code = int64(column[index[r]]) - base
        y[r * stride] = int32(code if 0 <= code < classes else unknown)


def log1p_wide(value):
    return math.log1p(max(value, 0.0))


# ---------------------------------------------------------------- kernels

@kernel("gather_number", uses=(read_number, log1p_wide))
def gather_number(arena, words, begin, end):
    """Rows of numbers. Words: out, stride, width, source, its type, rows, tables of shift, scale and fill (float64), their step, missing,
    whether one is, log.
    """
    stride, width, kind, step, missing, has_missing, log = words[1], words[2], words[4], words[9], words[10], words[11], words[12]
    index = view(arena, words[5], int64)
    shift, scale, fill = view_at(words[6], float64), view_at(words[7], float64), view_at(words[8], float64)
    plain = has_missing == 0 and log == 0 and step == 0
    shift0, scale0 = real(shift[0]), real(scale[0])
    for r in range(begin, end):
        y = view(arena, words[0] + r * stride * WIDTH, real)
        at = index[r] * width
        if plain and kind == 0:
            x0 = view_at(words[3] + at * 4, float32)
            for i in range(width):
                y[i] = (real(x0[i]) - shift0) * scale0
        elif plain and kind == 4:
            x4 = view_at(words[3] + at, uint8)
            for i in range(width):
                y[i] = (real(x4[i]) - shift0) * scale0
        else:
            for i in range(width):
                v = read_number(words[3], kind, at + i)
                absent = has_missing == 1 and (v != v or (kind > 1 and v == float64(missing)))
                if absent:
                    v = fill[i * step]
                if log == 1:
                    v = log1p_wide(v)
                y[i] = real((v - shift[i * step]) * scale[i * step])


@grid("gather_number", threads=256, uses=(read_number, log1p_wide), wide=True)
def gather_number_grid(arena, words, size):
    """A thread per number; words as on the CPU."""
    stride, width, kind, step, missing, has_missing, log = words[1], words[2], words[4], words[9], words[10], words[11], words[12]
    index, y = view(arena, words[5], int64), view(arena, words[0], real)
    shift, scale, fill = view_at(words[6], float64), view_at(words[7], float64), view_at(words[8], float64)
    x0, x4 = view_at(words[3], float32), view_at(words[3], uint8)
    plain = has_missing == 0 and log == 0 and step == 0
    at = uint32(cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x)
    while at < size * width:
        r = int64(uint32(at) // uint32(width))
        i = int64(at) - r * width
        place = index[r] * width + i
        if plain and kind == 0:
            y[r * stride + i] = (real(x0[place]) - real(shift[0])) * real(scale[0])
        elif plain and kind == 4:
            y[r * stride + i] = (real(x4[place]) - real(shift[0])) * real(scale[0])
        else:
            v = read_number(words[3], kind, place)
            if has_missing == 1 and (v != v or (kind > 1 and v == float64(missing))):
                v = fill[i * step]
            if log == 1:
                v = log1p_wide(v)
            y[r * stride + i] = real((v - shift[i * step]) * scale[i * step])
        at = uint32(at + cuda.gridDim.x * cuda.blockDim.x)


@kernel("gather_indicator", uses=(read_number,))
def gather_indicator(arena, words, begin, end):
    """1.0 where a number is missing. Words: out, stride, width, source, its type, rows, missing."""
    index = view(arena, words[5], int64)
    for r in range(begin, end):
        y = view(arena, words[0] + r * words[1] * WIDTH, real)
        for i in range(words[2]):
            v = read_number(words[3], words[4], index[r] * words[2] + i)
            y[i] = 1.0 if v != v or (words[4] > 1 and v == float64(words[6])) else 0.0


@grid("gather_indicator", threads=256, uses=(read_number,), wide=True)
def gather_indicator_grid(arena, words, size):
    """A thread per number; words as on the CPU."""
    index, y, width = view(arena, words[5], int64), view(arena, words[0], real), words[2]
    at = uint32(cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x)
    while at < size * width:
        r = int64(uint32(at) // uint32(width))
        i = int64(at) - r * width
        v = read_number(words[3], words[4], index[r] * width + i)
        y[r * words[1] + i] = 1.0 if v != v or (words[4] > 1 and v == float64(words[6])) else 0.0
        at = uint32(at + cuda.gridDim.x * cuda.blockDim.x)


@kernel("gather_code", uses=(read_number, read_code, plain_codes))
def gather_code(arena, words, begin, end):
    """Class numbers as int32. Words: out, stride, width, source, its type, rows, lookup (0: none), entries, base, classes, unknown."""
    index = view(arena, words[5], int64)
    kind = words[4] if words[2] == 1 and words[6] == 0 else 0
    if kind == 2:
        plain_codes(words, view(arena, words[0], int32), view_at(words[3], int32), index, begin, end)
    elif kind == 3:
        plain_codes(words, view(arena, words[0], int32), view_at(words[3], int64), index, begin, end)
    elif kind == 4:
        plain_codes(words, view(arena, words[0], int32), view_at(words[3], uint8), index, begin, end)
    else:
        for r in range(begin, end):
            y = view(arena, words[0] + r * words[1] * 4, int32)
            for i in range(words[2]):
                y[i] = int32(read_code(words, index[r] * words[2] + i))


@grid("gather_code", threads=256, uses=(read_number, read_code), wide=True)
def gather_code_grid(arena, words, size):
    """A thread per code; words as on the CPU."""
    index, y, width = view(arena, words[5], int64), view(arena, words[0], int32), words[2]
    at = uint32(cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x)
    while at < size * width:
        r = int64(uint32(at) // uint32(width))
        i = int64(at) - r * width
        y[r * words[1] + i] = int32(read_code(words, index[r] * width + i))
        at = uint32(at + cuda.gridDim.x * cuda.blockDim.x)


@kernel("gather_one_hot", uses=(read_number, read_code))
def gather_one_hot(arena, words, begin, end):
    """Class numbers as rows of zeros with a one. Words as for codes; `width` columns of codes become `width * classes` numbers."""
    index = view(arena, words[5], int64)
    classes = words[9]
    for r in range(begin, end):
        y = view(arena, words[0] + r * words[1] * WIDTH, real)
        for i in range(words[2] * classes):
            y[i] = 0.0
        for i in range(words[2]):
            code = read_code(words, index[r] * words[2] + i)
            if 0 <= code < classes:
                y[i * classes + code] = 1.0


@grid("gather_one_hot", threads=256, uses=(read_number, read_code), wide=True)
def gather_one_hot_grid(arena, words, size):
    """A thread per number: each reads the code of its `classes` numbers; words as on the CPU."""
    index, y, width, classes = view(arena, words[5], int64), view(arena, words[0], real), words[2], words[9]
    at = uint32(cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x)
    while at < size * width * classes:
        column = int64(uint32(at) // uint32(classes))
        r = int64(uint32(column) // uint32(width))
        i = int64(at) - r * width * classes
        code = read_code(words, index[r] * width + column - r * width)
        y[r * words[1] + i] = 1.0 if code == int64(at) - column * classes else 0.0
        at = uint32(at + cuda.gridDim.x * cuda.blockDim.x)


@kernel("sample_rows", uses=(mixed, drawing_key, scrambled, network, domain, shuffled_row, drawn_row))
def sample_rows(arena, words, begin, end):
    """Which rows the batch has. Words: out, index (0: none), rows, mode (0 in order, 1 shuffled, 2 with replacement), batch size, repeats.

    Read from the control block: seed (0), epoch (16), position of the batch in the epoch (24).
    """
    out, whole = view(arena, words[0], int64), view(arena, 0, int64)
    seed, epoch, rows, mode = whole[0], whole[2], words[2], words[3]
    for r in range(begin, end):
        place = whole[3] * words[4] + r
        turn = epoch * words[5] + place // rows    # data repeated within an epoch is shuffled anew
        row = place % rows
        if mode == 1:
            row = int64(shuffled_row(uint64(row), uint64(rows), uint64(seed), uint64(turn)))
        elif mode == 2:
            row = int64(drawn_row(uint64(place), uint64(rows), uint64(seed), uint64(epoch)))
        out[r] = view_at(words[1], int64)[row] if words[1] != 0 else row


@kernel("spread_rows")
def spread_rows(arena, words, begin, end):
    """The rows of windows, side by side. Words: out, first places, order (0: none), ahead, steps."""
    out, first, steps = view(arena, words[0], int64), view(arena, words[1], int64), words[4]
    for i in range(begin, end):
        place = first[i // steps] + words[3] + i % steps
        out[i] = view_at(words[2], int64)[place] if words[2] != 0 else place


def spread(out: int, rows_at: int, rows: int, span: Span) -> Launch:
    """The launch that lists the rows of the windows of a batch at `out`, from where they begin at `rows_at`."""
    order = 0 if span.order is None else Address(np.ascontiguousarray(span.order, np.int64))
    words = (out, rows_at, order, span.ahead, span.steps)
    return Launch("spread_rows", "float32", words, rows * span.steps, cost=1.0)


def launches(feed: Feed, target: int, rows_at: int, rows: int, row_size: int, dtype: str) -> list[Launch]:
    """The launch that carries out one feed into the leaf at offset `target`."""
    source = np.ascontiguousarray(feed.source)
    nbytes = 4 if feed.kind == "code" else np.dtype(dtype).itemsize
    head = (target + feed.offset * nbytes, feed.stride or row_size, feed.width, Address(source), SOURCES.index(source.dtype.name), rows_at)
    if feed.kind in ("code", "one_hot"):
        lookup = None if feed.lookup is None else np.ascontiguousarray(feed.lookup, np.int32)
        known = (0, 0) if lookup is None else (Address(lookup), len(lookup))
        tail = (*known, feed.base, feed.classes, feed.unknown)
        return [Launch(f"gather_{feed.kind}", dtype, (*head, *tail), rows, cost=feed.width * max(feed.classes if feed.kind == "one_hot" else 0, 4))]
    if feed.kind == "indicator":
        return [Launch("gather_indicator", dtype, (*head, _missing(feed)), rows, cost=feed.width)]
    width = feed.width if _is_vector(feed) else 1
    tables = [np.broadcast_to(np.asarray(value, np.float64).ravel(), width).copy() for value in (feed.shift, feed.scale, feed.fill)]
    has_missing = feed.missing is not None or not np.isnan(tables[2]).all()
    words = (*head, *(Address(t) for t in tables), int(_is_vector(feed)), _missing(feed), int(has_missing), int(feed.kind == "log"))
    return [Launch("gather_number", dtype, words, rows, cost=feed.width * 0.3)]


def _is_vector(feed: Feed) -> bool:
    return any(np.size(value) > 1 for value in (feed.shift, feed.scale, feed.fill))


def _missing(feed: Feed) -> int:
    return -(1 << 62) if feed.missing is None else feed.missing


MODES: Sequence[str] = ("sequential", "shuffle", "with_replacement")


def sample(out: int, index: np.ndarray | None, rows: int, mode: str, batch: int, size: int, repeats: int) -> Launch:
    """The launch that says which rows a batch of `size` has, where full batches have `batch`; `index` lists the rows of a split."""
    words = (out, 0 if index is None else Address(index), max(rows, 1), MODES.index(mode), batch, repeats)
    return Launch("sample_rows", "float32", words, size, cost=20.0)
