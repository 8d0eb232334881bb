"""Runs for other tools: event files for TensorBoard, runs for MLflow."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from datetime import datetime
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

from service.client.connection import Connection
from service.client.objects import Job, Object
from service.jobs import flat

STATUSES = {"succeeded": "FINISHED", "failed": "FAILED", "cancelled": "KILLED"}
MOST_METRICS, MOST_PARAMS, MOST_TAGS = 1000, 100, 100       # of one request to MLflow
LONGEST_PARAM, LONGEST_TAG, LONGEST_KEY = 6000, 5000, 250
POINTS = 25_000             # of a series; a longer one is thinned, its extremes stay
MINE = "trainyard.job_id"   # the tag that says which job a run is


class Exports:
    """The calls that hand runs to other tools."""

    connection: Connection

    def export_tensorboard(self, job_id: str, folder: str | Path) -> Path:
        """Write the job's event file into a folder of its own below `folder`, in place of an earlier one. Returns where it is."""
        query = {"format": "tensorboard", "points": POINTS}
        answer = self.connection.send(lambda: self.connection.http.get(f"/v1/jobs/{job_id}/metrics", params=query))
        name = answer.headers["content-disposition"].partition('filename="')[2].rstrip('"')
        path = Path(folder, job_id, Path(name).name)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.part")
        partial.write_bytes(answer.content)
        return partial.replace(path)

    def export_mlflow(self, job_id: str, to: str | Path | None = None, *, experiment: str = "trainyard", model: bool = True) -> str:
        """Make the job a run of an MLflow server, database or folder (by default `MLFLOW_TRACKING_URI`), in place of an earlier one of this job.

        Parameters are the spec, metrics the numbers by epoch and the losses by step, artifacts the model and the spec. Returns the run's id.
        Needs `pip install 'trainyard[mlflow]'`.
        """
        job = Job.model_validate(self.connection.json("GET", f"/v1/jobs/{job_id}"))
        charts = {by: self.connection.json("GET", f"/v1/jobs/{job_id}/metrics", params={"by": by, "points": POINTS})["columns"]
                  for by in ("epoch", "step")}
        done = self.connection.json("GET", f"/v1/jobs/{job_id}/checkpoints")["data"]
        with tempfile.TemporaryDirectory() as folder:
            files = [Path(folder, "spec.json")]
            files[0].write_text(json.dumps(job.spec, indent=1, ensure_ascii=False))
            if model and done:
                query = {"format": "safetensors"}
                answer = self.connection.send(lambda: self.connection.http.get(f"/v1/jobs/{job_id}/model", params=query))
                files.append(Path(folder, "model.safetensors"))
                files[1].write_bytes(answer.content)
            try:
                return log_run(job, charts, files, to, experiment, self.connection.url)
            except Exception as error:
                if type(error).__module__.partition(".")[0] != "mlflow":
                    raise
                raise ValueError(f"MLflow says: {error}") from None


def log_run(job: Job, charts: Mapping[str, Object], files: list[Path], to: str | Path | None, experiment: str, service: str) -> str:
    """Write a run with MLflow's own client."""
    entities, client = import_module("mlflow.entities"), _client(to)
    found = client.get_experiment_by_name(experiment)
    place = found.experiment_id if found else client.create_experiment(experiment)
    for run in client.search_runs([place], f"tags.`{MINE}` = '{job.id}'"):
        client.delete_run(run.info.run_id)
    begin, end = _milliseconds(job.started_at or job.created_at), _milliseconds(job.finished_at) if job.finished_at else None
    run_id = client.create_run(place, start_time=begin, run_name=job.name or job.id).info.run_id
    metrics = [entities.Metric(key[:LONGEST_KEY], value, when, step) for key, value, when, step in _metrics(charts, begin, end or begin)]
    params = [entities.Param(key[:LONGEST_KEY], str(value)[:LONGEST_PARAM]) for key, value in flat(job.spec).items()]
    tags = [entities.RunTag(key[:LONGEST_KEY], str(value)[:LONGEST_TAG]) for key, value in _tags(job, service).items()]
    for some in _batches(metrics, MOST_METRICS):
        client.log_batch(run_id, metrics=some)
    for some in _batches(params, MOST_PARAMS):
        client.log_batch(run_id, params=some)
    for some in _batches(tags, MOST_TAGS):
        client.log_batch(run_id, tags=some)
    for file in files:
        client.log_artifact(run_id, str(file), "model" if file.suffix == ".safetensors" else None)
    if job.is_terminal:
        client.set_terminated(run_id, STATUSES[job.status], end)
    return run_id


def _client(to: str | Path | None) -> Any:
    """MLflow's client; a folder is named by its path or as file:."""
    try:
        mlflow = import_module("mlflow")
    except ImportError:
        raise ValueError("MLflow is not installed here: pip install 'trainyard[mlflow]'") from None
    uri = str(to or mlflow.get_tracking_uri())
    if "://" not in uri and not uri.startswith(("file:", "databricks")):
        uri = Path(uri).expanduser().resolve().as_uri()
    if uri.startswith("file:"):     # MLflow takes folders, which it does not develop any further, only from those who ask for one
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    return mlflow.MlflowClient(tracking_uri=uri)


def _metrics(charts: Mapping[str, Object], begin: int, end: int) -> Iterator[tuple[str, float, int, int]]:
    """(name, value, time, step) of every number; those by step are called `step_loss`. Times are spread evenly over the run."""
    for by, columns in charts.items():
        rows = columns[by]
        for name, values in columns.items():
            if name in ("epoch", "step"):
                continue
            for place, (row, value) in enumerate(zip(rows, values, strict=True)):
                if isinstance(value, int | float):
                    when = begin + (end - begin) * (place + 1) // len(rows)
                    yield (name if by == "epoch" else f"step_{name}"), float(value), when, int(row)


def _tags(job: Job, service: str) -> dict[str, str]:
    told = {"error": job.error and job.error.get("code"), "reason": job.status_reason}
    return {**job.metadata, MINE: job.id, "trainyard.status": job.status, "trainyard.url": f"{service}/v1/jobs/{job.id}",
            **({"mlflow.note.content": job.message} if job.message else {}), **{f"trainyard.{name}": value for name, value in told.items() if value}}


def _batches(items: list[Any], size: int) -> Iterator[list[Any]]:
    left = iter(items)
    while some := list(islice(left, size)):
        yield some


def _milliseconds(moment: str) -> int:
    return int(datetime.fromisoformat(moment).timestamp() * 1000)
