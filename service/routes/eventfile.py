"""A job's numbers as an event file of TensorBoard, written by tensorboardX, which is loaded when the first one is asked for."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from engine.errors import Problem, nearest
from service.errors import invalid_request
from service.jobs import flat, seconds_of
from service.routes.render import Json
from service.store import Store, curves
from service.store.changes import Row

BY = ("epoch", "step")
FORMAT = "brain.Event:2"


def event_file(store: Store, job_id: str, names: Iterable[str], points: int) -> tuple[Row, bytes]:
    """The job and its file: `epoch/train_loss` by epoch, `step/loss` by step, the spec as text, and its numbers as hyper-parameters."""
    with store.read():
        job = store.get_job(job_id)
        charts = _charts(store, job_id, list(names), points)
        clock = Clock(job, store.events(job_id, limit=2**31, types=["epoch"]))
    lib = _library()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "events")
        writer = lib.RecordWriter(str(path))
        for event in _events(lib, job, charts, clock):
            writer.write(event.SerializeToString())
        writer.flush()
        writer.close()
        return job, path.read_bytes()


def file_name(job: Mapping[str, Any]) -> str:
    """The name under which TensorBoard finds it; the same for the same job."""
    return f"events.out.tfevents.{int(seconds_of(job['created_at']))}.{job['id']}"


class Clock:
    """When epochs and steps were done: at the times of the `epoch` events, and evenly between them."""

    def __init__(self, job: Row, events: list[Json]):
        done = [(event["data"]["step"], event["data"]["epoch"], seconds_of(event["created_at"])) for event in events if event["type"] == "epoch"]
        begin = seconds_of(job["started_at"] or job["created_at"])
        self.begin, self.steps, self.times = begin, [0, *(step for step, _, _ in done)], [begin, *(time for _, _, time in done)]
        self.epochs = {epoch: time for _, epoch, time in done}

    def at(self, by: str, rows: list[Any]) -> list[float]:
        if by == "epoch":
            return [self.epochs.get(epoch, self.begin) for epoch in rows]
        return np.interp(np.asarray(rows, float), self.steps, self.times).tolist()


def _charts(store: Store, job_id: str, names: list[str], points: int) -> dict[str, Json]:
    """Columns by epoch and by step: all, or those that are named. 422 for names that there are in neither."""
    known = {by: [name for name in curves.chart(store, job_id, by=by, points=2)["columns"] if name not in BY] for by in BY}
    both = [*known["epoch"], *known["step"]]
    if both and (unknown := [name for name in names if name not in both]):
        detail = f"the job has no series {unknown[0][:80]!r}; it has {', '.join(both)}"
        raise invalid_request(detail, [Problem("/query/series", "unknown_series", detail, nearest(name, both)) for name in unknown])
    wanted = {by: [name for name in there if name in names or not names] for by, there in known.items()}
    return {by: curves.chart(store, job_id, some, by=by, points=points)["columns"] for by, some in wanted.items() if some}


def _events(lib: Any, job: Row, charts: Mapping[str, Json], clock: Clock) -> Iterator[Any]:
    spec = json.dumps(job["spec"], indent=2, ensure_ascii=False)
    yield lib.Event(wall_time=clock.begin, file_version=FORMAT)
    yield lib.Event(wall_time=clock.begin, summary=lib.summary.text("spec", f"```json\n{spec}\n```"))
    last = {f"epoch/{name}": values[-1] for name, values in charts.get("epoch", {}).items() if name not in BY and values and values[-1] is not None}
    for made in lib.summary.hparams(flat(job["spec"]), last):
        yield lib.Event(wall_time=clock.begin, summary=made)
    for by, columns in charts.items():
        rows = columns[by]
        times = clock.at(by, rows)
        for name, values in columns.items():
            if name in BY:
                continue
            for row, time, value in zip(rows, times, values, strict=True):
                if value is not None:
                    made = lib.Summary(value=[lib.Summary.Value(tag=f"{by}/{name}", simple_value=value)])
                    yield lib.Event(wall_time=time, step=int(row), summary=made)


@cache
def _library() -> Any:
    """What is needed of tensorboardX. Where torch is installed it would load it, for tensors that there are none of here."""
    absent = "torch" not in sys.modules
    if absent:
        sys.modules["torch"] = None     # type: ignore[assignment]
    try:
        messages = import_module("tensorboardX.proto.summary_pb2")
        return SimpleNamespace(RecordWriter=import_module("tensorboardX.record_writer").RecordWriter, Summary=messages.Summary,
                               Event=import_module("tensorboardX.proto.event_pb2").Event, summary=import_module("tensorboardX.summary"))
    finally:
        if absent:
            del sys.modules["torch"]
