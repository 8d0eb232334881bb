"""The same job gives the same bytes, optimiser state included: twice, in another process, with one thread and with two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.serving import serving
from tests.user import User, epochs

WIDE = [{"kind": "dense", "units": 500, "activation": "tanh"}, {"kind": "dropout", "rate": 0.2},
        {"kind": "dense", "units": 600, "activation": "gelu"}, {"kind": "dense", "units": "target"}]
OPTIMISER = [{"kind": "clip_global_norm", "max_norm": 1.0}, {"kind": "adamw", "learning_rate": 0.001}]


def job(dtype: str) -> dict[str, Any]:
    data = {"dataset": "sample:digits", "target": "label", "batch_size": 64, "validation": {"fraction": 0.2}}
    return {"model": {"kind": "chain", "layers": WIDE}, "loss": "logit_cross_entropy", "optimiser": OPTIMISER, "data": data, "epochs": 3, "seed": 5,
            "dtype": dtype}


def results(home: Path, threads: int, dtype: str, times: int) -> list[tuple[Any, ...]]:
    """Of so many runs: the checkpoint's SHA-256, the model's bytes in both formats, what the epochs said."""
    found = []
    with serving(home, workers=1, threads=threads) as server:
        user = User(server.url)
        for _ in range(times):
            job_id, events = user.train(job(dtype))
            assert next(event for event in events if event["type"] == "job.started")["data"]["threads"] == threads
            last, = user.get(f"/v1/jobs/{job_id}/checkpoints")["data"]
            files = [user.http.get(f"/v1/jobs/{job_id}/model", params={"format": form}).content for form in ("safetensors", "npz")]
            told = [(data["train_loss"], data["valid_loss"], data["gradient_norm"]) for data in epochs(events)]
            found.append((last["sha256"], *files, told))
    return found


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_job_gives_the_same_bytes_twice_with_one_thread_and_with_two(tmp_path: Path, dtype: str) -> None:
    first, second = results(tmp_path / "one", 1, dtype, 2)
    threaded, = results(tmp_path / "two", 2, dtype, 1)
    assert first == second
    assert first == threaded
