"""Whole runs through the CUDA device's session on a GPU that is none: the numbers are the CPU session's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engine.data.table import Table
from engine.devices.cpu.session import Session as OnCpu
from engine.devices.cuda import machine
from engine.devices.cuda.session import Session as OnGpu
from engine.kernels.blas import gemm_address
from engine.train import Job, start
from engine.train.ready import assemble
from engine.train.run import regime
from engine.train.run.checkpoint import unpack
from engine.train.run.events import Event
from engine.train.run.loop import Run
from tests.engine.cuda.host import Host

ROWS = 45       # 36 to train with, in batches of 8: four full ones and one of 4


def table() -> Table:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((ROWS, 4)).astype(np.float32)
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
    "tested, and evaluated in training": {"evaluate_train": True, "data": {"dataset": "d", "target": "y", "batch_size": 8, "test": {"fraction": 0.3}}},
}


@pytest.mark.parametrize("changes", JOBS.values(), ids=JOBS)
def test_a_run_tells_what_it_tells_on_the_cpu(changes: dict[str, Any], request: pytest.FixtureRequest) -> None:
    expected = told(events_of(run_of(job(**changes))))
    gpus = request.getfixturevalue("gpus")
    run = run_of(job(**changes))
    assert type(run.session) is OnGpu
    assert told(events_of(run)) == expected
    assert max(gpus[0].graphs) > 100        # several steps in one graph
