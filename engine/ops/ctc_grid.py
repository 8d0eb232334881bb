"""ctc on a GPU: a block of threads for each sample, its states spread over them, times one after the other."""

# pyright: reportUndefinedVariable=false
from __future__ import annotations

from engine.kernels.grid import grid

THREADS = 128     # of a block; a thread takes every 128th state


def ctc_states(arena, labels, width, first, most, classes, kinds):
    """The class of each state, and how many states there are, as in `prepare`; by all threads of a block."""
    n, states = 0, 1
    while n < most and states > 0 and whole_number(arena, labels, width, first + n) >= 0:
        states = 0 if whole_number(arena, labels, width, first + n) >= classes - 1 else states + 2
        n += 1
    for s in range(cuda.threadIdx.x, states, cuda.blockDim.x):
        kinds[s] = classes - 1 if s % 2 == 0 else whole_number(arena, labels, width, first + s // 2)
    cuda.syncthreads()
    return states


def ctc_join(a, b, c):
    """log(exp(a) + exp(b) + exp(c))."""
    most = a if a > b else b
    most = c if c > most else most
    return most + log(exp(a - most) + exp(b - most) + exp(c - most))


def ctc_beginnings(x, times, classes, kinds, ways, row, kept, states):
    """Row t modulo `kept` of ways: all beginnings that are in state s at time t, at 2 + s behind two of nothing. Returns all whole ways."""
    none = real(-1e30)
    for t in range(times):
        here = t % kept * row + 2
        before = (t + kept - 1) % kept * row + 2
        for s in range(cuda.threadIdx.x, states + 2, cuda.blockDim.x):
            if s >= states:
                ways[here + s - states - 2] = none
            elif t == 0:
                ways[here + s] = (none - none if s < 2 else none) + x[kinds[s]]
            else:
                passed = s % 2 == 1 and s > 1 and kinds[s] != kinds[max(s - 2, 0)]
                third = ways[before + s - 2] + (none - none if passed else none)
                ways[here + s] = ctc_join(ways[before + s], ways[before + s - 1], third) + x[t * classes + kinds[s]]
        cuda.syncthreads()
    end = (times - 1) % kept * row + 1 + states
    return ctc_join(ways[end], ways[end - 1], none)


def ctc_links(kinds, links, states):
    """The next state of the same label, or 0, for the first state of each label; for the others -1 less that number."""
    for s in range(2 * cuda.threadIdx.x + 1, states, 2 * cuda.blockDim.x):
        before, after = 1, s + 2
        while before < s and kinds[before] != kinds[s]:
            before += 2
        while after < states and kinds[after] != kinds[s]:
            after += 2
        after = after if after < states else 0
        links[s] = after if before == s else -1 - after


USES = (ctc_states, ctc_join, ctc_beginnings)


@grid("ctc", threads=THREADS, uses=USES)
def ctc_grid(arena, words, size):
    """Words as on the CPU: out, x, labels, bytes of a label, times, classes, labels of a sample, room, its bytes for a sample."""
    times, classes, most = words[4], words[5], words[6]
    out, row = view(arena, words[0], real), 2 * most + 3
    for r in range(cuda.blockIdx.x, size, cuda.gridDim.x):
        kinds = view(arena, words[7] + r * words[8], int32)
        ways = view(arena, words[7] + r * words[8] + 8 * row, real)
        x = view(arena, words[1] + r * times * classes * WIDTH, real)
        states = ctc_states(arena, words[2], words[3], r * most, most, classes, kinds)
        if states > 0:
            total = ctc_beginnings(x, times, classes, kinds, ways, row, 2, states)
            if cuda.threadIdx.x == 0:
                out[r] = INFINITY if total < -1e29 else -total
        elif cuda.threadIdx.x == 0:
            out[r] = NAN
        cuda.syncthreads()


@grid("ctc_grad", threads=THREADS, uses=(*USES, ctc_links))
def ctc_grad_grid(arena, words, size):
    """out[t, c] = -ct times the share of ways that are in class c at time t. Words: out, ct, and as of ctc.

    Of a label's states the first one's thread adds up all; what is in blanks is added up by the block.
    """
    times, classes, most, none = words[5], words[6], words[7], -1e30
    thread, threads, row, sums = cuda.threadIdx.x, cuda.blockDim.x, 2 * most + 3, cuda.shared.array(32, real)
    for r in range(cuda.blockIdx.x, size, cuda.gridDim.x):
        room = words[8] + r * words[9]
        kinds, links, ways = view(arena, room, int32), view(arena, room + 4 * row, int32), view(arena, room + 8 * row, real)
        after = view(arena, room + (8 + times * WIDTH) * row, real)
        ends = view(arena, room + (8 + (1 + times) * WIDTH) * row, real)
        shares = view(arena, room + (8 + (2 + times) * WIDTH) * row, real)
        x = view(arena, words[2] + r * times * classes * WIDTH, real)
        out = view(arena, words[0] + r * times * classes * WIDTH, real)
        states = ctc_states(arena, words[3], words[4], r * most, most, classes, kinds)
        ctc_links(kinds, links, states)
        total = ctc_beginnings(x, times, classes, kinds, ways, row, times, states) if states > 0 else real(NAN)
        ct = real(NAN) if total < -1e29 or total != total else view(arena, words[1], real)[r]
        for i in range(thread, times * classes, threads):
            out[i] = 0.0 * ct
        for back in range(times if states > 0 else 0):
            t = times - 1 - back
            for s in range(thread, states + 2 if back > 0 else 0, threads):
                after[s] = ends[s] + x[(t + 1) * classes + kinds[s]] if s < states else none
            cuda.syncthreads()
            for s in range(thread, states, threads):
                if back == 0:
                    ends[s] = 0.0 if s >= states - 2 else none
                else:
                    passed = s % 2 == 1 and s + 2 < states and kinds[min(s + 2, states - 1)] != kinds[s]
                    ends[s] = ctc_join(after[s], after[s + 1], after[s + 2] + (0.0 if passed else none))
                shares[s] = exp(ways[t * row + 2 + s] + ends[s] - total)
            cuda.syncthreads()
            blank = 0.0
            for s in range(thread, states, threads):
                if s % 2 == 0:
                    blank += shares[s]
                elif links[s] >= 0:
                    held, other = shares[s], links[s]
                    while other > 0:
                        held += shares[other]
                        other = -1 - links[other]
                    out[t * classes + kinds[s]] = -ct * held
            blank = block_sum(blank, sums)
            if thread == 0:
                out[t * classes + classes - 1] = -ct * blank
        cuda.syncthreads()

