"""Whole runs through the CUDA device's session on a GPU that is none: the numbers are the CPU session's."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest

from engine import env
from engine.data.table import Table
from engine.devices.cpu.session import Session as OnCpu
from engine.devices.cuda import feed, machine, steps
from engine.devices.cuda.session import Session as OnGpu
from engine.errors import DeviceError
from engine.kernels.blas import gemm_address
from engine.train import Job, start
from engine.train.ready import assemble
from engine.train.run.events import Event
from engine.train.run.loop import Run
from tests.engine.cuda.host import Host, Launched

ROWS = 45       # 36 to train with, in batches of 8: four full ones and one of 4


def table(rows: int = ROWS) -> Table:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, 4)).astype(np.float32)
    return Table.from_columns({"x": x, "y": (x[:, 0] > 0).astype(np.int64) + (x[:, 1] * x[:, 2] > 0)})


def job(**changes: Any) -> Job:
    layers = [{"kind": "dense", "units": 8, "activation": "relu"}, {"kind": "batch_norm"}, {"kind": "dropout", "rate": 0.2},
              {"kind": "dense", "units": "target"}]
    document: dict[str, Any] = {
        "model": {"kind": "chain", "layers": layers}, "loss": "logit_cross_entropy", "optimiser": {"kind": "adam", "learning_rate": 0.02},
        "data": {"dataset": "d", "target": "y", "batch_size": 8, "validation": {"fraction": 0.2}}, "epochs": 6, "seed": 3}
    return Job.model_validate({**document, **changes})


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> list[Host]:
    """From now on sessions are of the CUDA device, each on a runtime of its own, with the CPU's kernels in the plans."""
    made: list[Host] = []

    def session(program: Any, **options: Any) -> OnGpu:
        made.append(Host())
        return OnGpu(program, **options, runtime=made[-1])

    monkeypatch.setattr(assemble, "OnCpu", session)
    monkeypatch.setitem(machine.FUNCTIONS, "gemm", gemm_address)
    monkeypatch.setattr(steps, "LONGEST", 10.0)     # however busy this machine is, graphs have several steps
    return made


def run_of(spec: Job, rows: Table | None = None, **options: Any) -> Run:
    return start(spec, {"d": rows or table()}, **options)


def events_of(run: Run) -> list[Event]:
    """All events, with few steps between two looks at the counters."""
    stretch = run._stretch

    def quick() -> Any:
        run.seconds_per_step = 0.02
        yield from stretch()

    run._stretch = quick  # type: ignore[method-assign]
    return list(run.events())


def told(events: list[Event]) -> list[Any]:
    """What does not depend on time."""
    timed = ("seconds", "samples_per_second", "eta_seconds")
    return [(e.type, repr({k: v for k, v in e.data.items() if k not in timed}), e.payload) for e in events if e.type != "step"]


JOBS: dict[str, dict[str, Any]] = {
    "plain": {},
    "float64 and a schedule": {"dtype": "float64", "optimiser": {"kind": "adam", "learning_rate": 0.02, "schedule": {"kind": "exp", "factor": 0.5}}},
    "early stopping": {"epochs": 30, "optimiser": {"kind": "adam", "learning_rate": 0.3}, "callbacks": [{"kind": "early_stopping", "patience": 2}]},
    "averages, clipped, accumulated": {"optimiser": [{"kind": "clip_global_norm", "max_norm": 0.1}, {"kind": "accumulate", "steps": 2},
                                                     {"kind": "momentum", "learning_rate": 0.05}, {"kind": "ema"}]},
    "skipped by the loss": {"callbacks": [{"kind": "skip_when", "above": 1.1}]},
    "a step limit": {"callbacks": [{"kind": "step_limit", "steps": 13}]},
    "nothing finite": {"optimiser": {"kind": "descent", "learning_rate": 1e30}},
    "rolled back": {"optimiser": {"kind": "descent", "learning_rate": 1e30}, "callbacks": [{"kind": "on_nonfinite", "action": "rollback"}]},
    "frozen on the way": {"callbacks": [{"kind": "freeze", "paths": ["layers.0.*"], "at": {"epoch": 2}}]},
    "slower on a plateau": {"optimiser": {"kind": "adam", "learning_rate": 0.3}, "callbacks": [{"kind": "reduce_on_plateau", "patience": 1}]},
    "evaluated in training, and tested": {"evaluate_train": True,
                                          "data": {"dataset": "d", "target": "y", "batch_size": 8, "test": {"fraction": 0.3}}},
}


