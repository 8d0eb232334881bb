"""ctc: how surprised scores along time are by a shorter sequence of labels, over all the ways to spread it out (Graves et al., 2006)."""

# pyright: reportUndefinedVariable=false
from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np

from engine.core import FLOATS, Case, Launch, Node, Op, Sample, Scratch, Shape, apply, leaf, register
from engine.errors import DtypeError, ShapeError
from engine.kernels.library import kernel
from engine.ops import ctc_grid  # noqa: F401
from engine.ops.indexing import INDEX_TYPES

# The states of a sample are its labels with a blank, the last class, before, between and after them: 2 L + 1. A way of spreading stays in its state,
# goes to the next, or passes over a blank between two labels that differ. What follows are logarithms; NONE stands for that of nothing.
NONE = -1e30     # its exponential is 0, and differences of it are numbers


def prepare(arena, labels, width, first, most, classes, kinds, skip, none):
    """Class of each state, and what entering it from two states before costs: 0 or NONE. How many states there are with the labels before the first
    negative one; 0 where one of them is the blank or no class."""
    n = 0
    while n < most and whole_number(arena, labels, width, first + n) >= 0:
        if whole_number(arena, labels, width, first + n) >= classes - 1:
            return 0
        n += 1
    states = 2 * n + 1
    for s in range(states):
        kinds[s] = classes - 1 if s % 2 == 0 else whole_number(arena, labels, width, first + s // 2)
    for s in range(states + 2):
        skip[s] = none - none if s % 2 == 1 and 1 < s < states and kinds[s] != kinds[s - 2] else none
    return states


def join(x, one, two, three, skip, at, out, place, states):
    """out[place + s] = log(exp(x[one + s]) + exp(x[two + s]) + exp(x[three + s] + skip[at + s]))."""
    for s in range(states):
        a, b, c = load(x, one + s), load(x, two + s), load(x, three + s) + load(skip, at + s)
        most = select(a > b, a, b)
        most = select(c > most, c, most)
        store(out, place + s, most + log(exp(a - most) + exp(b - most) + exp(c - most)))


def beginnings(x, times, classes, kinds, skip, ways, row, states, none):
    """ways[t, 2 + s]: all beginnings that are in state s at time t; two NONE stand before them. Returns all whole ways."""
    for t in range(times):
        here = t * row + 2
        ways[here - 2] = none
        ways[here - 1] = none
        if t == 0:
            for s in range(states):
                ways[here + s] = none - none if s < 2 else none
        else:
            join(ways, here - row, here - row - 1, here - row - 2, skip, 0, ways, here, states)
        for s in range(states):
            ways[here + s] += x[t * classes + kinds[s]]
    end = (times - 1) * row + 1 + states
    a, b = ways[end], ways[end - 1]
    most = select(a > b, a, b)
    return most + log(exp(a - most) + exp(b - most))


USES = (prepare, join, beginnings)


@kernel("ctc", uses=USES)
def ctc_kernel(arena, words, begin, end):
    """Words: out, x, labels, bytes of a label, times, classes, labels of a sample, room, its bytes for a sample."""
    times, classes, most = words[4], words[5], words[6]
    out, row = view(arena, words[0], real), 2 * most + 3
    for r in range(begin, end):
        room = words[7] + r * words[8]
        kinds, skip = view(arena, room, int64), view(arena, room + 8 * row, real)
        ways = view(arena, room + (8 + WIDTH) * row, real)
        x = view(arena, words[1] + r * times * classes * WIDTH, real)
        states = prepare(arena, words[2], words[3], r * most, most, classes, kinds, skip, real(-1e30))
        total = beginnings(x, times, classes, kinds, skip, ways, row, states, real(-1e30)) if states > 0 else NAN
        out[r] = INFINITY if total < -1e29 else -total


@kernel("ctc_grad", uses=USES)
def ctc_grad_kernel(arena, words, begin, end):
    """out[t, c] = -ct times the share of ways that are in class c at time t. Words: out, ct, and as of ctc.

    Ends are made from the last time on: what may follow a state.
    """
    times, classes, most = words[5], words[6], words[7]
    row = 2 * most + 3
    for r in range(begin, end):
        room = words[8] + r * words[9]
        kinds, skip = view(arena, room, int64), view(arena, room + 8 * row, real)
        ways = view(arena, room + (8 + WIDTH) * row, real)
        after = view(arena, room + (8 + (1 + times) * WIDTH) * row, real)
        ends = view(arena, room + (8 + (2 + times) * WIDTH) * row, real)
        x = view(arena, words[2] + r * times * classes * WIDTH, real)
        out = view(arena, words[0] + r * times * classes * WIDTH, real)
        states = prepare(arena, words[3], words[4], r * most, most, classes, kinds, skip, real(-1e30))
        total = beginnings(x, times, classes, kinds, skip, ways, row, states, real(-1e30)) if states > 0 else NAN
        ct = NAN if total < -1e29 or total != total else view(arena, words[1], real)[r]
        for i in range(times * classes):
            out[i] = 0.0 * ct
        for back in range(times):
            t = times - 1 - back
            if back == 0:
                for s in range(states):
                    ends[s] = 0.0 if s >= states - 2 else -1e30
            else:
                for s in range(states):
                    after[s] = ends[s] + x[(t + 1) * classes + kinds[s]]
                after[states] = -1e30
                after[states + 1] = -1e30
                join(after, 0, 1, 2, skip, 2, ends, 0, states)
            for s in range(states):
                after[s] = exp(ways[t * row + 2 + s] + ends[s] - total)
            for s in range(states):
                out[t * classes + kinds[s]] -= ct * after[s]


# ---------------------------------------------------------------- meaning

def _shape(x: Node, labels: Node) -> tuple[Shape, str]:
    if x.ndim != 3 or x.dtype not in FLOATS or not x.shape[1] or x.shape[2] < 2:
        raise ShapeError(f"ctc takes log probabilities [batch, time, classes], the last class the blank, found {x.dtype}{list(x.shape)}")
    if labels.ndim != 2 or labels.shape[0] != x.shape[0] or not labels.shape[1]:
        raise ShapeError(f"ctc takes {x.shape[0]} rows of labels, found {list(labels.shape)}; fill shorter rows up with -1")
    if labels.dtype not in INDEX_TYPES:
        raise DtypeError(f"ctc takes whole numbers ({', '.join(INDEX_TYPES)}) as labels, found {labels.dtype}; cast them first")
    return x.shape[:1], x.dtype


def _ways(x: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For one sample, in probabilities: that of all ways, and the share that is in each class at each time. By products of matrices."""
    kept = labels[:int(np.argmax(np.append(labels, -1) < 0))].astype(int)
    times, classes = x.shape
    if (kept >= classes - 1).any():
        return np.array(np.nan), np.full_like(x, np.nan)
    states = np.full(2 * len(kept) + 1, classes - 1)
    states[1::2] = kept
    i, j = np.indices((len(states),) * 2)
    moves = ((j - i) // 2 == 0) & (j >= i) | (j - i == 2) & (j % 2 == 1) & (states[j] != states[i])
    seen = np.exp(x)[:, states]
    first, last = (np.arange(len(states)) < 2), (np.arange(len(states)) >= len(states) - 2)
    ahead = [np.where(first, seen[0], 0.0)]
    behind = [np.where(last, 1.0, 0.0)]
    for t in range(1, times):
        ahead.append((ahead[-1] @ moves) * seen[t])
        behind.insert(0, moves @ (behind[0] * seen[times - t]))
    total = ahead[-1] @ behind[-1]
    share = np.zeros_like(x)
    for t in range(times):
        np.add.at(share[t], states, ahead[t] * behind[t] / total)
    return total, share


def _oracle(x: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return np.array([-np.log(_ways(*sample)[0]) for sample in zip(x, labels, strict=True)]).reshape(len(x))


def _grad_oracle(ct: np.ndarray, x: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return np.array([-g * _ways(*sample)[1] for g, *sample in zip(ct, x, labels, strict=True)]).reshape(x.shape)


# ---------------------------------------------------------------- in smaller ops

class _Parts:
    """What value and derivative are made of; a tuple of nodes [batch, states] for each time."""

    def __init__(self, x: Node, labels: Node):
        batch, times, classes = x.shape
        most = labels.shape[1]
        blank = leaf((1, 1, classes), x.dtype, value=np.eye(classes, dtype=x.dtype)[None, -1:])
        blanks = [apply("broadcast", blank, shape=(batch, n, classes)) for n in (most, 1)]
        mixed = apply("stack", blanks[0], apply("one_hot", labels, classes=classes, dtype=x.dtype), axis=2)
        self.states = apply("concat", mixed.reshape(batch, 2 * most, classes), blanks[1], axis=1)
        seen = apply("matmul", x, self.states, transpose_b=True)
        self.seen = [seen[:, t] for t in range(times)]
        number = labels.astype(x.dtype)
        held = reduce(lambda ones, k: [*ones, ones[-1] * (number[:, k] >= 0)], range(1, most), [number[:, 0] >= 0])
        last = (sum(held[1:], start=held[0]) * 2).reshape(batch, 1)
        place = leaf((1, 2 * most + 1), x.dtype, value=np.arange(2 * most + 1, dtype=x.dtype)[None])
        self.ends = apply("maximum", place == last, place == last - 1)
        differ = apply("pad", number[:, 1:] != number[:, :-1], low=(0, 1), high=(0, 0)) if most > 1 else number * 0
        between = apply("stack", number * 0, differ, axis=2).reshape(batch, 2 * most)
        self.passed = apply("pad", between, low=(0, 0), high=(0, 1))
        self.begins = place < 2

    def beginnings(self) -> list[Node]:
        ways = [apply("where", self.begins, self.seen[0], NONE)]
        for seen in self.seen[1:]:
            two = apply("where", self.passed, self._shifted(ways[-1], 2), NONE)
            ways.append(seen + apply("logsumexp", apply("stack", ways[-1], self._shifted(ways[-1], 1), two, axis=2), axis=2))
        return ways

    def endings(self) -> list[Node]:
        follow = [apply("where", self.ends, self.seen[0] * 0, NONE)]
        for seen in self.seen[:0:-1]:
            after = follow[0] + seen
            two = self._shifted(apply("where", self.passed, after, NONE), -2)
            follow.insert(0, apply("logsumexp", apply("stack", after, self._shifted(after, -1), two, axis=2), axis=2))
        return follow

    def total(self, ways: Sequence[Node]) -> Node:
        return apply("logsumexp", apply("where", self.ends, ways[-1], NONE), axis=1)

    def _shifted(self, row: Node, by: int) -> Node:
        """A row [batch, states] moved to later states; NONE comes in."""
        width = row.shape[1]
        none = leaf((row.shape[0], abs(by)), row.dtype, value=np.full((row.shape[0], abs(by)), NONE, row.dtype))
        kept = row[:, :width - by] if by > 0 else row[:, -by:]
        return apply("concat", none, kept, axis=1) if by > 0 else apply("concat", kept, none, axis=1)


def _compose(node: Node) -> Node:
    parts = _Parts(*node.inputs)
    return -parts.total(parts.beginnings())


def _grad_compose(node: Node) -> Node:
    ct, x, labels = node.inputs
    parts = _Parts(x, labels)
    ways = parts.beginnings()
    total = parts.total(ways).reshape(-1, 1)
    shares = apply("stack", *(apply("exp", a + b - total) for a, b in zip(ways, parts.endings(), strict=True)), axis=1)
    return apply("matmul", shares, parts.states) * -ct.reshape(-1, 1, 1)


# ---------------------------------------------------------------- launches

def _launch(node: Node, kept: int | None = None) -> list[Launch]:
    """`kept`: how many times a sample's room has space for, if not for all."""
    x, labels = node.inputs[-2:]
    batch, times, classes = x.shape
    most = labels.shape[1]
    row = 2 * most + 3
    nbytes = (8 + (3 + times if kept is None else kept) * np.dtype(node.dtype).itemsize) * row // 64 * 64 + 64
    words = (node, *node.inputs, np.dtype(labels.dtype).itemsize, times, classes, most, Scratch(batch * nbytes), nbytes)
    return [Launch(node.op.name, node.dtype, words, batch, cost=6.0 * times * (2 * most + 1) * len(node.inputs))]


def _cases(back: bool) -> tuple[Case, ...]:
    def case(name: str, batch: int, times: int, classes: int, labels: Sample, gradient: bool = True) -> Case:
        return Case(name, ((Sample((batch,)),) if back else ()) + (Sample((batch, times, classes), -3.0, -0.1), labels), gradient=gradient)

    return (case("ragged", 5, 6, 4, Sample((5, 2), -1, 3, "int32")), case("repeated labels", 3, 7, 3, Sample((3, 3), 0, 2, "int64")),
            case("one", 1, 1, 2, Sample((1, 1), 0, 1, "int32")), case("empty batch", 0, 3, 4, Sample((0, 2), 0, 3, "int32")),
            case("unknown classes", 6, 8, 3, Sample((6, 2), 0, 5, "uint8"), gradient=False))


register(Op("ctc_grad", shape=lambda ct, x, labels: (x.shape, x.dtype), oracle=_grad_oracle, launch=_launch, compose=_grad_compose,
            cases=_cases(True), public=False, description="The cotangent carried back through ctc."))
register(Op("ctc", shape=_shape, oracle=_oracle, launch=_launch, cuda=lambda node: _launch(node, 2), compose=_compose, cases=_cases(False),
            vjp=lambda node, ct: [apply("ctc_grad", ct, *node.inputs), None],
            formula="-log(sum over ways of product over time of exp(x))",
            description="The CTC loss of log probabilities [batch, time, classes] and labels [batch, most]; the last class is the blank."))
