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
from engine.devices.cuda import machine, probe, runtime
from engine.devices.cuda.session import Session
from engine.kernels.blas import gemm_address
from engine.train import Job, start
from engine.train.ready import assemble


class Few(runtime.Cuda):
    """The runtime of the null driver's GPU."""

    def load(self, kernels: Collection[runtime.Kind]) -> Mapping[runtime.Kind, Any]:
        end, other = ("end_step", "float32"), ("decide_step", "float32")
        made = super().load([end, other])
        return {kind: made[end if kind == end else other] for kind in kernels}


def main() -> None:
    machine.FUNCTIONS["gemm"] = gemm_address
    gpu = Few(probe.chosen())
    assemble.OnCpu = lambda program, **options: Session(program, **options, runtime=gpu)       # type: ignore[misc]
    rng = np.random.default_rng(0)
    data = Table.from_columns({"x": rng.standard_normal((400, 4)).astype(np.float32), "y": np.arange(400) % 3})
    spec = Job.model_validate({"model": {"kind": "dense", "units": "target"}, "loss": "logit_cross_entropy", "optimiser": "adam", "device": "cpu",
                               "data": {"dataset": "d", "target": "y", "batch_size": 10, "validation": {"fraction": 0.1}}})
    run = start(spec, {"d": data})
    session, phase = run.session, run.train
    assert isinstance(session, Session)
    steps, series = phase.full_steps, np.zeros((phase.full_steps, 2))
    finished = session.run(phase, steps, np.ones(steps), series)
    passed = session.run_pass(session.program.phases["valid"])
    driver = ctypes.CDLL(probe.DRIVER)
    driver.null_count.restype = ctypes.c_long
    launches = [[len(kind.launches) for kind in kinds] for kinds in session._loop.steps.values()]
    graphs = sorted(session._loop.steps["train"][0].graphs)
    counts = [driver.null_count(i) for i in range(3)]
    last = list(session._loop.steps["valid"][0].launches[-1].arguments) == [driver.null_count(i) for i in range(4, 10)]
    bias = session.parameters["bias"].tolist()
    del run, session
    gc.collect()
    print(json.dumps({"steps": steps, "finished": finished, "passed": passed, "launches": launches, "graphs": graphs, "counts": counts,
                      "bias": bias, "last": last, "live": driver.null_count(3)}))


if __name__ == "__main__":
    main()