@pytest.mark.parametrize("changes", JOBS.values(), ids=JOBS)
def test_a_run_tells_what_it_tells_on_the_cpu(changes: dict[str, Any], request: pytest.FixtureRequest) -> None:
    expected = told(events_of(run_of(job(**changes))))
    gpus = request.getfixturevalue("gpus")
    run = run_of(job(**changes))
    assert type(run.session) is OnGpu
    assert told(events_of(run)) == expected
    assert max(gpus[0].graphs) > 100        # several steps in one graph


def test_a_run_stopped_anywhere_goes_on_on_either_device_to_the_same_bytes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = events_of(run_of(job()))
    gpus = request.getfixturevalue("gpus")
    on_gpu, rng = assemble.OnCpu, np.random.default_rng(1)
    checkpoint = None
    for attempt in range(40):
        monkeypatch.setattr(assemble, "OnCpu", on_gpu if attempt % 2 == 0 else OnCpu)
        run = run_of(job(), checkpoint=checkpoint)
        events, begun, steps = [], run.step, int(rng.integers(1, 9))
        for event in _interrupted(run, begun + steps):
            events.append(event)
        if events[-1].data["status"] == "succeeded":
            assert events[-2].payload == whole[-2].payload and events[-1].data == whole[-1].data and attempt > 3 and len(gpus) > 2
            return
        checkpoint = run.checkpoint()
    raise AssertionError("the run did not end")


def _interrupted(run: Run, until: int) -> Any:
    """Events of a run whose stop word is set after some steps."""
    stretch = run._stretch

    def counted() -> Any:
        run.seconds_per_step = 1.0
        yield from stretch()
        if run.step >= until:
            run.stop_word[0] = 1

    run._stretch = counted  # type: ignore[method-assign]
    yield from run.events()


