"""Plans: slots that never overlap while they live, groups cut the same for any number of threads, rows that agree with oracles."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from engine import core
from engine.core import OPS, Node, apply, leaf
from engine.devices.cpu.machine import Table, arena
from engine.devices.cpu.profile import timings
from engine.devices.cpu.validate import validate
from engine.errors import DeviceError
from engine.graph import interpret
from engine.plan.memory import LARGE, PAGE, Block, Cursor, assign
from engine.plan.plan import Plan, make


def network(rows: int = 64, width: int = 32) -> tuple[list[Node], dict[Node, np.ndarray]]:
    rng = np.random.default_rng(0)
    x, w, b = leaf((rows, 8)), leaf((8, width)), leaf((width,))
    h = apply("tanh", x @ w + b)
    outputs = [(h * h).sum(), apply("softmax", h), h.mean(axis=0)]
    return outputs, {node: rng.standard_normal(node.shape).astype(np.float32) for node in (x, w, b)}


def planned(outputs: list[Node], values: dict[Node, np.ndarray]) -> tuple[Plan, np.ndarray]:
    placed, at = {}, 0
    for node, value in values.items():
        placed[node], at = at, at + (value.nbytes + 63) // 64 * 64
    plan = make(outputs, placed, at)
    memory = arena(at + plan.nbytes)
    for node, value in values.items():
        memory[placed[node]: placed[node] + value.nbytes] = value.reshape(-1).view(np.uint8)
    for offset, value in plan.fixed:
        memory[offset: offset + value.nbytes] = value.reshape(-1).view(np.uint8)
    return plan, memory


def read(plan: Plan, memory: np.ndarray, node: Node) -> np.ndarray:
    return memory[plan.at(node): plan.at(node) + node.size * 4].view(np.float32).reshape(node.shape)


@pytest.mark.parametrize("seed", range(20))
def test_blocks_alive_together_never_overlap(seed: int) -> None:
    rng = np.random.default_rng(seed)
    firsts = rng.integers(0, 30, 60)
    blocks = [Block(int(rng.integers(1, 40000)), int(f), int(f + rng.integers(0, 10))) for f in firsts]
    total = assign(blocks)
    for i, a in enumerate(blocks):
        assert a.offset % (PAGE if a.nbytes >= LARGE else 64) == 0 and a.offset + a.nbytes <= total
        for b in blocks[:i]:
            apart = a.last < b.first or b.last < a.first or a.offset + a.nbytes <= b.offset or b.offset + b.nbytes <= a.offset
            assert apart
    assert total < sum(block.nbytes for block in blocks)


def test_large_blocks_begin_at_pages_and_small_ones_close_up() -> None:
    cursor = Cursor(10)
    offsets = [cursor.take(nbytes) for nbytes in (1, 100, 16384, 16448, 0, 5)]
    assert offsets == [64, 128, 4096, 20480, 36928, 36992] and cursor.at == 37056


def test_a_plan_computes_what_the_reference_machine_computes() -> None:
    outputs, values = network()
    plan, memory = planned(outputs, values)
    table = Table([plan])
    table.run(memory, *table.spans[0])
    for node, expected in zip(outputs, interpret.run(outputs, values), strict=True):
        np.testing.assert_allclose(read(plan, memory, node), expected, rtol=2e-5, atol=2e-5)


def test_elementwise_neighbours_share_a_group() -> None:
    x = leaf((64, 32))
    plan, _ = planned([apply("exp", apply("tanh", x * 2.0) + 1.0)], {x: np.zeros((64, 32), np.float32)})
    assert len(plan.groups) == 1 and len(plan.rows) == 4


def test_chunks_cover_the_whole_range_once_at_multiples_of_the_grain() -> None:
    x, w = leaf((512, 600)), leaf((600, 700))
    plan, _ = planned([apply("relu", x @ w)], {x: np.zeros((512, 600), np.float32), w: np.zeros((600, 700), np.float32)})
    assert any(not group.serial for group in plan.groups)
    for group in plan.groups:
        assert group.chunk % group.tile == 0 or group.tile >= group.chunk or group.chunk % 16 == 0


def test_validation_names_the_first_row_that_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    outputs, values = network()
    plan, memory = planned(outputs, values)
    assert validate(plan, memory) >= 5
    wrong = replace(OPS["tanh"], oracle=lambda x: np.tanh(x) * 1.01)
    for node in core.topological(outputs):
        if node.op.name == "tanh":
            monkeypatch.setattr(node, "op", wrong)
    with pytest.raises(DeviceError, match="tanh"):
        validate(plan, memory)


def test_each_group_can_be_timed() -> None:
    outputs, values = network()
    plan, memory = planned(outputs, values)
    table = Table([plan])
    sections = np.array([[[0, 0], table.spans[0], [0, 0], [0, 0], [0, 0]]])
    rows = timings(table, sections, memory)
    assert len(rows) == len(plan.groups) and all(nanoseconds > 0 for _, nanoseconds, _ in rows)
