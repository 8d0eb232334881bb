"""What a step is on a GPU, launch by launch: the order, the gates, where the pointers point, and that no value is overwritten that is still read."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest

from engine.core import Node, root
from engine.devices.cuda import gates
from engine.devices.cuda.machine import Bound
from engine.devices.cuda.session import Session
from engine.kernels import grid, library
from engine.plan.memory import align
from engine.plan.plan import Plan
from engine.train.ready import planned
from tests.engine.cuda.host import Host, Launched
from tests.engine.cuda.test_session import gpus, job, run_of, table  # noqa: F401

SMALL = {"model": {"kind": "chain", "layers": [{"kind": "dense", "units": 8, "activation": "tanh"}, {"kind": "dense", "units": "target"}]}}
FIRST = ["sample_rows", "gather_number", "gather_code"]
LAST = ["square_blocks", "guard", "decide_step", "refresh_scalars", "rule_adam", *["add_up"] * 4, "end_step"]


def made(gpus: list[Host], **changes: Any) -> tuple[Session, Host]:  # noqa: F811
    session = run_of(job(**changes)).session
    assert isinstance(session, Session)
    return session, gpus[-1]


def step(session: Session, phase: str = "train", last: bool = False) -> list[Bound]:
    return list(session._loop.steps[phase][int(last)].launches)


def test_a_step_is_gathered_computed_judged_and_counted(gpus: list[Host]) -> None:  # noqa: F811
    session, _ = made(gpus, **SMALL)
    for last in (False, True):
        names = [launch.row.kernel for launch in step(session, last=last)]
        assert names[:3] == FIRST and names[-10:] == LAST
    assert [launch.row.kernel for launch in step(session, "valid")][-5:] == ["add_up"] * 4 + ["end_step"]


def test_each_launch_is_behind_the_gate_of_its_section(gpus: list[Host]) -> None:  # noqa: F811
    session, _ = made(gpus, **SMALL, optimiser=[{"kind": "accumulate", "steps": 2}, {"kind": "momentum", "learning_rate": 0.1}])
    area = align(session.program.nbytes)
    behind = {launch.row.kernel: launch.arguments[4:] for launch in step(session)}
    assert behind["sample_rows"] == behind["guard"] == behind["decide_step"] == behind["end_step"] == (0, area + gates.GO)
    assert behind["refresh_scalars"] == behind["transform_accumulate"] == (0, area + gates.UPDATE)
    assert behind["add_up"] == (0, area + gates.METRICS)
    own, when = behind["rule_momentum"]
    assert own and when == area + gates.UPDATE
    assert {launch.arguments[5] for launch in step(session, "valid")} == {area + gates.GO}


def test_pointers_are_inside_what_is_ours(gpus: list[Host]) -> None:  # noqa: F811
    session, gpu = made(gpus)
    arena, top = session._at, align(session.program.nbytes) + gates.NBYTES
    for kinds in session._loop.steps.values():
        for launch in (launch for kind in kinds for launch in kind.launches):
            at, words, size, grain, own, when = launch.arguments
            assert at == arena and session.table.at <= words < session.table.at + session.table.nbytes
            assert size > 0 and grain > 0 and 0 <= own < top and 0 < when < top
            assert 1 <= launch.blocks <= 2048 // launch.threads * gpu.processors


def test_words_are_those_of_the_plans_with_the_data_where_the_gpu_has_it(gpus: list[Host]) -> None:  # noqa: F811
    session, gpu = made(gpus)
    for launch in step(session):
        words = np.ctypeslib.as_array((ctypes.c_int64 * len(launch.row.words)).from_address(launch.arguments[1]))
        for word, found in zip(launch.row.words, words.tolist(), strict=True):
            if isinstance(word, int):
                assert word == found
            elif not isinstance(word, str):
                assert found in gpu.pieces and found != word.array.ctypes.data
                assert gpu.pieces[found][:word.array.nbytes].tobytes() == word.array.tobytes()


def test_a_second_session_launches_the_same(gpus: list[Host]) -> None:  # noqa: F811
    listed = []
    for _ in range(2):
        session, gpu = made(gpus)
        session.run(session.program.phases["train"], 5, np.ones(5), np.zeros((5, 2)))
        session.run_pass(session.program.phases["valid"])
        base, words = session._at, session.table.at
        listed.append([(one.kernel, one.blocks, one.threads, one.arguments[1] - words, *one.arguments[2:]) for one in gpu.done])
        assert all(one.arguments[0] == base for one in gpu.done)
    assert listed[0] == listed[1]


MODELS: list[list[dict[str, Any]]] = [
    [{"kind": "dense", "units": 8, "activation": "tanh"}, {"kind": "batch_norm"}, {"kind": "dropout", "rate": 0.2},
     {"kind": "dense", "units": "target"}],
    [{"kind": "reshape", "shape": [2, 2]}, {"kind": "gru", "units": 5}, {"kind": "layer_norm"}, {"kind": "dense", "units": "target"}],
]


@pytest.mark.parametrize("layers", MODELS, ids=["dense", "recurrent"])
def test_no_value_is_overwritten_while_it_is_still_read(gpus: list[Host], layers: list[dict[str, Any]]) -> None:  # noqa: F811
    session, gpu = made(gpus, model={"kind": "chain", "layers": layers})
    phase = session.program.phases["train"]
    compute = phase.plans[1]
    lives = list(lifetimes(compute, set(phase.plans[0].offsets)))
    watched: dict[int, bytes] = {}
    numbers = {id(row): number for number, row in enumerate(compute.rows)}
    places = {launch.arguments[1]: numbers[id(launch.row)] for launch in step(session) if id(launch.row) in numbers}

    def look(one: Launched) -> None:
        row = places.get(one.arguments[1], -1)
        for k, (first, last, offset, nbytes) in enumerate(lives):
            held = gpu.pieces[session._at][offset: offset + nbytes].tobytes()
            if row == first:
                watched[k] = held
            elif first < row <= last:
                assert held == watched[k], f"row {row} ({compute.rows[row].kernel}) overwrites what row {first} made for row {last}"

    gpu.after = look
    session.run(phase, 1, np.ones(1), np.zeros((1, 2)))
    assert len(watched) > 5


def lifetimes(plan: Plan, given: set[Node]) -> Any:
    """(row that makes it, last row that reads it, offset, bytes) of each value that a plan makes."""
    makes = {node: number for number, node in enumerate(plan.makers)}
    for node, first in makes.items():
        at = plan.offsets.get(node)
        readers = [number for number, maker in enumerate(plan.makers)
                   if number > first and any(root(x) is node for x in maker.inputs) and at in plan.rows[number].words]
        if at is not None and readers and node not in given:
            yield first, max(readers), at, node.size * np.dtype(node.dtype).itemsize


def test_batches_of_a_gpus_plans_can_be_gathered_by_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planned, "choose", lambda asked: "cuda")
    data = {"dataset": "d", "target": "y", "batch_size": 8, "augment": [{"kind": "noise", "std": 0.1}]}
    program = planned.plan(job(data=data), {"d": table()}).program
    assert {row.kernel for plan in program.phases["train"].plans[::5] for row in plan.rows} <= set(library.KERNELS)
    assert all(grid.exists(row.kernel) for phase in program.phases.values() for plan in phase.plans for row in plan.rows)


def test_a_library_makes_products_only_where_it_does_no_harm_to_make_them_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planned, "choose", lambda asked: "cuda")
    program = planned.plan(job(**SMALL, optimiser={"kind": "muon", "learning_rate": 0.1}), {"d": table()}).program
    called: list[tuple[int, int]] = []
    session = Session(program, runtime=Host(), library=lambda row: lambda stream, arena: called.append((stream, arena)))
    products = [launch for launch in step(session) if launch.row.kernel.startswith("product_")]
    compute, update = (set(map(id, program.phases["train"].plans[k].rows)) for k in (1, 3))
    for launch in products:
        assert (launch.call is not None) == (id(launch.row) in compute)
    assert any(id(launch.row) in update for launch in products)
    next(launch for launch in products if launch.call).enqueue(session.runtime)
    assert called == [(session.runtime.stream, session._at)]
