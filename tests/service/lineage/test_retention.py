"""What is kept only for a time goes when that is over, with its files; not while it is used, or has a name."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from jobs import SMALL

from service.jobs import slack
from service.routes.uses import Uses
from service.store import Store
from tests.service.deeds import queued
from tests.service.running import until
from tests.serving import Server
from tests.user import User

ROWS = {"rows": [{"pixels": [0.0] * 64}]}
INLINE = {"columns": {"x": [[0.0, 1.0], [1.0, 0.0], [1.0, 1.0], [0.5, 0.0]] * 4, "y": [0, 1, 1, 0] * 4}}


def gone(user: User, path: str) -> bool:
    return user.http.get(path).status_code == 404


def test_a_job_goes_with_its_files_when_its_time_is_over(service: Server, user: User) -> None:
    user.post(f"/v1/jobs/{user.train(SMALL)[0]}/predict", ROWS)         # the predictor is there now
    short, used = (user.train({**SMALL, "epochs": 1, "retain_seconds": seconds})[0] for seconds in (0.5, 2.0))
    until(lambda: gone(user, f"/v1/jobs/{short}"))
    until(lambda: not (service.home / "jobs" / short).exists())
    end = time.monotonic() + 3.5
    while time.monotonic() < end:
        assert user.post(f"/v1/jobs/{used}/predict", ROWS)["job_id"] == used
        time.sleep(0.1)
    until(lambda: gone(user, f"/v1/jobs/{used}"))


def test_a_name_keeps_a_job(service: Server, user: User) -> None:
    job_id, _ = user.train({**SMALL, "epochs": 1, "retain_seconds": 0.2, "publish": {"name": "kept"}})
    time.sleep(1.5)
    assert user.post("/v1/models/kept/predict", ROWS)["job_id"] == job_id
    user.http.delete("/v1/models/kept").raise_for_status()
    until(lambda: gone(user, f"/v1/jobs/{job_id}"))


def test_a_dataset_stays_while_a_job_or_anybody_reads_it(service: Server, user: User) -> None:
    def upload(name: str) -> tuple[str, Path]:
        data = "a,b,y\n" + "\n".join(f"{i},{i % 7},{i % 2}" for i in range(64)) + f"\n7,{len(name)},1\n"
        answer = user.http.post("/v1/datasets", params={"name": name, "retain_seconds": 1.0}, content=data, headers={"content-type": "text/csv"})
        return answer.json()["id"], service.home / "datasets" / answer.json()["sha256"]

    idle, read = upload("idle"), upload("read_by_a_job")
    spec: dict[str, Any] = {**SMALL, "model": {"kind": "dense", "units": 1}, "loss": "logit_binary_cross_entropy", "epochs": 100_000,
                            "data": {"dataset": read[0], "target": "y"}, "priority": 9}
    job_id = user.submit(spec)
    until(lambda: gone(user, f"/v1/datasets/{idle[0]}"))
    until(lambda: not idle[1].exists())
    time.sleep(1.5)
    assert not gone(user, f"/v1/datasets/{read[0]}") and read[1].exists()
    user.http.post(f"/v1/jobs/{job_id}/cancel").raise_for_status()
    until(lambda: gone(user, f"/v1/datasets/{read[0]}"))
    until(lambda: not read[1].exists())


def test_inline_data_lives_as_long_as_a_job_that_reads_it(service: Server, user: User) -> None:
    spec = {**SMALL, "model": {"kind": "dense", "units": 1}, "loss": "logit_binary_cross_entropy", "data": {"dataset": INLINE, "target": "y"}}
    parent, _ = user.train(spec)
    dataset = user.get(f"/v1/jobs/{parent}")["spec"]["data"]["dataset"]
    folder = service.home / "datasets" / user.get(f"/v1/datasets/{dataset}")["sha256"]
    fork = user.post(f"/v1/jobs/{parent}/fork", {"more_epochs": 1})["id"]
    assert user.watch(fork)[-1]["type"] == "job.succeeded"
    user.http.delete(f"/v1/jobs/{parent}").raise_for_status()
    assert user.post(f"/v1/jobs/{fork}/evaluate", {"split": "train"})["rows"] == 16 and folder.exists()
    user.http.delete(f"/v1/jobs/{fork}").raise_for_status()
    assert gone(user, f"/v1/datasets/{dataset}") and not folder.exists()


def test_a_storm_of_uses_is_one_write(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    job, kept_for_ever = queued(store, retain_seconds=50), queued(store)
    written: list[str] = []
    monkeypatch.setattr(store, "touch_job", written.append)
    uses = Uses(store)
    for _ in range(1000):
        uses.job(job)
        uses.job(kept_for_ever)
    assert written == [job["id"]]
    moment = time.monotonic() + slack(50)
    monkeypatch.setattr(time, "monotonic", lambda: moment)
    uses.job(job)
    assert written == [job["id"]] * 2
