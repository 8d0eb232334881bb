"""attention: every query's mean of the values, weighted by how well their keys fit it (Vaswani et al. 2017), kept whole, with its way back.

Heads lie side by side along the last axis: q is [batch, queries, heads * size], k [batch, keys, heads * size], v [batch, keys, heads * value_size].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from engine.core import FLOATS, Case, Launch, Node, Op, Sample, Scratch, Shape, apply, count, leaf, register
from engine.errors import DtypeError, ShapeError
from engine.ops import attention_grid, attention_kernels  # noqa: F401  the kernels
from engine.ops.attention_grid import SIDE, WINDOW
from engine.ops.random import bernoulli_oracle, threshold

DEFAULTS = {"heads": 1, "causal": False, "rate": 0.0, "place": 0}
QUERIES = 48      # of a block, at most
PIECES = 16       # that may be at work at a time


def _extras(rest: Sequence[Any]) -> tuple[Any, Any]:
    """The bias, which is floats, and the key of the dropout, which is whole numbers; None where there is none."""
    bias, key = ([x for x in rest if (np.dtype(x.dtype).name in FLOATS) == floats] for floats in (True, False))
    return bias[0] if bias else None, key[0] if key else None


# ---------------------------------------------------------------- shape

def _shape(q: Node, k: Node, v: Node, *rest: Node, heads: int = 1, causal: bool = False, rate: float = 0.0, place: int = 0) -> tuple[Shape, str]:
    bias, key = _extras(rest)
    floats = {x.dtype for x in (q, k, v, *rest) if x is not key}
    if len(floats) > 1 or q.dtype not in FLOATS:
        raise DtypeError(f"attention takes floats of one type, found {' and '.join(sorted(floats))}; cast first")
    fits = q.ndim == k.ndim == v.ndim == 3 and q.shape[::2] == k.shape[::2] and k.shape[:2] == v.shape[:2]
    if not fits or not k.shape[1]:
        raise ShapeError("attention takes queries [batch, queries, size], keys [batch, keys, size] and values [batch, keys, ...], at least one key; "
                         f"found {list(q.shape)}, {list(k.shape)} and {list(v.shape)}")
    if heads < 1 or q.shape[2] % heads or v.shape[2] % heads or not q.shape[2]:
        raise ShapeError(f"attention of {q.shape[2]} features, and values of {v.shape[2]}, in {heads} heads: the heads must divide them")
    if causal and q.shape[1] != k.shape[1]:
        raise ShapeError(f"causal attention takes as many queries as keys, found {q.shape[1]} and {k.shape[1]}")
    whole = (q.shape[0], heads, q.shape[1], k.shape[1])
    if bias is not None and (bias.ndim != 4 or any(n not in (1, m) for n, m in zip(bias.shape, whole, strict=True)) or bias.shape[3] != whole[3]):
        raise ShapeError(f"the bias of attention is {list(whole)}, or 1 along the first three axes; found {list(bias.shape)}")
    if rate and (key is None or not 0 <= rate < 1):
        raise ShapeError(f"attention drops a share from 0 to 1, for which it needs a key; found {rate}" + ("" if key is not None else " and no key"))
    return (*q.shape[:2], v.shape[2]), q.dtype


# ---------------------------------------------------------------- oracles

def _apart(x: np.ndarray, heads: int) -> np.ndarray:
    return x.reshape(*x.shape[:2], heads, x.shape[2] // heads)


def _weights(q: np.ndarray, k: np.ndarray, rest: Sequence[np.ndarray], heads: int, causal: bool, rate: float, place: int) -> tuple[Any, Any]:
    """Weights [batch, heads, queries, keys], and what dropout multiplies them by."""
    bias, key = _extras(rest)
    scores = np.einsum("nqhd,nkhd->nhqk", _apart(q, heads), _apart(k, heads)) / np.sqrt(q.shape[2] / heads) + (0 if bias is None else bias)
    if causal:
        scores = np.where(np.arange(k.shape[1]) > np.arange(q.shape[1])[:, None], -np.inf, scores)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    if not rate:
        return weights, 1.0
    return weights, bernoulli_oracle(key, weights.shape, place, 1 - rate) / (1 - rate)


def _oracle(q: np.ndarray, k: np.ndarray, v: np.ndarray, *rest: np.ndarray, heads: int = 1, causal: bool = False, rate: float = 0.0,
            place: int = 0) -> np.ndarray:
    weights, kept = _weights(q, k, rest, heads, causal, rate, place)
    return np.einsum("nhqk,nkhd->nqhd", weights * kept, _apart(v, heads)).reshape(*q.shape[:2], v.shape[2])


def _grad_oracle(ct: np.ndarray, q: np.ndarray, k: np.ndarray, v: np.ndarray, *rest: np.ndarray, heads: int = 1, causal: bool = False,
                 rate: float = 0.0, place: int = 0) -> np.ndarray:
    weights, kept = _weights(q, k, rest, heads, causal, rate, place)
    along = np.einsum("nqhd,nkhd->nhqk", _apart(ct, heads), _apart(v, heads)) * kept
    slopes = weights * (along - (along * weights).sum(-1, keepdims=True)) / np.sqrt(q.shape[2] / heads)
    found = (np.einsum("nhqk,nkhd->nqhd", slopes, _apart(k, heads)), np.einsum("nhqk,nqhd->nkhd", slopes, _apart(q, heads)),
             np.einsum("nhqk,nqhd->nkhd", weights * kept, _apart(ct, heads)))
    return np.concatenate([x.ravel() for x in found])


# ---------------------------------------------------------------- in smaller ops

def _heads(x: Node, heads: int) -> Node:
    return apply("transpose", x.reshape(*x.shape[:2], heads, x.shape[2] // heads), axes=(0, 2, 1, 3))


def _together(x: Node) -> Node:
    return apply("transpose", x, axes=(0, 2, 1, 3)).reshape(x.shape[0], x.shape[2], x.shape[1] * x.shape[3])


def _product(a: Node, b: Node, turn_a: bool = False, turn_b: bool = False) -> Node:
    return apply("matmul", a, b, transpose_a=turn_a, transpose_b=turn_b)


def _parts(q: Node, k: Node, rest: Sequence[Node], attrs: Mapping[str, Any]) -> tuple[Node, Node | float]:
    """Weights [batch, heads, queries, keys], and what dropout multiplies them by."""
    (bias, key), heads, rate = _extras(rest), attrs["heads"], attrs["rate"]
    scores = _product(_heads(q, heads), _heads(k, heads), turn_b=True) * (q.shape[2] / heads) ** -0.5
    scores = scores if bias is None else scores + bias
    if attrs["causal"]:
        seen = np.tri(q.shape[1], dtype=q.dtype)
        scores = apply("where", leaf(seen.shape, q.dtype, value=seen), scores, float("-inf"))
    weights = apply("softmax", scores)
    if not rate:
        return weights, 1.0
    return weights, apply("bernoulli", key, shape=weights.shape, place=attrs["place"], rate=1 - rate, value=1 / (1 - rate), dtype=q.dtype)


def _compose(node: Node) -> Node:
    q, k, v, *rest = node.inputs
    weights, kept = _parts(q, k, rest, node.attrs)
    return _together(_product(weights * kept, _heads(v, node.attrs["heads"])))


def _slopes(ct: Node, v: Node, weights: Node, kept: Node | float, heads: int) -> Node:
    """The derivative of the scores."""
    along = _product(_heads(ct, heads), _heads(v, heads), turn_b=True) * kept
    return weights * (along - (along * weights).sum(-1, keepdims=True))


def _grad_compose(node: Node) -> Node:
    (ct, q, k, v, *rest), heads = node.inputs, node.attrs["heads"]
    weights, kept = _parts(q, k, rest, node.attrs)
    slopes = _slopes(ct, v, weights, kept, heads) * (q.shape[2] / heads) ** -0.5
    found = (_product(slopes, _heads(k, heads)), _product(slopes, _heads(q, heads), turn_a=True),
             _product(weights * kept, _heads(ct, heads), turn_a=True))
    return apply("concat", *(_together(x).reshape(x.size) for x in found))


def _vjp(node: Node, ct: Node) -> Sequence[Node | None]:
    q, k, v, *rest = node.inputs
    back, found, at = apply("attention_grad", ct, *node.inputs, **node.attrs), list[Node | None](), 0
    for x in (q, k, v):
        found.append(back[at:at + x.size].reshape(x.shape))
        at += x.size
    return [*found, *(_bias_back(node, ct, x) if x.dtype in FLOATS else None for x in rest)]


def _bias_back(node: Node, ct: Node, bias: Node) -> Node:
    q, k, v, *rest = node.inputs
    weights, kept = _parts(q, k, rest, node.attrs)
    slopes = _slopes(ct, v, weights, kept, node.attrs["heads"])
    return slopes.sum(tuple(i for i, n in enumerate(bias.shape) if n != slopes.shape[i]), keepdims=True)


# ---------------------------------------------------------------- launches

def _steps(bias: Node | None) -> list[int]:
    """Elements of the bias from sample to sample, from head to head, from query to query."""
    return [0, 0, 0] if bias is None else [0 if n == 1 else count(bias.shape[i + 1:]) for i, n in enumerate(bias.shape[:3])]


def _launch(node: Node) -> list[Launch]:
    back = node.op.name == "attention_grad"
    q, k, v, *rest = node.inputs[back:]
    (bias, key), heads, rate = _extras(rest), node.attrs["heads"], node.attrs["rate"]
    (batch, queries, width), keys = q.shape, k.shape[1]
    size, value_size, padded, pieces = width // heads, v.shape[2] // heads, -(-keys // 16) * 16, batch * heads
    grain, block = -(-pieces // PIECES) or 1, -(-queries // max(1, -(-queries // QUERIES)))
    numbers = ((size + value_size + 2 * block) if back else (size + block)) * padded + padded + 16
    room = numbers * np.dtype(node.dtype).itemsize
    words = (node, q, k, v, 0 if bias is None else bias, 0 if key is None else key, Scratch(min(pieces, PIECES) * room), heads, queries, keys, size,
             value_size, int(node.attrs["causal"]), int(bias is not None), *_steps(bias), grain, room, block, threshold(1 - rate) if rate else 0,
             node.attrs["place"], float(1 / (1 - rate)), float(size ** -0.5))
    more = (node.inputs[0], q.size, k.size) if back else ()
    cost = queries * keys * ((1 + 2.5 * back) * (size + value_size) / 25 + 1)
    return [Launch(node.op.name, node.dtype, (*words, *more), pieces, grain=grain, cost=cost / (1 + node.attrs["causal"]))]


def _grid_launch(node: Node) -> list[Launch]:
    back = node.op.name == "attention_grad"
    q, k, v, *rest = node.inputs[back:]
    (bias, key), heads, rate = _extras(rest), node.attrs["heads"], node.attrs["rate"]
    (batch, queries, width), keys = q.shape, k.shape[1]
    size, value_size, itemsize = width // heads, v.shape[2] // heads, np.dtype(node.dtype).itemsize
    room = Scratch(3 * batch * heads * queries * itemsize) if back else 0

    def launch(name: str, rows: int, windows: int) -> Launch:
        words = (node, q, k, v, 0 if bias is None else bias, 0 if key is None else key, room, heads, queries, keys, size, value_size,
                 int(node.attrs["causal"]), int(bias is not None), *_steps(bias), windows, threshold(1 - rate) if rate else 0, node.attrs["place"],
                 float(1 / (1 - rate)), float(size ** -0.5), *((node.inputs[0], q.size, k.size) if back else ()))
        return Launch(name, node.dtype, words, batch * heads * -(-rows // SIDE) * windows, cost=SIDE * keys * (size + value_size) / 10)

    of_queries, of_values = (-(-n * itemsize // WINDOW) for n in (size, value_size))
    if back:
        return [launch("attention_queries_back", queries, of_queries), launch("attention_keys_back", keys, of_queries + of_values)]
    return [launch("attention_queries", queries, of_values)]


def _cases(back: bool) -> tuple[Case, ...]:
    key = Sample((2,), 0, 1 << 40, "int64")

    def case(name: str, batch: int, queries: int, keys: int, heads: int, size: int, value_size: int, *rest: Sample, **attrs: Any) -> Case:
        shapes = (batch, queries, heads * size), (batch, keys, heads * size), (batch, keys, heads * value_size)
        ct = (Sample((batch, queries, heads * value_size)),) if back else ()
        return Case(name, (*ct, *(Sample(s) for s in shapes), *rest), {"heads": heads, **attrs}, gradient=name != "blocks")

    return (case("ragged", 2, 7, 9, 2, 3, 5), case("causal", 2, 8, 8, 2, 4, 4, causal=True), case("one", 1, 1, 1, 1, 1, 1),
            case("empty batch", 0, 3, 4, 2, 2, 2), case("bias", 2, 5, 6, 2, 3, 2, Sample((2, 1, 5, 6))),
            case("dropout", 2, 5, 7, 2, 3, 2, key, rate=0.4, place=3),
            case("all of it", 3, 6, 6, 2, 2, 2, Sample((1, 2, 1, 6)), key, rate=0.3, causal=True),
            case("blocks", 3, 101, 101, 3, 17, 20, key, rate=0.1, causal=True))


register(Op("attention_grad", shape=lambda ct, q, k, v, *rest, **attrs: ((q.size + k.size + v.size,), q.dtype), oracle=_grad_oracle, launch=_launch,
            cuda=_grid_launch, compose=_grad_compose, cases=_cases(True), defaults=DEFAULTS, public=False,
            description="The cotangents carried back to queries, keys and values, one behind the other."))
register(Op("attention", shape=_shape, oracle=_oracle, launch=_launch, cuda=_grid_launch, vjp=_vjp, compose=_compose, cases=_cases(False),
            defaults=DEFAULTS, formula="softmax(q @ k.T / sqrt(size) + bias) @ v",
            description="Means of the values, weighted by how well each key fits the query, for several heads side by side."))
