"""Whatever the engine has, a GPU has too: ops, rules, transforms, data, augmentation and control all launch kernels that exist there."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from engine.core import FLOATS, OPS, Op
from engine.data.augment import augmentations
from engine.data.table import Table
from engine.kernels import grid
from engine.optim.rules import rules
from engine.optim.transforms import transforms
from engine.train import Job
from engine.train.ready import planned
from tests.engine.test_ops import use


def absent(kernels: Iterable[str]) -> list[str]:
    return sorted({name for name in kernels if not grid.exists(name)})


@pytest.mark.parametrize("op", OPS.values(), ids=list(OPS))
@pytest.mark.parametrize("dtype", FLOATS)
def test_an_op_has_kernels_for_a_gpu_on_each_of_its_cases(op: Op, dtype: str) -> None:
    kernels = [launch.kernel for case in op.cases for launch in op.launches(use(op, case, dtype)[0], "cuda")]
    assert not absent(kernels), "give the op a GPU kernel (`grid`), or other launches (`cuda=`)"


def test_a_gpu_is_spared_the_kernels_of_the_cpu_for_which_it_has_others() -> None:
    launched = {device: {launch.kernel for op in OPS.values() for case in op.cases for launch in op.launches(use(op, case, "float32")[0], device)}
                for device in ("cpu", "cuda")}
    spared = launched["cpu"] - launched["cuda"]
    assert not spared & set(grid.names()), "name them in CPU_ONLY: they would be compiled for nothing"
    assert "mean_pool" in spared and "mean_pool_each" in launched["cuda"] & set(grid.names())


def kernels_of(monkeypatch: pytest.MonkeyPatch, rows: Table, **changes: Any) -> set[str]:
    """All kernels of a job that is planned for a GPU."""
    monkeypatch.setattr(planned, "choose", lambda device: "cuda")
    layers = [{"kind": "dense", "units": 4, "activation": "tanh"}, {"kind": "dense", "units": 1}]
    job = Job.model_validate({"model": {"kind": "chain", "layers": layers}, "loss": "mse", "optimiser": "adam", "epochs": 1, **changes,
                              "data": {"dataset": "d", "target": "y", "batch_size": 4, "validation": {"fraction": 0.3}, **changes.get("data", {})}})
    program = planned.plan(job, {"d": rows}).program
    return {row.kernel for phase in program.phases.values() for plan in phase.plans for row in plan.rows}


def numbers() -> Table:
    return Table.from_columns({"x": np.ones((12, 3), np.float32), "y": np.ones(12, np.float32)})


STEPS = [*({"kind": name} for name in rules.members), *([{"kind": name}, "adam"] for name in transforms.members)]
FIELDS = {"clip_grad": {"max_value": 1.0}, "clip_norm": {"max_norm": 1.0}, "clip_global_norm": {"max_norm": 1.0}, "weight_decay": {"rate": 0.1},
          "sign_decay": {"rate": 0.1}, "accumulate": {"steps": 2}, "gradient_noise": {"std": 0.1}, "lookahead": {"steps": 2, "rate": 0.5},
          "ema": {"decay": 0.9}}


@pytest.mark.parametrize("steps", STEPS, ids=lambda steps: str(steps[0]["kind"] if isinstance(steps, list) else steps["kind"]))
def test_an_optimiser_has_kernels_for_a_gpu(monkeypatch: pytest.MonkeyPatch, steps: Any) -> None:
    first = steps[0] if isinstance(steps, list) else steps
    first = {**first, **FIELDS.get(first["kind"], {})}
    found = kernels_of(monkeypatch, numbers(), optimiser=[first, *steps[1:]] if isinstance(steps, list) else first)
    assert not absent(found)


SAMPLINGS = ("shuffle", "sequential", "with_replacement", "balanced")


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_batches_have_kernels_for_a_gpu(monkeypatch: pytest.MonkeyPatch, sampling: str) -> None:
    rows = Table.from_rows([{"a": k / 7, "b": "xyz"[k % 3], "c": None if k % 4 == 0 else k, "y": ("no", "yes")[k % 2]} for k in range(40)])
    model = {"kind": "chain", "layers": [{"kind": "dense", "units": "target"}]}
    found = kernels_of(monkeypatch, rows, model=model, loss="logit_cross_entropy", metrics=["accuracy"], data={"sampling": sampling})
    assert not absent(found) and len([name for name in found if name.startswith("gather")]) > 1


CHANGES = {"flip": {"axis": 2}, "shift": {"pixels": 1}, "crop": {"size": 6}, "noise": {"std": 0.1}}


@pytest.mark.parametrize("kind", augmentations.members)
def test_changes_of_images_have_kernels_for_a_gpu(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    rows = Table.from_columns({"x": np.ones((12, 8, 8, 1), np.float32), "y": np.ones(12, np.float32)})
    model = {"kind": "chain", "layers": [{"kind": "flatten"}, {"kind": "dense", "units": 1}]}
    found = kernels_of(monkeypatch, rows, model=model, data={"augment": [{"kind": kind, **CHANGES.get(kind, {})}]})
    assert not absent(found)
