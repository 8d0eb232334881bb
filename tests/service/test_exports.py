"""Runs in other tools, read back with those tools' own readers: TensorBoard's and MLflow's."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.client import Client
from service.errors import ServiceError
from service.jobs import flat
from service.routes.eventfile import event_file
from service.store import Event, Store
from service.store.curves import Curve
from tests.serving import Server, command

X = [[0.0, 1.0], [1.0, 0.0], [1.0, 1.0], [0.5, 0.0]]
JOB: dict[str, Any] = {
    "name": "small", "model": {"kind": "dense", "units": 1}, "loss": "mse", "optimiser": {"kind": "descent", "learning_rate": 0.1}, "epochs": 4,
    "data": {"dataset": {"columns": {"x": X, "y": [1.0, 2.0, 3.0, 1.0]}}, "target": "y", "batch_size": 2}, "metadata": {"team": "a"}}


@pytest.fixture(scope="module")
def client(service: Server) -> Iterator[Client]:
    with Client(service.url) as found:
        yield found


@pytest.fixture(scope="module")
def job_id(client: Client) -> str:
    job = client.submit(JOB)
    assert client.wait(job.id).succeeded
    return job.id


def read(folder: Path) -> Any:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator").EventAccumulator(str(folder))
    return accumulator.Reload()


def test_tensorboard_reads_what_the_command_writes(client: Client, job_id: str, tmp_path: Path) -> None:
    done = command("export", "tensorboard", job_id, tmp_path / "runs", TRAINYARD_URL=client.connection.url)
    assert done.returncode == 0, done.stderr
    path = Path(done.stdout.strip())
    assert path.parent == tmp_path / "runs" / job_id and "tfevents" in path.name
    found, numbers, steps = read(path.parent), client.metrics(job_id), client.metrics(job_id, by="step")
    told = found.Scalars("epoch/train_loss")
    assert [event.step for event in told] == [1, 2, 3, 4]
    assert [event.value for event in told] == pytest.approx(numbers["train_loss"], rel=1e-6)
    by_step = found.Scalars("step/loss")
    assert [event.step for event in by_step] == steps["step"] and [event.value for event in by_step] == pytest.approx(steps["loss"], rel=1e-6)
    times = [event.wall_time for event in told]
    assert times == sorted(times) and "spec/text_summary" in found.Tags()["tensors"]
    again = client.export_tensorboard(job_id, tmp_path / "runs")
    assert again == path and len(list(path.parent.iterdir())) == 1
    wrong = client.connection.http.get(f"/v1/jobs/{job_id}/metrics", params={"format": "tensorboard", "series": "train_los"})
    assert wrong.status_code == 422 and wrong.json()["errors"][0]["suggestion"] == "train_loss"
    assert command("export", "tensorbord", job_id).returncode == 2 and command("export", "tensorboard", job_id).returncode == 2


def test_an_event_file_has_numbers_that_are_not_finite_and_needs_none(store: Store, tmp_path: Path) -> None:
    store.add_job({"epochs": 2, "optimiser": {"kind": "adam"}}, {}, epochs=2)
    found = store.claim("here", 60)
    assert found is not None
    job_id = found[0].job_id
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "events.out.tfevents.1").write_bytes(event_file(store, job_id, [], 1000)[1])
    assert read(tmp_path / "none").Tags()["scalars"] == []
    for epoch, loss in ((1, 0.5), (2, math.nan)):
        store.record(found[0], events=[Event("epoch", "", {"epoch": epoch, "step": 3 * epoch, "train_loss": loss})],
                     curves={"loss": Curve([3 * epoch - 2, 3 * epoch - 1, 3 * epoch], [loss, math.inf, 0.0])})
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "events.out.tfevents.1").write_bytes(event_file(store, job_id, ["train_loss"], 1000)[1])
    only = read(tmp_path / "some")
    assert only.Tags()["scalars"] == ["epoch/train_loss"] and math.isnan(only.Scalars("epoch/train_loss")[1].value)
    with pytest.raises(ServiceError, match="train_lss"):
        event_file(store, job_id, ["train_lss"], 1000)


@pytest.mark.parametrize("kind", ["folder", pytest.param("database", marks=pytest.mark.slow)])
def test_mlflow_has_the_run(client: Client, job_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.chdir(tmp_path)
    uri = str(tmp_path / "runs") if kind == "folder" else f"sqlite:///{tmp_path}/runs.db"
    first = client.export_mlflow(job_id, uri)
    run_id = client.export_mlflow(job_id, uri)          # in its place
    reader = mlflow.MlflowClient(tracking_uri=(tmp_path / "runs").as_uri() if kind == "folder" else uri)
    experiment = reader.get_experiment_by_name("trainyard")
    [run] = reader.search_runs([experiment.experiment_id])
    assert run.info.run_id == run_id != first and run.info.status == "FINISHED" and run.info.run_name == "small"
    assert run.data.params["optimiser.learning_rate"] == "0.1" and run.data.params["model.kind"] == "dense"
    assert run.data.tags["team"] == "a" and run.data.tags["trainyard.job_id"] == job_id
    numbers, steps = client.metrics(job_id), client.metrics(job_id, by="step")
    told = sorted(reader.get_metric_history(run_id, "train_loss"), key=lambda metric: metric.step)
    assert [(metric.step, metric.value) for metric in told] == list(zip([1, 2, 3, 4], numbers["train_loss"], strict=True))
    losses = sorted(reader.get_metric_history(run_id, "step_loss"), key=lambda metric: metric.step)
    assert [(metric.step, metric.value) for metric in losses] == list(zip(steps["step"], steps["loss"], strict=True))
    [artifact] = reader.list_artifacts(run_id, "model")
    kept = Path(reader.download_artifacts(run_id, artifact.path, str(tmp_path)))
    assert kept.read_bytes() == client.download(job_id, tmp_path / "downloaded").read_bytes()
    assert {found.path for found in reader.list_artifacts(run_id)} == {"model", "spec.json"}


def test_paths_of_a_spec() -> None:
    assert flat({"optimiser": [{"kind": "adam"}], "data": {"weight": None}}) == {"optimiser.0.kind": "adam"}
