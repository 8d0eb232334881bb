"""The same job gives the same bytes, optimiser state included: twice, in another process, with one thread and with two."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.homes import fresh
from tests.serving import serving
from tests.user import User, epochs

WIDE = [{"kind": "dense", "units": 500, "activation": "tanh"}, {"kind": "dropout", "rate": 0.2},
        {"kind": "dense", "units": 600, "activation": "gelu"}, {"kind": "dense", "units": "target"}]
OPTIMISER = [{"kind": "clip_global_norm", "max_norm": 1.0}, {"kind": "adamw", "learning_rate": 0.001}]


def job(dtype: str) -> dict[str, Any]:
    data = {"dataset": "sample:digits", "target": "label", "batch_size": 64, "validation": {"fraction": 0.2}}
    return {"model": {"kind": "chain", "layers": WIDE}, "loss": "logit_cross_entropy", "optimiser": OPTIMISER, "data": data, "epochs": 3, "seed": 5,
            "dtype": dtype}


@pytest.fixture(scope="module")
def users(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[int, User]]:
    """Of a service whose worker has so many threads."""
    homes = tmp_path_factory.mktemp("bits")
    with serving(fresh(homes / "one"), workers=1, threads=1) as one, serving(fresh(homes / "two"), workers=1, threads=2) as two:
        yield {1: User(one.url), 2: User(two.url)}


def result(user: User, threads: int, dtype: str) -> tuple[Any, ...]:
    """Of a run: the checkpoint's SHA-256, the model's bytes in both formats, what the epochs said."""
    job_id, events = user.train(job(dtype))
    assert next(event for event in events if event["type"] == "job.started")["data"]["threads"] == threads
    last, = user.get(f"/v1/jobs/{job_id}/checkpoints")["data"]
    files = [user.http.get(f"/v1/jobs/{job_id}/model", params={"format": form}).content for form in ("safetensors", "npz")]
    return (last["sha256"], *files, [(data["train_loss"], data["valid_loss"], data["gradient_norm"]) for data in epochs(events)])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_job_gives_the_same_bytes_twice_with_one_thread_and_with_two(users: dict[int, User], dtype: str) -> None:
    first, second, threaded = (result(users[threads], threads, dtype) for threads in (1, 1, 2))
    assert first == second
    assert first == threaded
