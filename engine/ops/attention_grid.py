"""The GPU's kernels of attention: a block of threads has 32 queries of a sample's head, and walks over the keys 32 at a time with the running maximum
and sum of each query (Dao et al. 2022). The way back makes the weights anew, for dq by blocks of queries, for dk and dv by blocks of keys.

A block makes as many columns of its output as registers hold, 64 in float32 and 32 in float64: a window. Wider heads have a block for each.

Words: out, q, k, v, bias, key, room, heads, queries, keys, size of a query and of a value, whether causal, whether there is a bias and its
steps from sample to sample, head to head and query to query, windows, threshold of dropout or 0, its place, factor of what it keeps, factor of the
scores; then, on the way back, ct, and how many numbers dq and dk are. Room has the greatest score of each query, 1 / sum, and slope (see below).
"""

# pyright: reportUndefinedVariable=false
from __future__ import annotations

from engine.ops.square_grid import squares

SIDE = 32           # queries, or keys, of a block
WINDOW = 256        # bytes of a row of it: columns of the output


def greatest_of_eight(x):
    """The greatest x of the eight threads that share rows of a square."""
    x = maximum(x, cuda.shfl_xor_sync(-1, x, 4))
    x = maximum(x, cuda.shfl_xor_sync(-1, x, 2))
    return maximum(x, cuda.shfl_xor_sync(-1, x, 1))


def sum_of_eight(x):
    """The sum of x over the eight threads that share rows of a square."""
    x += cuda.shfl_xor_sync(-1, x, 4)
    x += cuda.shfl_xor_sync(-1, x, 2)
    return x + cuda.shfl_xor_sync(-1, x, 1)


