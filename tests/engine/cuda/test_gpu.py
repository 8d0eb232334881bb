"""What only a GPU can show: `pytest -m gpu -n0`, on a machine that has one. Fresh random numbers each time; GPU_SEED gives those of a run again."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.core import FLOATS, OPS, Case, Op, apply, leaf
from engine.devices.cuda import probe, steps
from engine.train import Job, start
from tests.bench.peers.ours import document, table_of
from tests.bench.workloads import WORKLOADS, load
from tests.engine.cuda.alone import Alone
from tests.engine.cuda.simulate import TOLERANCE
from tests.engine.test_ops import assert_near
from tests.service.running import Running, classifier

pytestmark = pytest.mark.gpu
SEED = int(os.environ.get("GPU_SEED") or time.time_ns() % 2**32)
CASES = [pytest.param(op, case, id=f"{op.name}: {case.name}") for op in OPS.values() for case in op.cases]
CURVES = [name for name in WORKLOADS if name != "W9"]


@pytest.fixture(autouse=True)
def there_is_a_gpu() -> None:
    if reason := probe.reason():
        pytest.skip(reason)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("op", "case"), CASES)
def test_a_kernel_computes_what_float64_does_wherever_memory_was_garbage(op: Op, case: Case, dtype: str) -> None:
    arrays = [sample.array(np.random.default_rng([SEED, k]), dtype) for k, sample in enumerate(case.inputs)]
    leaves = [leaf(a.shape, a.dtype.name) for a in arrays]
    node = apply(op, *leaves, **case.attrs)
    with np.errstate(all="ignore"):
        expected = np.asarray(op.oracle(*(a.astype("float64") if a.dtype.kind == "f" else a for a in arrays), **node.attrs))
    for with_library in (False, True):
        alone = Alone(node, dict(zip(leaves, arrays, strict=True)), with_library=with_library)
        found = alone.value().copy()
        try:
            assert_near(found, expected, TOLERANCE.get(node.dtype, 0.0))
        except AssertionError as error:
            raise AssertionError(f"GPU_SEED={SEED}: {error}") from None
        for as_graph in (False, True):
            np.testing.assert_array_equal(alone.value(as_graph).view(np.uint8), found.view(np.uint8))


def job_of(name: str, folder: Path, device: str, epochs: int = 1) -> tuple[Job, dict[str, Any], dict[str, np.ndarray]]:
    """A workload as a job of 100 steps or a few more, its data and its initial weights."""
    workload = WORKLOADS[name]
    columns, weights = load(workload.save(folder))
    spec = document(workload, [name for name in columns if name != "y"], *columns["y"].shape[1:])
    return Job.model_validate({**spec, "device": device, "epochs": epochs}), {"bench": table_of(columns)}, weights


def curve(name: str, folder: Path, device: str) -> np.ndarray:
    """The losses of the first 100 steps."""
    job, tables, weights = job_of(name, folder, device, epochs=10**6)
    run = start(job, tables)
    for path, values in weights.items():
        run.session.parameters[path][...] = values
    found: list[np.ndarray] = []
    while sum(map(len, found)) < 100:
        count = min(100 - sum(map(len, found)), run.train.steps - run.position)
        series = np.zeros((count, 2))
        run.session.run(run.train, count, np.ones(count), series)
        found.append(series[:, 0])
        if run.position == run.train.steps:
            run.next_epoch()
    return np.concatenate(found)


@pytest.mark.parametrize("name", CURVES)
def test_the_first_hundred_losses_are_those_of_the_cpu(name: str, tmp_path: Path) -> None:
    expected, found = curve(name, tmp_path, "cpu"), curve(name, tmp_path, "cuda")
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def payload(name: str, folder: Path) -> bytes:
    """The bytes of the last checkpoint of a job."""
    job, tables, _ = job_of(name, folder, "cuda", epochs=3)
    return [event.payload for event in start(job, tables).events() if event.type == "checkpoint"][-1]


@pytest.mark.parametrize("name", ["W1", "W5", "W6", "W7", "W8"])
def test_graphs_give_the_bits_of_single_launches_and_twice_the_same(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = payload(name, tmp_path)
    assert payload(name, tmp_path) == first
    monkeypatch.setattr(steps.Recorded, "run", lambda self, runtime, count: self._enqueue(runtime, count))
    assert payload(name, tmp_path) == first


def test_a_job_that_is_killed_on_a_gpu_goes_on_to_the_same_bytes(run: Callable[..., Running]) -> None:
    running = run(workers=1, gpus="0")
    spec = {**classifier(running.dataset(), 40, every=5), "device": "cuda"}
    whole = running.add(spec)
    running.wait(whole, "succeeded")
    job_id = running.add(spec, max_attempts=50)
    for epoch in (6, 14, 23, 31):
        running.reached(job_id, epoch)
        os.kill(running.holder(job_id), signal.SIGKILL)
    assert running.wait(job_id)["status"] == "succeeded" and running.weights(job_id) == running.weights(whole)
