"""ctc: how surprised scores along time are by a shorter sequence of labels, over all the ways to spread it out (Graves et al., 2006)."""

# pyright: reportUndefinedVariable=false
from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np

from engine.core import FLOATS, Case, Launch, Node, Op, Sample, Scratch, Shape, apply, leaf, register
from engine.errors import DtypeError, ShapeError
from engine.kernels.library import kernel
from engine.ops.indexing import INDEX_TYPES

# The states of a sample are its labels with a blank, the last class, before, between and after them: 2 L + 1. A way of spreading stays in its state,
# goes to the next, or passes over a blank between two labels that differ. Where there is no way the logarithm is -inf.


def log_add(a, b):
    """log(exp(a) + exp(b)); what is not a number stays so."""
    if a == -INFINITY:
        return b
    if b == -INFINITY:
        return a
    return a + log1p(exp(b - a)) if a >= b else b + log1p(exp(a - b))


def class_of(arena, labels, width, first, state, classes):
    """The class of a state. The labels of the sample start at number `first`."""
    return classes - 1 if state % 2 == 0 else whole_number(arena, labels, width, first + state // 2)


def passes(arena, labels, width, first, state):
    """Whether a state is entered from two states before it."""
    k = state // 2
    return state % 2 == 1 and state > 1 and whole_number(arena, labels, width, first + k) != whole_number(arena, labels, width, first + k - 1)


def states_of(arena, labels, width, first, most, classes):
    """How many states a sample has, with its labels before the first negative one; 0 where one of them is the blank or no class."""
    n = 0
    while n < most and whole_number(arena, labels, width, first + n) >= 0:
        if whole_number(arena, labels, width, first + n) >= classes - 1:
            return 0
        n += 1
    return 2 * n + 1


def beginnings(arena, labels, width, first, classes, x, times, states, ways):
    """ways[t, s]: log probability of all beginnings that are in state s at time t. Returns that of all whole ways."""
    for t in range(times):
        for s in range(states):
            sum_ = -INFINITY
            if t > 0:
                before = (t - 1) * states + s
                sum_ = ways[before]
                if s > 0:
                    sum_ = log_add(sum_, ways[before - 1])
                if passes(arena, labels, width, first, s):
                    sum_ = log_add(sum_, ways[before - 2])
            here = x[t * classes + class_of(arena, labels, width, first, s, classes)]
            ways[t * states + s] = sum_ + here if t > 0 else here if s < 2 else sum_
    end = times * states - 1
    return log_add(ways[end], ways[end - 1]) if states > 1 else ways[end]


USES = (log_add, class_of, passes, states_of, beginnings)


@kernel("ctc", uses=USES)
def ctc_kernel(arena, words, begin, end):
    """Words: out, x, labels, bytes of a label, times, classes, labels of a sample, room."""
    labels, width, times, classes, most = words[2], words[3], words[4], words[5], words[6]
    out = view(arena, words[0], real)
    for r in range(begin, end):
        states = states_of(arena, labels, width, r * most, most, classes)
        x = view(arena, words[1] + r * times * classes * WIDTH, real)
        ways = view(arena, words[7] + r * (times + 2) * (2 * most + 1) * WIDTH, real)
        out[r] = -beginnings(arena, labels, width, r * most, classes, x, times, states, ways) if states > 0 else NAN


@kernel("ctc_grad", uses=USES)
def ctc_grad_kernel(arena, words, begin, end):
    """out[t, c] = -ct times the share of ways that are in class c at time t. Words: out, ct, and as of ctc.

    Ends are made from the last time on, in two rows of room: the log probability of all that may follow a state.
    """
    labels, width, times, classes, most = words[3], words[4], words[5], words[6], words[7]
    for r in range(begin, end):
        states = states_of(arena, labels, width, r * most, most, classes)
        x = view(arena, words[2] + r * times * classes * WIDTH, real)
        out = view(arena, words[0] + r * times * classes * WIDTH, real)
        room = words[8] + r * (times + 2) * (2 * most + 1) * WIDTH
        ways, ends = view(arena, room, real), view(arena, room + times * states * WIDTH, real)
        ct = view(arena, words[1], real)[r] if states > 0 else NAN
        whole = beginnings(arena, labels, width, r * most, classes, x, times, states, ways) if states > 0 else NAN
        for i in range(times * classes):
            out[i] = 0.0 * ct
        for back in range(times):
            t = times - 1 - back
            row, after = (t % 2) * states, (1 - t % 2) * states
            for s in range(states):
                sum_ = -INFINITY if back > 0 or s < states - 2 else real(0.0)
                for step in range(3):
                    if back > 0 and s + step < states and (step < 2 or passes(arena, labels, width, r * most, s + 2)):
                        here = x[(t + 1) * classes + class_of(arena, labels, width, r * most, s + step, classes)]
                        sum_ = log_add(sum_, ends[after + s + step] + here)
                ends[row + s] = sum_
                out[t * classes + class_of(arena, labels, width, r * most, s, classes)] -= ct * exp(ways[t * states + s] + sum_ - whole)


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

NONE = -1e30     # stands for -inf: its exponential is 0, and differences of it are numbers


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

def _launch(node: Node) -> list[Launch]:
    x, labels = node.inputs[-2:]
    batch, times, classes = x.shape
    most = labels.shape[1]
    room = Scratch(batch * (times + 2) * (2 * most + 1) * np.dtype(node.dtype).itemsize)
    words = (node, *node.inputs, np.dtype(labels.dtype).itemsize, times, classes, most, room)
    return [Launch(node.op.name, node.dtype, words, batch, cost=60.0 * times * (2 * most + 1) * len(node.inputs))]


def _cases(back: bool) -> tuple[Case, ...]:
    def case(name: str, batch: int, times: int, classes: int, labels: Sample, gradient: bool = True) -> Case:
        return Case(name, ((Sample((batch,)),) if back else ()) + (Sample((batch, times, classes), -3.0, -0.1), labels), gradient=gradient)

    return (case("ragged", 5, 6, 4, Sample((5, 2), -1, 3, "int32")), case("repeated labels", 3, 7, 3, Sample((3, 3), 0, 2, "int64")),
            case("one", 1, 1, 2, Sample((1, 1), 0, 1, "int32")), case("empty batch", 0, 3, 4, Sample((0, 2), 0, 3, "int32")),
            case("unknown classes", 6, 8, 3, Sample((6, 2), 0, 5, "uint8"), gradient=False))


register(Op("ctc_grad", shape=lambda ct, x, labels: (x.shape, x.dtype), oracle=_grad_oracle, launch=_launch, compose=_grad_compose,
            cases=_cases(True), public=False, description="The cotangent carried back through ctc."))
register(Op("ctc", shape=_shape, oracle=_oracle, launch=_launch, compose=_compose, cases=_cases(False),
            vjp=lambda node, ct: [apply("ctc_grad", ct, *node.inputs), None],
            formula="-log(sum over ways of product over time of exp(x))",
            description="The CTC loss of log probabilities [batch, time, classes] and labels [batch, most]; the last class is the blank."))