def place_of(unit, windows, blocks, heads):
    """(sample, head, number of the first row, number of the window) of a block of threads."""
    block = int64(uint32(unit) // uint32(windows))
    piece = int64(uint32(block) // uint32(blocks))
    sample = int64(uint32(piece) // uint32(heads))
    return sample, piece - sample * heads, (block - piece * blocks) * 32, unit - block * windows


def row_of(words, operand, row, head, kind):
    """Where a head's numbers in a row of all samples begin."""
    return words[operand] + (row * words[7] + head) * words[kind] * WIDTH


def score(arena, dot, factor, query, key, keys, causal, bias):
    """The score of a key for a query, from their product; minus infinity where it may not be seen, or is not there. `bias` is where the query's is,
    or -1.
    """
    if key >= keys or (causal == 1 and key > query):
        return -real(INFINITY)
    value = dot * factor
    if bias >= 0:
        value += view(arena, bias + key * WIDTH, real)[0]
    return value


def next_top(arena, square, at, most, factor, query, first, keys, causal, bias):
    """The products of a thread's row of a square become scores; the greatest of the row's and `most`."""
    for j in range(4):
        value = score(arena, square[at + 36 * j], factor, query, first + j, keys, causal, bias)
        square[at + 36 * j] = value
        most = maximum(most, value)
    return greatest_of_eight(most)


def bias_of(words, sample, head, query):
    """Where the bias of a query is, or -1. A query that is not there has the last one's."""
    if words[13] == 0:
        return -1
    return words[4] + (sample * words[14] + head * words[15] + min(query, words[8] - 1) * words[16]) * WIDTH


def draw(arena, words, piece, query, key, drawn):
    """A bit for each weight of 32 queries and some 32 keys, as `bernoulli` draws for all weights: five times eight from the first key's block on."""
    keys, place, threshold, seed = words[9], words[19], words[18], view(arena, words[5], int64)
    for e in range(cuda.threadIdx.x, 160, 64):
        row = e // 5
        block = ((piece * words[8] + query + row) * keys + key) >> 3
        a, b, c, d = philox(block + (e - 5 * row), place, seed[1], 2, seed[0])
        found = select((a & 65535) < threshold, 1, 0) + select((a >> 16) < threshold, 2, 0)
        found += select((b & 65535) < threshold, 4, 0) + select((b >> 16) < threshold, 8, 0)
        found += select((c & 65535) < threshold, 16, 0) + select((c >> 16) < threshold, 32, 0)
        found += select((d & 65535) < threshold, 64, 0) + select((d >> 16) < threshold, 128, 0)
        drawn[e] = found


def begin_walk(sums, running):
    """Before the first keys: sums of a window, and of each row the greatest score, the sum of exponentials and a third number, a thread's own."""
    for e in range(32):
        sums[e] = real(0)
    for own in range(cuda.threadIdx.x, cuda.threadIdx.x + 256, 64):
        running[own], running[own + 256], running[own + 512] = -real(INFINITY), real(0), real(0)


def end_walk(arena, words, running, row, rows):
    """After the last keys: of each row 1 / sum and slope. The keys' way back finds them in the room, those of the first `rows` rows from `row` on."""
    for i in range(4):
        own = i * 64 + cuda.threadIdx.x
        running[own + 256] = real(1) / sum_of_eight(running[own + 256])
        running[own + 512] = sum_of_eight(running[own + 512]) * running[own + 256]
        if i < rows:
            known = view(arena, words[6] + (row + i) * 3 * WIDTH, real)
            known[0] = running[own] if running[own] > -real(INFINITY) else real(0)
            known[1], known[2] = running[own + 256], running[own + 512]


def kept(drawn, first, row, column, dropped, factor):
    """What the weight of a square's row and column is multiplied by in dropout; `first` is the number of its row's first weight."""
    if dropped == 0:
        return real(1)
    at = (first & 7) + column
    return factor if ((drawn[row * 5 + (at >> 3)] >> (at & 7)) & 1) == 1 else real(0)


_USES = (greatest_of_eight, sum_of_eight, place_of, row_of, score, next_top, bias_of, draw, begin_walk, end_walk, kept)


@squares("attention_queries", uses=_USES)
def attention_kernel(arena, words, size):
    """out = softmax(q kᵀ scale + bias) v for a window of 32 queries of a piece, a sample's head."""
    heads, queries, keys, features, values, causal, dropped = words[7], words[8], words[9], words[10], words[11], words[12], words[18]
    ldq, ldv, factor, inflation = heads * features, heads * values, real(number_of(words[21])), real(number_of(words[20]))
    y, x = (cuda.threadIdx.x >> 3) * 4, (cuda.threadIdx.x & 7) * 4
    left = view_of(cuda.shared.array(4608, uint8, alignment=16), real)
    right = view_of(cuda.shared.array(4608, uint8, alignment=16), real)
    square = view_of(cuda.shared.array(9216, uint8, alignment=16), real)
    wide = view_of(cuda.shared.array(4608, uint8, alignment=16), real)
    drawn = view_of(cuda.shared.array(640, uint8, alignment=16), int32)
    running = view_of(cuda.shared.array(6144, uint8, alignment=16), real)      # each thread's own: three numbers for each of its rows
    found = cuda.local.array(16, real)
    sums = cuda.local.array(32, real)
    for unit in range(cuda.blockIdx.x, size, cuda.gridDim.x):
        sample, head, first, window = place_of(unit, words[17], (queries + 31) >> 5, heads)
        piece, columns, window = sample * heads + head, min(256 // WIDTH, values - window * (256 // WIDTH)), window * (256 // WIDTH)
        q = words[1] + ((sample * queries + first) * ldq + head * features) * WIDTH
        begin_walk(sums, running)
        for start in range(0, min(keys, first + 32) if causal == 1 else keys, 32):
            if dropped > 0:
                draw(arena, words, piece, first, start, drawn)
            k = words[2] + ((sample * keys + start) * ldq + head * features) * WIDTH
            dot_square(arena, words, found, q, queries - first, k, keys - start, 10, left, right)
            for i in each(4):
                for j in each(4):
                    square[(x + j) * 36 + y + i] = found[4 * i + j]
            for i in range(4):
                at, own, bias = x * 36 + y + i, i * 64 + cuda.threadIdx.x, bias_of(words, sample, head, first + y + i)
                weight, most = (piece * queries + first + y + i) * keys + start, running[own]
                top = next_top(arena, square, at, most, factor, first + y + i, start + x, keys, causal, bias)
                base = top if top > -real(INFINITY) else 0.0       # while all scores are minus infinity nothing is known
                scale, total = exp(most - base), real(0)
                for j in each(4):
                    exponential = exp(square[at + 36 * j] - base)
                    total += exponential
                    square[at + 36 * j] = exponential * kept(drawn, weight, y + i, x + j, dropped, inflation)
                running[own], running[own + 256], running[own + 512] = top, running[own + 256] * scale + total, scale
            for i in each(4):
                for e in each(2):
                    if 32 * e < 256 // WIDTH:
                        for j in each(4):
                            sums[16 * e + 4 * i + j] *= running[i * 64 + cuda.threadIdx.x + 512]
            cuda.syncthreads()
            v = words[3] + ((sample * keys + start) * ldv + head * values + window) * WIDTH
            add_products(arena, words, sums, square, v, 11, min(32, keys - start), columns, wide)
        out = view(arena, words[0] + ((sample * queries + first) * ldv + head * values + window) * WIDTH, real)
        for i in each(4):
            scale = 1.0 / sum_of_eight(running[i * 64 + cuda.threadIdx.x + 256])
            if y + i < queries - first:
                put_row(out, (y + i) * ldv + x, columns - x, scale, sums, 4 * i)


@squares("attention_queries_back", uses=_USES)
def queries_back_kernel(arena, words, size):
    """dq for a window of 32 queries of a piece, and what the keys' way back has to know of them. Keys are walked first for the sums, then again."""
    heads, queries, keys, features = words[7], words[8], words[9], words[10]      # within, words are read again: registers are few here
    y, x = (cuda.threadIdx.x >> 3) * 4, (cuda.threadIdx.x & 7) * 4
    left = view_of(cuda.shared.array(4608, uint8, alignment=16), real)
    right = view_of(cuda.shared.array(4608, uint8, alignment=16), real)
    square = view_of(cuda.shared.array(9216, uint8, alignment=16), real)
    wide = view_of(cuda.shared.array(4608, uint8, alignment=16), real)
    drawn = view_of(cuda.shared.array(640, uint8, alignment=16), int32)
    running = view_of(cuda.shared.array(6144, uint8, alignment=16), real)      # each thread's own: three numbers for each of its rows
    found = cuda.local.array(16, real)
    sums = cuda.local.array(32, real)
    for unit in range(cuda.blockIdx.x, size, cuda.gridDim.x):
        sample, head, first, window = place_of(unit, words[17], (queries + 31) >> 5, heads)
        piece, columns, window = sample * heads + head, min(256 // WIDTH, features - window * (256 // WIDTH)), window * (256 // WIDTH)
        begin_walk(sums, running)
        for turn in range(2):
            for start in range(0, min(keys, first + 32) if words[12] == 1 else keys, 32):
                if words[18] > 0:
                    cuda.syncthreads()       # all have read what was drawn before
                    draw(arena, words, piece, first, start, drawn)
                q, k = row_of(words, 1, sample * words[8] + first, head, 10), row_of(words, 2, sample * words[9] + start, head, 10)
                dot_square(arena, words, found, q, words[8] - first, k, words[9] - start, 10, left, right)
                for i in each(4):
                    for j in each(4):
                        square[(x + j) * 36 + y + i] = found[4 * i + j]
                for i in range(4):
                    at, own, bias = x * 36 + y + i, i * 64 + cuda.threadIdx.x, bias_of(words, sample, head, first + y + i)
                    most, total = running[own], real(0)
                    top = next_top(arena, square, at, most, real(number_of(words[21])), first + y + i, start + x, words[9], words[12], bias)
                    base = top if top > -real(INFINITY) else 0.0
                    for j in each(4):
                        exponential = exp(square[at + 36 * j] - base)
                        total += exponential
                        square[at + 36 * j] = exponential
                    if turn == 0:
                        scale = exp(most - base)
                        running[own], running[own + 256], running[own + 512] = top, running[own + 256] * scale + total, running[own + 512] * scale
                ct, v = row_of(words, 22, sample * words[8] + first, head, 11), row_of(words, 3, sample * words[9] + start, head, 11)
                dot_square(arena, words, found, ct, words[8] - first, v, words[9] - start, 11, left, right)
                for i in each(4):
                    weight = (piece * words[8] + first + y + i) * words[9] + start
                    own = i * 64 + cuda.threadIdx.x
                    if words[18] > 0:
                        for j in each(4):
                            found[4 * i + j] *= kept(drawn, weight, y + i, x + j, 1, real(number_of(words[20])))
                    if turn == 0:
                        for j in each(4):
                            running[own + 512] += square[(x + j) * 36 + y + i] * found[4 * i + j]
                    else:
                        for j in each(4):
                            square[(x + j) * 36 + y + i] *= running[own + 256] * (found[4 * i + j] - running[own + 512]) * real(number_of(words[21]))
                if turn == 1:
                    cuda.syncthreads()
                    k = row_of(words, 2, sample * words[9] + start, head, 10)
                    add_products(arena, words, sums, square, k + window * WIDTH, 10, min(32, words[9] - start), columns, wide)
            if turn == 0:
                end_walk(arena, words, running, piece * queries + first + y, queries - first - y if x == 0 and window == 0 else 0)
        out = view(arena, row_of(words, 0, sample * words[8] + first, head, 10) + window * WIDTH, real)
        for i in each(4):
            if first + y + i < queries:
                put_row(out, (y + i) * heads * features + x, columns - x, real(1), sums, 4 * i)


@squares("attention_keys_back", uses=_USES)
def keys_back_kernel(arena, words, size):
    """dk or dv for a window of 32 keys of a piece: the first windows are of dk."""
    heads, queries, keys, features, values, causal, dropped = words[7], words[8], words[9], words[10], words[11], words[12], words[18]
    ldq, ldv, factor, inflation = heads * features, heads * values, real(number_of(words[21])), real(number_of(words[20]))
    y, x = (cuda.threadIdx.x >> 3) * 4, (cuda.threadIdx.x & 7) * 4
    left = view_of(cuda.shared.array(4608, uint8, alignment=16), real)
    right = view_of(cuda.shared.array(4608, uint8, alignment=16), real)
    square = view_of(cuda.shared.array(9216, uint8, alignment=16), real)
    wide = view_of(cuda.shared.array(4608, uint8, alignment=16), real)
    drawn = view_of(cuda.shared.array(640, uint8, alignment=16), int32)
    found = cuda.local.array(16, real)
    sums = cuda.local.array(32, real)
    of_keys = (features + 256 // WIDTH - 1) // (256 // WIDTH)
    for unit in range(cuda.blockIdx.x, size, cuda.gridDim.x):
        sample, head, first, window = place_of(unit, words[17], (keys + 31) >> 5, heads)
        slopes = window < of_keys
        piece, window = sample * heads + head, (window if slopes else window - of_keys) * (256 // WIDTH)
        columns, ldo = min(256 // WIDTH, (features if slopes else values) - window), ldq if slopes else ldv
        k, v = (sample * keys + first) * ldq + head * features, (sample * keys + first) * ldv + head * values
        for e in each(32):
            sums[e] = 0.0
        for start in range(first if causal == 1 else 0, queries, 32):
            if dropped > 0:
                draw(arena, words, piece, start, first, drawn)
            q = words[1] + ((sample * queries + start) * ldq + head * features) * WIDTH
            ct = words[22] + ((sample * queries + start) * ldv + head * values) * WIDTH
            dot_square(arena, words, found, words[2] + k * WIDTH, keys - first, q, queries - start, 10, left, right)
            for i in each(4):
                for j in each(4):
                    square[(x + j) * 36 + y + i] = found[4 * i + j]
            for query in range(start + x, start + x + 4):
                bias, at = bias_of(words, sample, head, query), (query - start) * 36 + y
                known = view(arena, words[6] + (piece * queries + min(query, queries - 1)) * 3 * WIDTH, real)
                top, total = known[0], known[1]
                for i in each(4):
                    square[at + i] = exp(score(arena, square[at + i], factor, query, first + y + i, keys, causal, bias) - top) * total
            if slopes:
                dot_square(arena, words, found, words[3] + v * WIDTH, keys - first, ct, queries - start, 11, left, right)
            for j in each(4):
                weight = (piece * queries + start + x + j) * keys + first
                along = view(arena, words[6] + (piece * queries + min(start + x + j, queries - 1)) * 3 * WIDTH, real)[2]
                for i in each(4):
                    share = kept(drawn, weight, x + j, y + i, dropped, inflation)
                    square[(x + j) * 36 + y + i] *= (found[4 * i + j] * share - along) * factor if slopes else share
            cuda.syncthreads()
            kind, b = (10, q) if slopes else (11, ct)
            add_products(arena, words, sums, square, b + window * WIDTH, kind, min(32, queries - start), columns, wide)
        at = words[23] + k + window if slopes else words[23] + words[24] + v + window
        out = view(arena, words[0] + at * WIDTH, real)
        for i in each(4):
            if first + y + i < keys:
                put_row(out, (y + i) * ldo + x, columns - x, real(1), sums, 4 * i)
