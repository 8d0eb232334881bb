"""Products that take in a bias, relu and the way back through relu: when they may, and that the numbers stay the same."""

from __future__ import annotations

import numpy as np
import pytest

from engine.autodiff.reverse import pullback
from engine.core import Node, apply, leaf
from engine.devices.values import Compiled
from engine.graph.fuse import fuse
from engine.graph.interpret import run
from engine.graph.walk import order


def names(outputs: list[Node]) -> list[str]:
    return sorted(node.op.name for node in order(outputs) if node.inputs)


def layer(rows: int = 8) -> tuple[list[Node], Node, Node]:
    """Leaves x, weight, bias; x @ weight + bias; relu of it."""
    leaves = [leaf((rows, 5)), leaf((5, 7)), leaf((7,))]
    before = leaves[0] @ leaves[1] + leaves[2]
    return leaves, before, apply("relu", before)


def test_a_product_takes_in_its_bias_and_relu() -> None:
    _, _, y = layer()
    assert names(fuse([y])) == ["affine"]


def test_a_product_that_is_used_twice_stays_as_it_is() -> None:
    leaves, before, y = layer()
    assert names(fuse([y, before])) == ["affine", "relu"]
    product = leaves[0] @ leaves[1]
    assert names(fuse([product + leaves[2], product])) == ["add", "broadcast", "matmul"]


def test_the_way_back_through_relu_is_part_of_a_product() -> None:
    leaves, _, y = layer()
    weight = leaf((7, 3))
    z = y @ weight
    ct = leaf(z.shape)
    (back,) = pullback(z, ct, [leaves[2]])
    assert back is not None
    made = fuse([z, back])
    assert "gated_product" in names(made) and "relu_grad" not in names(made)
    rng = np.random.default_rng(0)
    values = {node: rng.normal(size=node.shape) for node in (*leaves, weight, ct)}
    for found, expected in zip(run(made, values), run([z, back], values), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("shape", [(9, 5, 7), (64, 40, 33), (130, 500, 300)])
def test_no_bit_changes(shape: tuple[int, int, int]) -> None:
    m, k, n = shape
    x, weight, bias = leaf((m, k)), leaf((k, n)), leaf((n,))
    y = apply("relu", x @ weight + bias)
    ct = leaf((m, k))
    gated = apply("relu_grad", ct @ weight, y)
    rng = np.random.default_rng(1)
    values = [rng.normal(size=node.shape).astype(np.float32) for node in (x, weight, bias, ct)]
    made = fuse([y, gated])
    assert names(made) == ["affine", "gated_product"]
    for found, expected in zip(*(Compiled(nodes, [x, weight, bias, ct]).run(values) for nodes in (made, [y, gated])), strict=True):
        np.testing.assert_array_equal(found, expected)
