"""Layers of sequences [batch, time, features] that look at all places at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from engine.core import Node, apply, count, leaf
from engine.errors import ShapeError
from engine.nn.initialisers import GlorotUniform, Init
from engine.nn.layer import Layer, Scope, Size, layers, one, real

UNSEEN = -1e30      # added to a score, it leaves no weight; a query that may see nothing sees everything alike, and not NaN


@layers.add
class MultiHeadAttention(Layer):
    """At each place a mean of all places, weighted by how well they fit, for several heads side by side (Vaswani et al., 2017).

    One input is its own queries, keys and values. Several are queries and keys (the values too); queries, keys and values; and a mask after them;
    or by the names query, key, value and mask. A mask says by other than 0 which keys may be seen: [keys], [queries, keys] or
    [heads, queries, keys] for each row.
    """

    equation: ClassVar[str] = "concat(softmax(q_i @ k_i.T / sqrt(units / heads)) @ v_i) @ out, with q = x @ query, k = x @ key, v = x @ value"
    aliases: ClassVar[tuple[str, ...]] = ("multihead_attention", "attention")
    heads: Size = Field(8, description="how many; they divide the units")
    units: Size | None = Field(None, description="size of the output, and of all heads together; that of the queries where left out")
    causal: bool = Field(False, description="whether a place sees only itself and those before it")
    dropout: float = Field(0.0, ge=0, lt=1, description="the share of the weights that is dropped in training")
    init: Init = Field(default=GlorotUniform(), description="of all four, query, key, value and out, each [in, units], or by their names")
    kind: Literal["multi_head_attention"] = "multi_head_attention"

    def forward(self, scope: Scope, *x: Any) -> Node:
        *inputs, mask = _named(x)
        q, k, v = (_sequence(node, scope) for node in inputs)
        units = self.units or q.shape[2]
        if units % self.heads:
            raise ShapeError(f"multi_head_attention of {units} units in {self.heads} heads: the heads must divide the units")
        q, k, v = (self._project(scope, name, node, units) for name, node in (("query", q), ("key", k), ("value", v)))
        extras = [] if mask is None else [self._bias(mask, q, k)]
        dropped = {"rate": self.dropout, "place": scope.place()} if self.dropout and scope.training else {}
        y = apply("attention", q, k, v, *extras, *([scope.key] if dropped else []), heads=self.heads, causal=self.causal, **dropped)
        return self._project(scope, "out", y, units)

    def _project(self, scope: Scope, name: str, x: Node, units: int) -> Node:
        weight = scope.parameter(name, (x.shape[2], units), self.initial(name, self.initial("weight", GlorotUniform())))
        return apply("matmul", x.reshape(count(x.shape[:2]), x.shape[2]), weight).reshape(*x.shape[:2], units)

    def _bias(self, mask: Node, q: Node, k: Node) -> Node:
        """What is added to the scores, for [batch, heads, queries, keys]."""
        shape = (mask.shape[0], *(1,) * (4 - mask.ndim), *mask.shape[1:])
        whole = (q.shape[0], self.heads, q.shape[1], k.shape[1])
        fits = mask.ndim in (2, 3, 4) and shape[::3] == whole[::3] and all(n in (1, m) for n, m in zip(shape, whole, strict=True))
        if not fits:
            raise ShapeError(f"multi_head_attention takes a mask of [{whole[3]}], {list(whole[2:])} or {list(whole[1:])} for each row, found "
                             f"{list(mask.shape[1:])}")
        return apply("where", real(mask, q.dtype).reshape(shape), 0.0, UNSEEN)


def _named(x: tuple[Any, ...]) -> tuple[Node, Node, Node, Node | None]:
    """Queries, keys, values and mask of the inputs."""
    given = x[0] if len(x) == 1 and isinstance(x[0], Mapping) else dict(zip(("query", "key", "value", "mask"), x, strict=False))
    if "query" not in given or len(x) > 4 or set(given) - {"query", "key", "value", "mask"}:
        raise ShapeError("multi_head_attention takes one sequence, or up to four inputs: query, key, value and mask; found " +
                         (", ".join(given) if len(x) == 1 else f"{len(x)} inputs"))
    key = given.get("key", given["query"])
    return given["query"], key, given.get("value", key), given.get("mask")


def _sequence(node: Node, scope: Scope) -> Node:
    if node.ndim != 3:
        raise ShapeError(f"multi_head_attention expects [time, features] for each row, found {list(node.shape[1:])}")
    return real(node, scope.dtype)


@layers.add
class PositionalEncoding(Layer):
    """Adds to each place of a sequence waves that tell where it is: sines and cosines of growing length (Vaswani et al., 2017)."""

    equation: ClassVar[str] = "x[t, 2i] + sin(t / 10000 ** (2i / features)), x[t, 2i + 1] + cos(t / 10000 ** (2i / features))"
    length: Size | None = Field(None, description="the longest sequence that is taken; any where left out")
    kind: Literal["positional_encoding"] = "positional_encoding"

    def forward(self, scope: Scope, *x: Any) -> Node:
        node = real(one("positional_encoding", x, 2, "[time, features]"), scope.dtype)
        time, features = node.shape[1:]
        if self.length is not None and time > self.length:
            raise ShapeError(f"positional_encoding takes sequences of up to {self.length} places, found {time}; make length larger")
        angles = np.arange(time)[:, None] / 10000.0 ** (np.arange(features) // 2 * 2 / max(features, 1))
        waves = np.where(np.arange(features) % 2, np.cos(angles), np.sin(angles)).astype(node.dtype)
        return node + leaf(waves.shape, node.dtype, value=waves)
