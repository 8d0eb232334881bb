"""A run whose every launch is carried out in the simulator, by the GPU's own kernels: within rounding it comes to what the CPU comes to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from engine.data.table import Table
from engine.devices.cuda.runtime import Kind
from engine.devices.cuda.session import Session as OnGpu
from engine.train import Job, start
from engine.train.ready import assemble, planned
from engine.train.run.loop import Run
from tests.engine.cuda.host import Host
from tests.engine.cuda.simulate import inside, launch


@dataclass
class Simulated(Host):
    def make(self, kernel: Kind, at: int, words: int, size: int, grain: int) -> None:
        launch(*kernel, self.pieces[at], self._rest(words), size, grain, 1)

    def _rest(self, words: int) -> np.ndarray:
        """The words of a launch, and whatever is behind them."""
        for at, piece in self.pieces.items():
            if at <= words < at + len(piece):
                return piece[words - at:][:(at + len(piece) - words) // 8 * 8].view(np.int64)
        raise AssertionError("the words are in no piece of memory")


def run_of(device: str, patch: pytest.MonkeyPatch) -> Run:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((9, 4)).astype(np.float32)
    data = Table.from_columns({"x": x, "y": np.arange(9) % 3})
    layers = [{"kind": "dense", "units": 8, "activation": "relu"}, {"kind": "dense", "units": "target"}]
    spec = Job.model_validate({"model": {"kind": "chain", "layers": layers}, "loss": "logit_cross_entropy", "epochs": 2, "seed": 3,
                               "optimiser": {"kind": "adam", "learning_rate": 0.05},
                               "data": {"dataset": "d", "target": "y", "batch_size": 4, "validation": {"fraction": 0.33}}})
    patch.setattr(planned, "choose", lambda asked: device)
    patch.setattr(assemble, "OnGpu", lambda program, **options: OnGpu(program, **options, runtime=Simulated()))
    return start(spec, {"d": data})


@inside
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_run_comes_to_what_it_comes_to_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    found: dict[str, Any] = {}
    for device in ("cpu", "cuda"):
        run = run_of(device, monkeypatch)
        events = list(run.events())
        assert events[-1].data["status"] == "succeeded" and run.step == 4
        losses = [(e.data["train_loss"], e.data["valid_loss"], e.data["gradient_norm"]) for e in events if e.type == "epoch"]
        found[device] = np.concatenate([np.ravel(losses), *(array.ravel() for array in run.session.parameters.values())])
    assert type(run.session) is OnGpu and run.session.runtime.graphs        # type: ignore[attr-defined]
    np.testing.assert_allclose(found["cuda"], found["cpu"], rtol=2e-4, atol=2e-5)
