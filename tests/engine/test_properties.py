"""Whatever chain of layers is put together: it builds, its graphs are well formed, and its plans give what the reference machine gives."""

from __future__ import annotations

from math import prod

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

import engine  # noqa: F401  binds what computes values
from engine.autodiff.forward import pushforward
from engine.autodiff.reverse import pullback
from engine.core import FLOATS, Node, apply, evaluate, leaf
from engine.errors import DtypeError, ShapeError, SpecError
from engine.graph import interpret
from engine.graph.check import check
from engine.nn import AnyLayer, Chain, Layer, output_size, trace
from tests.engine.test_layers import SAMPLES

KINDS = sorted(set(SAMPLES) - {"embedding", "embedding_bag"})     # those look up whole numbers
ONE: TypeAdapter[Layer] = TypeAdapter(AnyLayer)
MOST, LONGEST = 400, 5      # numbers in a row, layers in a chain


@st.composite
def chains(draw: st.DrawFn) -> tuple[Layer, tuple[int, ...]]:
    """A chain and the shape of one row of its input: of all kinds in some order, the first that take what the ones before them give."""
    start = draw(st.sampled_from([(4,), (5, 4), (6, 6, 4)]))
    layers: list[Layer] = []
    for kind in draw(st.permutations(KINDS)):
        layer = ONE.validate_python({"kind": kind, **SAMPLES[kind][0]})
        try:
            after = output_size(Chain([*layers, layer]), start)
        except (ShapeError, SpecError, DtypeError):
            continue
        if isinstance(after, tuple) and prod(after) <= MOST and len(layers) < LONGEST:
            layers.append(layer)
    return Chain(layers), start


@given(chains(), st.integers(0, 2**31))
@settings(max_examples=16, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_any_chain_of_layers_is_planned_as_the_reference_machine_says(made: tuple[Layer, tuple[int, ...]], seed: int) -> None:
    layer, shape = made
    rng = np.random.default_rng(seed)
    model = layer.build(shape, seed=seed, dtype="float64")
    x = leaf((3, *shape), "float64", value=rng.normal(size=(3, *shape)))
    nodes = {path: leaf(a.shape, "float64", value=a) for path, a in {**model.parameters, **model.buffers}.items()}
    traced = trace(layer, x, training=True, dtype="float64", parameters=nodes, key=leaf((2,), "int64", value=np.array([seed, 1])))
    loss = apply("square", traced.output).mean()
    back = [node for node in pullback(loss, None, [x, *(nodes[path] for path in model.parameters)]) if node is not None]
    direction = leaf(x.shape, "float64", value=rng.normal(size=x.shape))
    along, = pushforward([loss], {x: direction})
    assert along is not None
    results: list[Node] = [loss, along, *back, *traced.assigned.values()]
    check(results)
    expected = interpret.run(results)
    evaluate(results)
    np.testing.assert_allclose(expected[1], (expected[2] * direction.value).sum(), rtol=1e-8, atol=1e-8)
    for node, value in zip(results, expected, strict=True):
        if node.dtype in FLOATS:
            np.testing.assert_allclose(node.numpy(), value, rtol=1e-8, atol=1e-8 * max(1.0, np.abs(value).max(initial=0.0)))
