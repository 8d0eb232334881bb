"""From a posted spec to a job that can be queued: parsed, its data opened, the whole graph checked. No array is made, nothing is compiled."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from engine.data.columns import check_names
from engine.data.fit import Notes
from engine.data.table import Table
from engine.errors import Problem, SpecError
from engine.spec import problems
from engine.train.job import LABELS, Job
from engine.train.ready.build import Summary
from service import artifacts, datasets, devices, traces
from service.errors import ServiceError, invalid_spec, too_large
from service.jobs import EVENTS, new_id
from service.routes import credentials
from service.routes.api import Api
from service.routes.beginnings import Beginning, Start, from_initial
from service.routes.checked import INLINE
from service.routes.render import Json
from service.settings import Settings
from service.store import Store
from service.store.changes import Row
from service.webhooks import checking as webhooks


@dataclass(frozen=True)
class Candidate:
    """A job that may be queued; `inline` is the data that came inside its spec, `beginning` the file that it begins with."""

    job: Job
    spec: Json
    summary: Summary
    inline: Json | None = None
    beginning: Beginning | None = None


@dataclass(frozen=True)
class Ready:
    """A candidate whose inline data is on disk: `inline` is the row of that dataset, which `spec` names by its id."""

    job: Job
    spec: Json
    summary: Summary
    inline: Row | None = None
    beginning: Beginning | None = None
    parent: str | None = None

    def queue(self, store: Store) -> Row:
        """Store it. Part of the transaction that this thread is in, if it is in one."""
        job = self.job
        with artifacts.pinned(store, self.inline["sha256"]) if self.inline else nullcontext():
            row = store.add_job(
                self.spec, about(self.summary), name=job.name or "", epochs=job.epochs, priority=job.priority, max_attempts=job.max_attempts,
                metadata=job.metadata, warnings=self.summary.warnings, retain_seconds=job.retain_seconds, parent=self.parent,
                datasets=[reference for reference in self.references() if reference.startswith("ds_")], inline=self.inline,
                traceparent=traces.traceparent())
        return row if self.beginning is None else self.beginning.settle(store, row)

    def references(self) -> list[str]:
        """The data sets that the job needs."""
        initial = self.job.initial
        return [*self.job.references(), *([initial.dataset] if initial and initial.dataset else [])]

    def or_nothing(self) -> AbstractContextManager[None]:
        """What the block queues has all its files; where it fails, no file is left."""
        return nullcontext() if self.beginning is None else self.beginning.or_nothing()


def about(summary: Summary) -> Json:
    """What the store keeps of a summary."""
    return {"parameters": summary.parameters, "layers": summary.layers, "rows": summary.rows, "steps_per_epoch": summary.steps_per_epoch,
            "memory_bytes": summary.memory_bytes, "checkpoint_bytes": summary.checkpoint_bytes, "class_names": summary.class_names,
            "paths": list(summary.parameter_shapes)}


def candidate(api: Api, raw: Json, begin: Callable[[Api, Job], Start] = from_initial) -> Candidate:
    """The job of a posted object, checked whole. 422 with every problem. `begin` finds what it begins with."""
    check_metadata(api.settings, raw)
    inline = inline_data(raw)
    table = None if inline is None else _read(inline)
    job = parse(api, raw, table)
    untold = [*webhooks.problems(job.callbacks, api.settings.webhook_allow, EVENTS), *_missing_device(api, job.device)]
    tables, contents = _tables(api, job)
    if table is not None:
        tables[INLINE], contents[INLINE] = table, hashlib.sha256(json.dumps(inline).encode()).hexdigest()
    start = begin(api, job)
    untold += start.problems
    try:
        summary = api.checked.check(job, tables, contents, api.settings)
    except SpecError as error:
        raise invalid_spec([*error.problems, *untold]) from None
    fit = start.fit(job, summary)
    if untold or fit.problems:
        raise invalid_spec([*untold, *fit.problems])
    labels = {name: value for name, value in job.spec().items() if name in LABELS}
    begun = {} if fit.initial is None else {"initial": fit.initial}
    warnings = [*summary.warnings, *fit.warnings, *credentials.warnings(raw)]
    return Candidate(job, {**summary.spec, **labels, **begun}, replace(summary, warnings=warnings), inline, fit.beginning)


def ready(store: Store, found: Candidate) -> Ready:
    """The candidate with its inline data taken in."""
    if found.inline is None:
        return Ready(found.job, found.spec, found.summary, beginning=found.beginning)
    try:
        taken = datasets.ingest_inline(store.home, **found.inline, name=INLINE)
    except ServiceError as error:
        error.errors = [problem.under("/data/dataset") for problem in error.errors]
        raise
    row = {"id": new_id("ds"), **taken.record}
    return Ready(found.job, {**found.spec, "data": {**found.spec["data"], "dataset": row["id"]}}, found.summary, row, found.beginning)


def parse(api: Api, raw: Json, inline: Table | None) -> Job:
    """The pydantic job; 422 with every problem, and with those of the data's names, which do not wait until the rest is right."""
    try:
        return Job.model_validate(raw)
    except ValidationError as error:
        raise invalid_spec([*problems(error, raw), *_wrong_names(api, raw.get("data"), inline), *_missing_device(api, raw.get("device"))]) from None


