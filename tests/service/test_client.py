"""The Python client against a real service."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.client import Client, Refused, Unreachable
from service.client.events import parse
from service.client.objects import revive
from tests.homes import fresh
from tests.serving import Server, cutting, serving

X = [[0.0, 1.0], [1.0, 0.0], [1.0, 1.0], [0.5, 0.0]]
JOB: dict[str, Any] = {
    "model": {"kind": "dense", "units": 1}, "loss": "mse", "optimiser": {"kind": "descent", "learning_rate": 0.1}, "epochs": 3,
    "data": {"dataset": {"columns": {"x": X, "y": [1.0, 2.0, 3.0, 1.0]}}, "target": "y"}}


@pytest.fixture
def url(service: Server) -> str:
    return service.url


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with Client(url) as found:
        yield found


def test_a_job_is_trained_watched_and_used(client: Client, tmp_path: Path) -> None:
    job = client.submit(JOB)
    assert (job.epochs, job.is_terminal, job.spec["loss"]["kind"]) == (3, False, "mse")
    events = list(client.watch(job.id))
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert [event.data["epoch"] for event in events if event.type == "epoch"] == [1, 2, 3]
    assert events[-1].is_last and client.wait(job.id).succeeded
    assert client.metrics(job.id, series=["train_loss"])["train_loss"] == [event.data["train_loss"] for event in events if event.type == "epoch"]
    checkpoint = client.checkpoints(job.id)[0]
    assert checkpoint.epoch == 3 and checkpoint.last
    found = client.predict(job.id, inputs=np.array(X, np.float32))
    assert np.shape(found.outputs) == (4, 1)
    path = client.download(job.id, tmp_path, format="npz")
    with np.load(path) as arrays:
        np.testing.assert_allclose(np.array(X) @ arrays["weight"] + arrays["bias"], found.outputs, rtol=1e-5)
    assert job.id in [one.id for one in client.jobs(status="succeeded")]


def test_at_a_prompt_a_job_and_a_client_say_what_one_wants_to_know(client: Client, url: str) -> None:
    job = client.wait(client.submit({**JOB, "name": "small"}).id)
    assert repr(client) == f"Client('{url}')"
    assert repr(job) == str(job) and repr(job).startswith(f"<Job {job.id} (small): succeeded, epoch {job.epochs} of {job.epochs}, ")
    assert f"train_loss {job.metrics['train_loss']:.4g}" in repr(job) and len(repr(job)) < 300


def test_events_after_a_number_are_given_once(client: Client) -> None:
    job = client.submit(JOB)
    whole = list(client.watch(job.id))
    assert list(client.watch(job.id, after=whole[2].seq)) == whole[3:]
    assert list(client.watch(job.id, after=whole[-1].seq)) == []
    assert [event.type for event in client.watch(job.id, types=["epoch"])] == ["epoch"] * 3 + ["job.succeeded"]


def test_a_stream_goes_on_where_it_was_cut(client: Client, url: str) -> None:
    """A proxy that cuts every connection after some bytes stands between client and service."""
    job = client.submit({**JOB, "epochs": 30})
    with cutting(url, 4000) as proxy, Client(proxy) as cut:
        events = list(cut.watch(job.id))
    assert events == list(client.watch(job.id))
    assert [event.data["epoch"] for event in events if event.type == "epoch"] == list(range(1, 31))


def test_a_job_is_paused_changed_and_goes_on(client: Client) -> None:
    job = client.submit({**JOB, "epochs": 10_000_000})
    events = client.watch(job.id, types=["epoch", "job.paused", "adjusted"])
    assert next(events).type == "epoch" and client.pause(job.id).status in ("pausing", "paused")
    assert next(event for event in events if event.type == "job.paused")
    changed = client.adjust(job.id, learning_rate=0.05, name="slower", metadata={"try": "2"})
    assert (changed.name, changed.metadata) == ("slower", {"try": "2"}) and changed.adjustments[0]["changes"] == {"learning_rate": 0.05}
    assert client.resume(job.id).status == "queued"
    adjusted = next(event for event in events if event.type == "adjusted")
    assert adjusted.data["changes"] == {"learning_rate": {"from": 0.1, "to": 0.05}} and adjusted.data["step"] >= changed.step
    with pytest.raises(Refused) as caught:
        client.adjust(job.id, learningrate=1)
    assert caught.value.problems[0].suggestion == "learning_rate"
    client.cancel(job.id)


def test_all_problems_of_a_job_are_in_the_error(client: Client) -> None:
    with pytest.raises(Refused) as caught:
        client.submit({**JOB, "optimiser": "adamm", "model": {"kind": "dens", "units": 1}})
    error = caught.value
    assert (error.status, error.code) == (422, "invalid_spec")
    assert {problem.pointer: problem.suggestion for problem in error.problems} == {"/model/kind": "dense", "/optimiser": "adam"}
    assert "/model/kind: no layer is called 'dens' (did you mean dense?)" in str(error)


@pytest.mark.parametrize("form", ["csv", "arrays", "rows", "npy parts"])
def test_data_of_each_form_is_uploaded(client: Client, tmp_path: Path, form: str) -> None:
    values = np.arange(6, dtype=np.float32).reshape(3, 2)
    (tmp_path / "table.csv").write_text("a,b\n1,x\n2,y\n")
    np.save(tmp_path / "x.npy", values)
    found = client.upload({"csv": tmp_path / "table.csv", "arrays": {"x": values, "y": [1, 0, 1]}, "rows": [{"a": 1, "b": "x"}, {"a": 2, "b": None}],
                           "npy parts": {"x": tmp_path / "x.npy"}}[form])
    assert (found.rows, [column.name for column in found.columns]) == {
        "csv": (2, ["a", "b"]), "arrays": (3, ["x", "y"]), "rows": (2, ["a", "b"]), "npy parts": (3, ["x"])}[form]
    assert client.dataset(found.id) == found


def test_a_file_is_uploaded_with_its_job(client: Client, tmp_path: Path) -> None:
    (tmp_path / "line.csv").write_text("x,y\n" + "".join(f"{i},{2 * i + 1}\n" for i in range(20)))
    (tmp_path / "job.json").write_text(json.dumps({**JOB, "data": {"target": "y"}}))
    job = client.wait(client.submit(tmp_path / "job.json", data=tmp_path / "line.csv").id)
    assert job.succeeded
    assert client.evaluate(job.id, split="train").rows == 20


def test_warnings_and_problems_of_predictions_and_evaluations_point_into_their_requests(client: Client) -> None:
    rows = [{"town": "Oslo" if i % 2 else "Rome", "kind": "c" if i == 0 else "ab"[i % 2]} for i in range(20)]
    data = {"dataset": {"rows": rows}, "target": "kind", "validation": {"fraction": 0.2, "by": "last"}}
    job = client.wait(client.submit({"model": {"kind": "dense", "units": 3}, "loss": "logit_cross_entropy", "optimiser": "adam", "data": data}).id)
    new = client.upload([{"town": "Bern", "kind": "a"}, {"town": "Oslo", "kind": None}])
    foreign = client.upload([{"town": "Rome", "kind": "z"}])

    def pointers(found: Any) -> set[tuple[str, str]]:
        return {(told["pointer"], told["code"]) for told in found.warnings}

    assert pointers(client.predict(job.id, [rows[0], {"town": "Bern"}])) == {("/rows/1/town", "unseen_category")}
    assert pointers(client.predict(job.id, dataset=new.id)) == {("/dataset", "unseen_category")}
    assert pointers(client.evaluate(job.id, dataset=new.id)) == {("/dataset", "missing_target"), ("/dataset", "missing_class")}
    assert pointers(client.evaluate(job.id, split="validation")) == {("/split", "missing_class")}
    wrong = {"/dataset": {"dataset": foreign.id}, "/split": {"split": "test"}, "/metrics/1": {"split": "train", "metrics": ["acc", "f2"]}}
    for pointer, asked in wrong.items():
        with pytest.raises(Refused) as refused:
            client.evaluate(job.id, **asked)
        assert [problem.pointer for problem in refused.value.problems] == [pointer]


def test_what_a_job_would_be_is_told_without_running_it(client: Client) -> None:
    before = len(list(client.jobs()))
    found = client.validate({**JOB, "data": {"dataset": "sample:digits", "target": "label"}})
    assert found.parameters == 65 and found.rows["train"] == 1797
    assert len(list(client.jobs())) == before


def test_a_cancelled_job_ends(client: Client) -> None:
    job = client.submit({**JOB, "epochs": 10_000_000})
    client.cancel(job.id)
    assert client.wait(job.id).status == "cancelled"
    with pytest.raises(Refused, match="cancelled"):
        client.cancel(job.id)


def test_samples_are_listed(client: Client) -> None:
    assert "sample:digits" in [sample["dataset"] for sample in client.samples()]


def test_nobody_answers() -> None:
    with Client("http://127.0.0.1:1") as client, pytest.raises(Unreachable, match="trainyard serve"):
        client.job("job_x")


def test_a_watch_survives_a_restart_of_the_service(tmp_path: Path) -> None:
    with serving(fresh(tmp_path / "home")) as server, Client(server.url, patience=60) as client:
        job = client.submit({**JOB, "epochs": 10_000_000})
        types = []
        for event in client.watch(job.id, types=("job.started", "job.requeued", "job.cancelled")):
            types.append(event.type)
            if types == ["job.started"]:
                server.stop()
                server.start()
            elif types[-1] == "job.started":
                client.cancel(job.id)
    assert types == ["job.started", "job.requeued", "job.started", "job.cancelled"]


def test_non_finite_numbers_come_back() -> None:
    found = revive({"loss": None, "loss_text": "NaN", "name_text": "kept", "losses": [1.0, None], "losses_text": {"1": "-Infinity"}})
    assert math.isnan(found.pop("loss"))
    assert found == {"name_text": "kept", "losses": [1.0, -math.inf]}


def test_an_event_that_was_cut_off_never_happened() -> None:
    event = {"id": "e", "job_id": "j", "seq": 1, "type": "epoch", "level": "info", "message": "", "data": {}, "created_at": ""}
    lines = ["retry: 1000", "", "id: 1", f"data: {json.dumps(event)}", "", ": still here", "", "id: 2", f"data: {json.dumps(event)}"]
    assert [found.seq for found in parse(lines)] == [1]