@pytest.mark.parametrize("late", ["", "copies", "launches"])
def test_data_that_does_not_fit_is_gathered_by_the_cpu(late: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [job(), job(callbacks=[{"kind": "skip_when", "above": 1.1}], evaluate_train=True),
            job(optimiser={"kind": "descent", "learning_rate": 1e30}), job(**JOBS["rolled back"])]
    expected = [told(events_of(run_of(spec))) for spec in jobs]
    gpus = request.getfixturevalue("gpus")
    monkeypatch.setattr(feed, "SHARE", 0.0)
    monkeypatch.setattr(feed, "MOST", 2)        # so that a place of the ring is soon used again
    for spec, events in zip(jobs, expected, strict=True):
        run = run_of(spec)
        assert isinstance(run.session, OnGpu) and not run.session.resident
        gpus[-1].late = late
        assert told(events_of(run)) == events
        assert not any(launched.kernel[0].startswith(("gather", "sample")) for launched in gpus[-1].done)


def test_batches_are_made_and_sent_while_the_gpu_computes_with_those_before(gpus: list[Host], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "SHARE", 0.0)
    monkeypatch.setattr(feed, "MOST", 4)
    run = run_of(job(), rows=table(600))
    steps = run.train.full_steps
    for _ in range(2):      # the first time graphs grow
        run.next_epoch()
        gpus[0].asked.clear()
        assert run.session.run(run.train, steps, np.ones(steps), np.zeros((steps, 2))) == steps
    asked = [what for what in gpus[0].asked if what != "write"]
    assert asked.count("send") == steps
    turns = " ".join(asked).split("graph")
    assert turns[0].split() == ["send"] * 4 + ["heed"]
    for turn in turns[1:-2]:
        assert turn.split() == ["send"] * 4 + ["wait", "read", "heed"]
    assert all("heed" in turn for turn in turns[:-1]) and "send" not in turns[-1] and len(turns) == steps // 4 + 1 + (steps % 4).bit_count()


def test_more_steps_than_the_table_of_factors_holds(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    schedule = {"optimiser": {"kind": "adam", "learning_rate": 0.02, "schedule": {"kind": "inverse"}}}
    expected = told(events_of(run_of(job(**schedule))))
    request.getfixturevalue("gpus")
    monkeypatch.setattr(steps, "MOST", 3)
    assert told(events_of(run_of(job(**schedule)))) == expected


def test_a_stop_ends_a_run_between_two_graphs(gpus: list[Host], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "LONGEST", 0.0)
    run = run_of(job())
    phase, session = run.train, run.session

    def stop(launched: Launched) -> None:
        if launched.kernel[0] == "end_step" and session.runtime.done.count(launched) == 2:     # type: ignore[attr-defined]
            run.stop_word[0] = 1

    gpus[0].after = stop
    assert session.run(phase, 4, np.ones(4), np.zeros((4, 2))) == 2
    assert (run.step, run.position) == (2, 2)


def test_progress_is_seen_during_a_pass_of_validation(gpus: list[Host], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "GROWTH", 1)
    run = run_of(job(evaluate_train=True, data={"dataset": "d", "target": "y", "batch_size": 8}), rows=table(1500))
    seen = set()
    gpus[0].after = lambda launched: seen.add(run.progress)
    assert run.session.run_pass(run.session.program.phases["full_train"])
    assert len(seen) > 2 and {step for step, _ in seen} == {0}


def test_memory_is_given_back_with_the_session(gpus: list[Host]) -> None:
    run = run_of(job(callbacks=[{"kind": "freeze", "paths": ["layers.0.*"], "at": {"epoch": 2}}]))
    events_of(run)
    assert len(gpus) == 2 and gpus[1].pieces
    del run
    gc.collect()
    assert not gpus[0].pieces and not gpus[1].pieces        # and nothing was written behind any of them


def test_arrays_are_copied_only_where_python_asks_for_them(gpus: list[Host]) -> None:
    run = run_of(job())
    session, gpu = run.session, gpus[0]
    ones, series = np.ones(8), np.zeros((8, 2))
    session.run(run.train, 4, ones, series)
    gpu.asked.clear()
    session.run(run.train, 1, ones, series)
    assert gpu.asked.count("write") == 2        # control area and control block
    assert gpu.asked.count("read") == 2         # control block and series
    before = {path: array.copy() for path, array in session.parameters.items()}
    gpu.asked.clear()
    assert all((array == before[path]).all() for path, array in session.parameters.items()) and not gpu.asked
    session.parameters["layers.3.bias"][...] = 7.0
    session.run_pass(session.program.phases["valid"])
    assert (session.parameters["layers.3.bias"] == 7.0).all()
    again = session.parameters["layers.0.weight"]
    session.run(run.train, 1, ones, series)
    assert (session.parameters["layers.0.weight"] != before["layers.0.weight"]).any() and again is session.parameters["layers.0.weight"]


def test_an_error_of_a_launch_names_the_kernel(gpus: list[Host], monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of(job())

    def fail(*arguments: Any) -> None:
        raise DeviceError("a launch failed: no reason")

    monkeypatch.setattr(gpus[0], "launch", fail)
    with pytest.raises(DeviceError, match=r"kernel sample_rows\.float32 for .*: a launch failed: no reason"):
        run.session.run(run.train, 1, np.ones(1), np.zeros((1, 2)))


def test_each_row_is_compared_with_its_oracle_where_that_is_asked(gpus: list[Host], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(env, "VALIDATE", 1)
    run = run_of(job())
    assert len(gpus[0].done) > 50 and told(events_of(run))
    make = Host.make
    monkeypatch.setattr(Host, "make", lambda self, kernel, *rest: make(self, kernel, *rest) if kernel[0] != "sum_across" else None)
    with pytest.raises(DeviceError, match=r"kernel 'sum_across' for <.*it differs from its oracle"):
        run_of(job())
