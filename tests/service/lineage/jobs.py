"""Jobs of these tests, and what is asked of them again and again."""

from __future__ import annotations

from typing import Any

import httpx

DATA: dict[str, Any] = {"dataset": "sample:digits", "target": "label", "batch_size": 64, "validation": {"fraction": 0.2}}
SMALL: dict[str, Any] = {"name": "small", "model": {"kind": "chain", "layers": [{"kind": "dense", "units": 8, "activation": "relu"},
                                                                               {"kind": "dense", "units": 10}]},
                         "loss": "logit_cross_entropy", "optimiser": {"kind": "adam", "learning_rate": 0.01}, "data": DATA, "epochs": 2}


def problems(answer: httpx.Response, status: int = 422) -> dict[str, dict[str, Any]]:
    """The problems of an error by their pointers."""
    assert answer.status_code == status and answer.headers["content-type"] == "application/problem+json", answer.text
    return {found["pointer"]: found for found in answer.json()["errors"]}
