"""What often goes with a matrix product, done before its numbers leave the registers: a bias, relu, the way back through relu.

Nobody writes these ops: `graph/fuse` puts them where a product is used once, by what they take in.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.core import Case, Node, Op, Sample, Shape, apply, register
from engine.errors import ShapeError
from engine.ops.matmul import launch_in_registers
from engine.ops.matmul import oracle as product_oracle
from engine.ops.matmul import shape as product_shape
from engine.ops.matmul_grid import GATE, RELU, ROW
from engine.ops.matmul_grid import launches as launch_on_gpu

TURNS = {"transpose_a": False, "transpose_b": False}


def _affine_shape(a: Node, b: Node, bias: Node, relu: bool = False, **turns: bool) -> tuple[Shape, str]:
    made, dtype = product_shape(a, b, **turns)
    if len(made) != 2 or bias.shape != made[1:] or bias.dtype != dtype:
        raise ShapeError(f"affine of a product {list(made)} takes a bias of {made[-1]} numbers, found {bias.dtype}{list(bias.shape)}")
    return made, dtype


def _gated_shape(a: Node, b: Node, gate: Node, **turns: bool) -> tuple[Shape, str]:
    made, dtype = product_shape(a, b, **turns)
    if len(made) != 2 or gate.shape != made or gate.dtype != dtype:
        raise ShapeError(f"gated_product of {list(made)} takes a gate of that shape, found {gate.dtype}{list(gate.shape)}")
    return made, dtype


def _affine_oracle(a: np.ndarray, b: np.ndarray, bias: np.ndarray, relu: bool = False, **turns: bool) -> np.ndarray:
    y = product_oracle(a, b, **turns) + bias
    return np.maximum(y, 0) if relu else y


def _affine_compose(node: Node) -> Node:
    a, b, bias = node.inputs
    y = apply("matmul", a, b, **_turns(node)) + bias
    return apply("relu", y) if node.attrs["relu"] else y


def _gated_compose(node: Node) -> Node:
    a, b, gate = node.inputs
    return apply("matmul", a, b, **_turns(node)) * (gate > 0)


def _turns(node: Node) -> dict[str, Any]:
    return {name: node.attrs[name] for name in TURNS}


def _cases(third: int, **attrs: Any) -> tuple[Case, ...]:
    """Small, ragged, turned and large ones; the third input has the last `third` axes of the product."""
    def case(name: str, m: int, k: int, n: int, gradient: bool = True, a: bool = False, b: bool = False) -> Case:
        left, right, more = (k, m) if a else (m, k), (n, k) if b else (k, n), (m, n)[2 - third:]
        return Case(name, (Sample(left), Sample(right), Sample(more, avoid=(0.0,))), {**attrs, "transpose_a": a, "transpose_b": b}, gradient)

    smooth = not attrs.get("relu")
    return (case("small", 5, 7, 3, smooth), case("ragged", 13, 17, 21, smooth), case("empty batch", 0, 4, 3), case("turned", 9, 4, 6, smooth, b=True),
            case("turned left", 9, 4, 6, smooth, a=True), case("panels", 55, 410, 405, False), case("panels turned", 55, 410, 405, False, b=True))


AFFINE = register(Op(
    "affine", shape=_affine_shape, oracle=_affine_oracle, compose=_affine_compose, public=False, defaults={**TURNS, "relu": False},
    launch=lambda node: launch_in_registers(node, RELU if node.attrs["relu"] else ROW, node.inputs[2], 0),
    cuda=lambda node: launch_on_gpu(node, RELU if node.attrs["relu"] else ROW),
    cases=(*_cases(1, relu=False), *(Case(f"{case.name}, relu", case.inputs, {**case.attrs, "relu": True}, False) for case in _cases(1, relu=True))),
    formula="a @ b + bias", description="A matrix product and a bias, and relu of that where asked."))
GATED = register(Op(
    "gated_product", shape=_gated_shape, oracle=lambda a, b, gate, **turns: product_oracle(a, b, **turns) * (gate > 0), compose=_gated_compose,
    launch=lambda node: launch_in_registers(node, GATE, node.inputs[2], node.shape[1]), public=False, defaults=TURNS,
    cuda=lambda node: launch_on_gpu(node, GATE),
    cases=_cases(2), formula="(a @ b) * (gate > 0)", description="A matrix product where the gate is above zero, else 0: the way back through relu."))
