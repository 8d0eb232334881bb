"""Rows of the store as they go over the wire."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from service import jobs as states
from service.routes.render import Json, present
from service.store import Store
from service.store.changes import Row

JOB = ("status", "status_reason", "spec", "created_at", "started_at", "finished_at", "epoch", "epochs", "step", "progress", "eta_seconds", "device",
       "metrics", "best", "evaluation", "attempt", "worker", "parent", "warnings", "message", "hint", "error", "priority", "metadata")
DATASET = ("id", "name", "format", "bytes", "sha256", "rows", "columns", "warnings", "created_at")


def show_job(store: Store, row: Mapping[str, Any]) -> Json:
    """The Job object; reads the attempts and the place in the queue."""
    with store.read():
        place = store.queue_position(row)
        eta = None if place is None else store.etas({row["id"]: place}).get(row["id"])
        return _job({**row, "eta_seconds": eta} if place else row, place, store.attempts(row["id"]), store.adjustments(row["id"]))


def show_jobs(store: Store, rows: Sequence[Mapping[str, Any]]) -> list[Json]:
    """Job objects, with one look at the queue."""
    with store.read():
        ids = [row["id"] for row in rows]
        places = store.queue_positions(row["id"] for row in rows if row["status"] == "queued")
        etas = store.etas(places)
        rows = [{**row, "eta_seconds": etas.get(row["id"])} if row["id"] in places else row for row in rows]
        attempts, changes = store.all_attempts(ids), store.all_adjustments(ids)
        return [_job(row, places.get(row["id"]), attempts.get(row["id"], []), changes.get(row["id"], [])) for row in rows]


def _job(row: Mapping[str, Any], position: int | None, attempts: Sequence[Row], changes: Sequence[Row]) -> Json:
    summary = row["summary"]
    return {"id": row["id"], "object": "job", "name": row["name"] or None, "is_terminal": row["status"] in states.TERMINAL,
            **present(**{name: row[name] for name in JOB}, queue_position=position,
                      attempts=[present(**attempt) for attempt in attempts],
                      adjustments=[present(**change) for change in changes] or None,
                      class_names=summary.get("class_names"), parameters=summary.get("parameters"))}


def tag(job: Json, version: int) -> str:
    """The ETag of a Job object: it changes with every write to the job, and with its place in the queue."""
    return f'"{version}.{job.get("queue_position", 0)}"'


def show_dataset(row: Mapping[str, Any]) -> Json:
    """The Dataset object."""
    return {"object": "dataset", **{name: row[name] for name in DATASET}}


def show_checkpoint(row: Mapping[str, Any]) -> Json:
    return {"object": "checkpoint", **{name: row[name] for name in ("epoch", "step", "metrics", "bytes", "sha256", "best", "last", "created_at")}}


def show_model(row: Mapping[str, Any]) -> Json:
    """The Model object: what a name answers with; with `history`, newest first, where the row has it."""
    answering = _answering(row)
    history = {"history": [_answering(one) for one in row["history"]]} if "history" in row else {}
    return {"id": row["id"], "object": "model", "name": row["name"], **answering, **history}


def _answering(row: Mapping[str, Any]) -> Json:
    return {"job": row["job_id"], "checkpoint": row["checkpoint"], "created_at": row["created_at"]}
