"""Muon: momentum whose matrices are made orthogonal before each step."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import ClassVar, Literal

from engine.core import Node, Shape, apply
from engine.optim.rules import Rate, Rule, Share, Small, rule

ROUNDS = 5
QUINTIC = (3.4445, -4.7750, 2.0315)     # of singular values in (0, 1]: p(s) = a s + b s^3 + c s^5 brings them near 1 in a few rounds


@rule
class Muon(Rule):
    """For matrices momentum made orthogonal by five Newton-Schulz rounds (Jordan et al., 2024), as in Optimisers.jl; for other arrays AdamW.

    An array of more axes is a matrix whose columns are its last axis, the outputs. `fallback` takes AdamW for matrices too, such as embeddings.
    """

    equation: ClassVar[str] = (
        "m = momentum * m + g; d = learning_rate * (sqrt(max(1, outputs / inputs)) * orthogonal(momentum * m + g) + weight_decay * x); "
        "adamw with adam_learning_rate for arrays of one axis")
    lines: ClassVar[str] = """
m = beta1 * m + (1 - beta1) * g
v = beta2 * v + (1 - beta2) * g * g
a = (m / (1 - beta1 ** t)) / (sqrt(v / (1 - beta2 ** t)) + epsilon)
d = factor * adam_learning_rate * (a + weight_decay * x)
"""
    state: ClassVar[tuple[str, ...]] = ("m", "v")
    learning_rate: Rate = 0.02
    momentum: Share = 0.95
    weight_decay: Small = 0.01
    adam_learning_rate: Rate = 0.0003
    beta1: Share = 0.9
    beta2: Share = 0.95
    epsilon: Small = 1e-8
    fallback: bool = False
    kind: Literal["muon"] = "muon"

    def is_whole(self, shape: Shape) -> bool:
        return sum(n > 1 for n in shape) > 1 and not self.fallback

    def compute(self, g: Node, x: Node, state: Mapping[str, Node], scalars: Mapping[str, Node]) -> tuple[Node, dict[str, Node]]:
        m = state["m"] * scalars["momentum"] + g
        inputs, outputs = prod(x.shape[:-1]), x.shape[-1]
        direction = orthogonal((m * scalars["momentum"] + g).reshape(inputs, outputs)).reshape(x.shape) * max(1.0, outputs / inputs) ** 0.5
        return (direction + x * scalars["weight_decay"]) * (scalars["learning_rate"] * scalars["factor"]), {"m": m}


def orthogonal(matrix: Node) -> Node:
    """A matrix with the same singular vectors, whose singular values lie near 1 (between about 0.7 and 1.2)."""
    tall = matrix.shape[0] > matrix.shape[1]
    a, b, c = QUINTIC
    x = matrix / (apply("sqrt", apply("square", matrix).sum()) + 1e-7)
    for _ in range(ROUNDS):
        square = apply("matmul", x, x, transpose_a=tall, transpose_b=not tall)
        mixed = square * b + apply("matmul", square, square) * c
        x = x * a + (apply("matmul", x, mixed) if tall else apply("matmul", mixed, x))
    return x
