"""A program run on the null driver, by everything of the CUDA device but kernels: prints what was counted, as JSON. Run by test_null_driver.py.

No kernel is computed, so one stands for all but `end_step`, and few are made.
"""

from __future__ import annotations

import ctypes
import gc
import json
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from engine.data.table import Table
from engine.devices.cuda import feed, machine, probe, runtime
from engine.devices.cuda.session import Session
from engine.kernels.blas import gemm_address
from engine.plan.program import Phase
from engine.train import Job, start
from engine.train.ready import assemble


class Few(runtime.Cuda):
    """The runtime of the null driver's GPU."""

    def load(self, kernels: Collection[runtime.Kind]) -> Mapping[runtime.Kind, Any]:
        end, other = ("end_step", "float32"), ("decide_step", "float32")
        made = super().load([end, other])
        return {kind: made[end if kind == end else other] for kind in kernels}


def counts() -> list[int]:
    """What the driver has counted so far."""
    driver = ctypes.CDLL(probe.DRIVER)
    driver.null_count.restype = ctypes.c_long
    return [driver.null_count(i) for i in range(12)]


def prepared() -> tuple[Session, Phase]:
    rng = np.random.default_rng(0)
    data = Table.from_columns({"x": rng.standard_normal((400, 4)).astype(np.float32), "y": np.arange(400) % 3})
    spec = Job.model_validate({"model": {"kind": "dense", "units": "target"}, "loss": "logit_cross_entropy", "optimiser": "adam", "device": "cpu",
                               "data": {"dataset": "d", "target": "y", "batch_size": 10, "validation": {"fraction": 0.1}}})
    run = start(spec, {"d": data})
    assert isinstance(run.session, Session)
    return run.session, run.train


def resident() -> dict[str, Any]:
    """A program whose data the GPU holds."""
    session, phase = prepared()
    steps, series = phase.full_steps, np.zeros((phase.full_steps, 2))
    finished = session.run(phase, steps, np.ones(steps), series)
    passed = session.run_pass(session.program.phases["valid"])
    counted = counts()
    return {"steps": steps, "finished": finished, "passed": passed, "graphs": sorted(session._loop.steps["train"][0].graphs), "counts": counted[:3],
            "launches": [[len(kind.launches) for kind in kinds] for kinds in session._loop.steps.values()],
            "last": list(session._loop.steps["valid"][0].launches[-1].arguments) == counted[4:10],
            "bias": session.parameters["bias"].tolist()}


def fed() -> dict[str, Any]:
    """The same where it does not fit: how many copies an event brought, how often they went on beside the queue, and whether all are there."""
    feed.SHARE, feed.MOST, before = 0.0, 4, counts()
    session, phase = prepared()
    feeder, steps = session._loop.feeder, phase.full_steps
    assert isinstance(feeder, feed.Gatherer)
    finished = session.run(phase, steps, np.ones(steps), np.zeros((steps, 2)))
    there = np.zeros(feeder.nbytes, np.uint8)
    session.runtime.read(feeder.at, there)
    ends = np.arange(feeder.nbytes).reshape(-1, feeder.width) % feeder.width < feeder.ends["train"][0] - session.program.cursor
    return {"finished": finished, "same": bool((there == feeder.pinned)[ends.ravel()].all()) and bool(feeder.pinned.any()),
            "heeded": counts()[10] - before[10], "beside": counts()[11] - before[11]}


def main() -> None:
    machine.FUNCTIONS["gemm"] = gemm_address
    gpu = Few(probe.chosen())
    assemble.OnCpu = lambda program, **options: Session(program, **options, runtime=gpu)       # type: ignore[misc]
    found = {"resident": resident(), "fed": fed()}
    gc.collect()
    print(json.dumps({**found, "live": counts()[3]}))


if __name__ == "__main__":
    main()