def _missing_device(api: Api, device: Any) -> list[Problem]:
    """A GPU that is asked for, where there is none that trains."""
    found = devices.anywhere(api.wake.folder, api.store.gpus()) if device == "cuda" else devices.Devices()
    return [Problem("/device", "no_device", f"there is no GPU to train on: {found.reason}", "auto")] if found.reason else []


def _wrong_names(api: Api, data: Any, table: Table | None) -> list[Problem]:
    """Datasets and columns that are named and not there."""
    if not isinstance(data, dict):
        return []
    if table is None and isinstance(reference := data.get("dataset"), str):
        try:
            table = api.tables.open(reference)[1]
        except ServiceError as error:
            return [Problem("/data/dataset", "unknown_dataset", error.detail)]
    target = data.get("target")
    named = target if isinstance(target, dict) else dict(enumerate(target)) if isinstance(target, list) else {"": target}
    columns = {f"/data/target/{key}".rstrip("/"): name for key, name in named.items()} | {"/data/weight": data.get("weight")}
    notes = Notes()
    if table is not None:
        check_names({pointer: name for pointer, name in columns.items() if isinstance(name, str) and name != "@inputs"}, list(table.columns), notes)
    return notes.problems


def inline_data(raw: Json) -> Json | None:
    """`{"columns": …}` or `{"rows": …}` in place of a dataset; other forms are left to the validation of the spec."""
    data = raw.get("data")
    found = data.get("dataset") if isinstance(data, dict) else None
    if not isinstance(found, dict) or len(found) != 1:
        return None
    return found if isinstance(found.get("columns"), dict) or isinstance(found.get("rows"), list) else None


def check_size(settings: Settings, body: bytes, raw: Json) -> None:
    """413 when the spec without its inline data, or that data, is too large."""
    if len(body) <= settings.max_spec_bytes:
        return
    inline = inline_data(raw)
    without = raw if inline is None else {**raw, "data": {**raw["data"], "dataset": {}}}
    size = len(json.dumps(without, separators=(",", ":")))
    if size > settings.max_spec_bytes:
        raise too_large(f"a job spec has at most {settings.max_spec_bytes:,} bytes besides its data; this one has {size:,}: upload the data first")
    if len(body) - size > settings.max_inline_bytes:
        raise too_large(f"data in a job spec has at most {settings.max_inline_bytes:,} bytes: upload it first, with POST /v1/datasets")


def check_metadata(settings: Settings, raw: Json) -> None:
    """413 for more labels than are kept, or longer ones."""
    metadata = raw.get("metadata")
    if not isinstance(metadata, dict):
        return
    if len(metadata) > settings.max_metadata_pairs:
        raise _too_much("/metadata", f"a job has at most {settings.max_metadata_pairs} pairs of metadata; these are {len(metadata)}")
    for name, value in metadata.items():
        if len(name) > settings.max_metadata_key or len(str(value)) > settings.max_metadata_value:
            raise _too_much(f"/metadata/{name[:64]}", f"metadata names have at most {settings.max_metadata_key} characters, "
                                                      f"values {settings.max_metadata_value}")


def _too_much(pointer: str, detail: str) -> ServiceError:
    return ServiceError(413, "too_large", detail, [Problem(pointer, "too_large", detail)])


def _read(inline: Json) -> Table:
    try:
        return Table.from_columns(inline["columns"]) if "columns" in inline else Table.from_rows(inline["rows"])
    except SpecError as error:
        part = next(iter(inline))
        raise invalid_spec([problem.under(f"/data/dataset/{part}") for problem in error.problems]) from None


def _tables(api: Api, job: Job) -> tuple[dict[str, Table], dict[str, str]]:
    """The tables that a job names, and what tells their contents; those that are not there are left for the check to name."""
    tables, contents = {}, {}
    for reference in job.references():
        try:
            contents[reference], tables[reference] = api.tables.open(reference)
        except ServiceError as error:
            if error.status >= 500:
                raise
            if error.code == "wrong_format":
                place = next((place for other, place in job.data.others.values() if other == reference), "/data/dataset")
                raise invalid_spec([Problem(place, error.code, error.detail, "initial")]) from None
    return tables, contents
