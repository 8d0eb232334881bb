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


def kept(drawn, first, row, column, dropped, factor):
    """What the weight of a square's row and column is multiplied by in dropout; `first` is the number of its row's first weight."""
    if dropped == 0:
        return real(1)
    at = (first & 7) + column
    return factor if ((drawn[row * 5 + (at >> 3)] >> (at & 7)) & 1) == 1 else real(0)


_USES = (greatest_of_eight, sum_of_eight, place_of, score, bias_of, draw, kept)


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
    found = cuda.local.array(16, real)
    sums = cuda.local.array(32, real)
    top = cuda.local.array(4, real)
    total = cuda.local.array(4, real)
    for unit in range(cuda.blockIdx.x, size, cuda.gridDim.x):
        sample, head, first, window = place_of(unit, words[17], (queries + 31) >> 5, heads)
        piece, columns, window = sample * heads + head, min(256 // WIDTH, values - window * (256 // WIDTH)), window * (256 // WIDTH)
        q = words[1] + ((sample * queries + first) * ldq + head * features) * WIDTH
        for e in each(32):
            sums[e] = 0.0
        for i in each(4):
            top[i], total[i] = -real(INFINITY), 0.0
        for start in range(0, min(keys, first + 32) if causal == 1 else keys, 32):
            if dropped > 0:
                draw(arena, words, piece, first, start, drawn)
            k = words[2] + ((sample * keys + start) * ldq + head * features) * WIDTH
            dot_square(arena, found, q, ldq, queries - first, k, ldq, keys - start, features, left, right)
            for i in each(4):
                query, bias = first + y + i, bias_of(words, sample, head, first + y + i)
                weight = (piece * queries + query) * keys + start
                for j in each(4):
                    found[4 * i + j] = score(arena, found[4 * i + j], factor, query, start + x + j, keys, causal, bias)
                most = maximum(maximum(found[4 * i], found[4 * i + 1]), maximum(found[4 * i + 2], found[4 * i + 3]))
                most = maximum(top[i], greatest_of_eight(most))
                base = most if most > -real(INFINITY) else 0.0       # while all scores are minus infinity nothing is known
                scale = exp(top[i] - base)
                top[i] = most
                total[i] *= scale
                for e in each(2):
                    if 32 * e < 256 // WIDTH:
                        for j in each(4):
                            sums[16 * e + 4 * i + j] *= scale
                for j in each(4):
                    exponential = exp(found[4 * i + j] - base)
                    total[i] += exponential
                    square[(x + j) * 36 + y + i] = exponential * kept(drawn, weight, y + i, x + j, dropped, inflation)
            cuda.syncthreads()
            v = words[3] + ((sample * keys + start) * ldv + head * values + window) * WIDTH
            add_products(arena, sums, square, v, ldv, min(32, keys - start), columns, wide)
        out = view(arena, words[0] + ((sample * queries + first) * ldv + head * values + window) * WIDTH, real)
        for i in each(4):
            scale = 1.0 / sum_of_eight(total[i])
            if y + i < queries - first:
                for e in each(2):
                    if 32 * e < 256 // WIDTH:
                        put_four_of(out, (y + i) * ldv + 32 * e + x, columns - 32 * e - x, scale,
                                    sums[16 * e + 4 * i], sums[16 * e + 4 * i + 1], sums[16 * e + 4 * i + 2], sums[16 * e + 4 * i + 3])


@squares("attention_queries_back", uses=_USES)
def queries_back_kernel(arena, words, size):
    """dq for a window of 32 queries of a piece, and what the keys' way back has to know of them. Keys are walked first for the sums, then again."""
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
    top = cuda.local.array(4, real)
    total = cuda.local.array(4, real)
    along = cuda.local.array(4, real)
    for unit in range(cuda.blockIdx.x, size, cuda.gridDim.x):
        sample, head, first, window = place_of(unit, words[17], (queries + 31) >> 5, heads)
        piece, columns, window = sample * heads + head, min(256 // WIDTH, features - window * (256 // WIDTH)), window * (256 // WIDTH)
        shift = (sample * queries + first) * ldq + head * features
        ct = words[22] + ((sample * queries + first) * ldv + head * values) * WIDTH
        for e in each(32):
            sums[e] = 0.0
        for i in each(4):
            top[i], total[i], along[i] = -real(INFINITY), 0.0, 0.0
        for turn in range(2):
            for start in range(0, min(keys, first + 32) if causal == 1 else keys, 32):
                if dropped > 0:
                    cuda.syncthreads()       # all have read what was drawn before
                    draw(arena, words, piece, first, start, drawn)
                k = words[2] + ((sample * keys + start) * ldq + head * features) * WIDTH
                v = words[3] + ((sample * keys + start) * ldv + head * values) * WIDTH
                dot_square(arena, found, words[1] + shift * WIDTH, ldq, queries - first, k, ldq, keys - start, features, left, right)
                for i in each(4):
                    bias = bias_of(words, sample, head, first + y + i)
                    for j in each(4):
                        found[4 * i + j] = score(arena, found[4 * i + j], factor, first + y + i, start + x + j, keys, causal, bias)
                    if turn == 0:
                        most = maximum(maximum(found[4 * i], found[4 * i + 1]), maximum(found[4 * i + 2], found[4 * i + 3]))
                        most = maximum(top[i], greatest_of_eight(most))
                        scale = exp(top[i] - (most if most > -real(INFINITY) else 0.0))
                        top[i], total[i], along[i] = most, total[i] * scale, along[i] * scale
                    base = top[i] if top[i] > -real(INFINITY) else 0.0
                    for j in each(4):
                        exponential = exp(found[4 * i + j] - base)
                        if turn == 0:
                            total[i] += exponential
                        square[(x + j) * 36 + y + i] = exponential
                dot_square(arena, found, ct, ldv, queries - first, v, ldv, keys - start, values, left, right)
                for i in each(4):
                    weight = (piece * queries + first + y + i) * keys + start
                    for j in each(4):
                        value = found[4 * i + j] * kept(drawn, weight, y + i, x + j, dropped, inflation)
                        if turn == 0:
                            along[i] += square[(x + j) * 36 + y + i] * value
                        else:
                            square[(x + j) * 36 + y + i] *= total[i] * (value - along[i]) * factor
                if turn == 1:
                    cuda.syncthreads()
                    add_products(arena, sums, square, k + window * WIDTH, ldq, min(32, keys - start), columns, wide)
            if turn == 0:
                for i in each(4):
                    total[i] = 1.0 / sum_of_eight(total[i])
                    along[i] = sum_of_eight(along[i]) * total[i]
                    if x == 0 and window == 0 and first + y + i < queries:
                        known = view(arena, words[6] + (piece * queries + first + y + i) * 3 * WIDTH, real)
                        known[0], known[1], known[2] = top[i] if top[i] > -real(INFINITY) else 0.0, total[i], along[i]
        out = view(arena, words[0] + (shift + window) * WIDTH, real)
        for i in each(4):
            if first + y + i < queries:
                for e in each(2):
                    if 32 * e < 256 // WIDTH:
                        put_four_of(out, (y + i) * ldq + 32 * e + x, columns - 32 * e - x, real(1),
                                    sums[16 * e + 4 * i], sums[16 * e + 4 * i + 1], sums[16 * e + 4 * i + 2], sums[16 * e + 4 * i + 3])


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
            dot_square(arena, found, words[2] + k * WIDTH, ldq, keys - first, q, ldq, queries - start, features, left, right)
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
                dot_square(arena, found, words[3] + v * WIDTH, ldv, keys - first, ct, ldv, queries - start, values, left, right)
            for j in each(4):
                weight = (piece * queries + start + x + j) * keys + first
                along = view(arena, words[6] + (piece * queries + min(start + x + j, queries - 1)) * 3 * WIDTH, real)[2]
                for i in each(4):
                    share = kept(drawn, weight, x + j, y + i, dropped, inflation)
                    square[(x + j) * 36 + y + i] *= (found[4 * i + j] * share - along) * factor if slopes else share
            cuda.syncthreads()
            add_products(arena, sums, square, (q if slopes else ct) + window * WIDTH, ldo, min(32, queries - start), columns, wide)
        at = words[23] + k + window if slopes else words[23] + words[24] + v + window
        out = view(arena, words[0] + at * WIDTH, real)
        for i in each(4):
            if first + y + i < keys:
                for e in each(2):
                    if 32 * e < 256 // WIDTH:
                        put_four_of(out, (y + i) * ldo + 32 * e + x, columns - 32 * e - x, real(1),
                                    sums[16 * e + 4 * i], sums[16 * e + 4 * i + 1], sums[16 * e + 4 * i + 2], sums[16 * e + 4 * i + 3])
