"""One user's way through the service, while its worker and then all of it are killed: nothing is lost, doubled or different."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.serving import Server, serving
from tests.user import Event, User, epochs

EPOCHS = 200        # many more than the last at which anything happens, for a user who is slow to hear of it
JOB: dict[str, Any] = {
    "name": "journey",
    "model": {"kind": "chain", "layers": [{"kind": "dense", "units": 256, "activation": "relu"}, {"kind": "dropout", "rate": 0.1},
                                          {"kind": "dense", "units": 10}]},
    "loss": "logit_cross_entropy", "optimiser": {"kind": "adam", "learning_rate": 0.001}, "epochs": EPOCHS,
    "data": {"dataset": "sample:digits", "target": "label", "batch_size": 4, "validation": {"fraction": 0.2}},
    "callbacks": [{"kind": "checkpoint", "every_epochs": 5}], "metrics": ["accuracy"], "seed": 7}


@dataclass
class Journey:
    user: User
    plain: str                  # the job that nothing happened to
    hard: str                   # the same job, whose worker and whose server were killed
    plain_events: list[Event]
    hard_events: list[Event]
    connections: int            # how many streams it took

    @property
    def jobs(self) -> tuple[str, str]:
        return self.hard, self.plain

    def model(self, job_id: str) -> bytes:
        answer = self.user.http.get(f"/v1/jobs/{job_id}/model", params={"checkpoint": "last", "format": "safetensors"})
        assert answer.status_code == 200, answer.text
        return answer.content


class Fate:
    """What happens to the job as its events come: its stream is cut, its worker is killed, its stream is cut again, everything is killed."""

    def __init__(self, server: Server, user: User, job_id: str):
        self.server, self.user, self.job_id, self.cuts = server, user, job_id, 0

    def __call__(self, event: Event) -> bool:
        """Whether the connection is cut here."""
        if event["type"] != "epoch":
            return False
        epoch = event["data"]["epoch"]
        if epoch == 20:
            os.kill(self.user.get(f"/v1/jobs/{self.job_id}")["worker"]["pid"], signal.SIGKILL)
        if epoch == 45:
            self.server.process.kill()
            self.server.process.wait()
            self.server.start()
        self.cuts += epoch in (10, 30, 45)
        return epoch in (10, 30)


@pytest.fixture(scope="module")
def journey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Journey]:
    with serving(tmp_path_factory.mktemp("journey") / "home", workers=1) as server:
        user = User(server.url)
        plain, plain_events = user.train(JOB)
        hard = user.submit(JOB)
        fate = Fate(server, user, hard)
        hard_events = user.watch(hard, fate)
        yield Journey(user, plain, hard, plain_events, hard_events, fate.cuts + 1)


def test_the_job_resumes_by_itself_and_says_so(journey: Journey) -> None:
    job = journey.user.get(f"/v1/jobs/{journey.hard}")
    assert job["status"] == "succeeded" and job["attempt"] == 3 and job["epoch"] == EPOCHS and job["progress"] == 1.0
    assert job["attempts"][0]["ended_by"] == "signal_9" and job["attempts"][-1]["ended_by"] == "succeeded"
    told = [event for event in journey.hard_events if event["type"] in ("job.started", "job.requeued")]
    assert [event["type"] for event in told] == ["job.started", "job.requeued", "job.started", "job.requeued", "job.started"]
    assert told[0]["data"]["resumed_from"] == 0 < told[2]["data"]["resumed_from"] <= told[4]["data"]["resumed_from"]


def test_the_stream_goes_on_where_it_was_cut_without_gap_or_repeat(journey: Journey) -> None:
    assert journey.connections == 4
    assert [event["seq"] for event in journey.hard_events] == list(range(1, len(journey.hard_events) + 1))
    stored = []
    while len(stored) < len(journey.hard_events):
        stored += journey.user.get(f"/v1/jobs/{journey.hard}/events", limit=1000, after=len(stored))["data"]
    assert stored == journey.hard_events
    assert list(journey.user.stream(journey.hard, len(stored))) == []


def test_each_epoch_is_told_once_with_the_same_numbers(journey: Journey) -> None:
    told, expected = epochs(journey.hard_events), epochs(journey.plain_events)
    assert [data["epoch"] for data in told] == list(range(1, EPOCHS + 1))
    for name in ("train_loss", "train_accuracy", "valid_loss", "valid_accuracy", "gradient_norm", "step"):
        assert [data[name] for data in told] == [data[name] for data in expected]


def test_the_loss_of_each_step_is_there_once_with_the_same_numbers(journey: Journey) -> None:
    hard, plain = (journey.user.get(f"/v1/jobs/{job_id}/metrics", by="step", series="loss", points=100_000) for job_id in journey.jobs)
    assert hard["columns"]["step"] == list(range(1, epochs(journey.plain_events)[-1]["step"] + 1)) and not hard["thinned"]
    assert hard["columns"] == plain["columns"]


def test_the_model_and_the_whole_state_are_the_same_bytes(journey: Journey) -> None:
    assert journey.model(journey.hard) == journey.model(journey.plain)
    sums = [{row["step"]: row["sha256"] for row in journey.user.get(f"/v1/jobs/{job_id}/checkpoints")["data"]} for job_id in journey.jobs]
    last = epochs(journey.plain_events)[-1]["step"]
    assert sums[0][last] == sums[1][last]


def test_the_model_predicts_like_the_other_one(journey: Journey, tmp_path: Path) -> None:
    rows = journey.user.get("/v1/catalogue/samples")["data"][0]["rows"]
    assert rows == 1797
    inputs = np.random.default_rng(0).random((5, 64)).round(3).tolist()
    hard, plain = (journey.user.post(f"/v1/jobs/{job_id}/predict", {"inputs": inputs}) for job_id in journey.jobs)
    assert hard["outputs"] == plain["outputs"] and hard["classes"] == plain["classes"] and set(hard["classes"]) <= set(range(10))
    assert np.allclose(np.sum(hard["probabilities"], 1), 1)
    found = journey.user.post(f"/v1/jobs/{journey.hard}/evaluate", {"split": "validation"})
    assert found["metrics"]["accuracy"] == epochs(journey.hard_events)[-1]["valid_accuracy"] > 0.95
