"""What a job begins with that another one, or a user's file, has: found, held, and checked against the new model by shapes alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from engine.data.fit import Notes
from engine.errors import CheckpointError, Problem, nearest
from engine.train.job import Job
from engine.train.ready.build import Summary
from engine.train.ready.inherit import Header, Source, check_initial, header_of, source_of
from service import datasets
from service.artifacts import Corrupt
from service.errors import ServiceError
from service.origins import Held, hold
from service.routes.api import Api
from service.routes.render import Json
from service.store import Store
from service.store.changes import Row

WEIGHTS = "safetensors"


@dataclass(frozen=True)
class Beginning:
    """A held file, what it says of itself, and what the job's row will say of it.

    A fork has the `checkpoint` row that it goes on from, as the one of the other job; and `columns`, how far it has come by that.
    """

    held: Held
    header: Header
    about: Json
    checkpoint: Row | None = None
    columns: Json = field(default_factory=dict)

    def settle(self, store: Store, job: Row) -> Row:
        """Give the file its place, and the job its row. Part of the transaction that queues the job."""
        folder = Path("jobs", job["id"])
        if self.checkpoint is None:
            return store.begin_from(job, {**self.about, **self.held.settle(folder / "initial.safetensors")}, columns=self.columns)
        file = self.held.settle(folder / "checkpoints" / Path(self.checkpoint["path"]).name)
        kept = {name: self.checkpoint[name] for name in ("step", "epoch", "metrics", "best")}
        return store.begin_from(job, {**self.about, **file}, checkpoint={**kept, **file}, columns=self.columns)

    @contextmanager
    def or_nothing(self) -> Iterator[None]:
        """What the block queues has its file; where it fails, there is none."""
        try:
            yield
        except BaseException:
            self.held.undo()
            raise


@dataclass(frozen=True)
class Fit:
    """How a beginning fits the new job: the beginning, with what is carried in it; what is wrong, with pointers into the job; warnings."""

    beginning: Beginning | None = None
    problems: list[Problem] = field(default_factory=list)
    warnings: list[dict[str, str]] = field(default_factory=list)
    initial: Json | None = None         # the job's field, where it was left open


@dataclass(frozen=True)
class Start:
    """What a job begins with, before the job is checked; or why there is nothing."""

    problems: list[Problem] = field(default_factory=list)
    fit: Callable[[Job, Summary], Fit] = lambda job, summary: Fit()


def from_initial(api: Api, job: Job) -> Start:
    """The start of a job as it was posted: its `initial`, or nothing."""
    if job.initial is None:
        return Start()
    initial = job.initial
    found = _of_file(api, initial.dataset) if initial.dataset is not None else _of_job(api, initial.job or "", initial.checkpoint)
    if isinstance(found, list):
        return Start(found)
    beginning, source = found

    def fit(_: Job, summary: Summary) -> Fit:
        notes = Notes()
        check_initial(initial, summary, source, notes)
        return Fit(beginning, notes.problems, [warning.as_dict() for warning in notes.warnings])

    return Start(fit=fit)


def _of_job(api: Api, job_id: str, which: str | int) -> tuple[Beginning, Source] | list[Problem]:
    try:
        held, row = hold_checkpoint(api, job_id, "last" if which == "best" else str(which))
        header = header_of(held.path)
    except ServiceError as error:
        if error.status == 404:
            return [Problem("/initial/job", "unknown_job", error.detail, nearest(job_id, (row["id"] for row in api.store.list_jobs(limit=100)[0])))]
        return [Problem("/initial/checkpoint", error.code, error.detail)]
    except CheckpointError as error:
        return [Problem("/initial/checkpoint", "checkpoint_corrupt", str(error))]
    best = which == "best"
    about = {"kind": "initial", "job": job_id, "checkpoint": which, "epoch": row["epoch"], "step": row["step"], "best_weights": best}
    return Beginning(held, header, about), source_of(header, best, f"checkpoint {which} of {job_id}")


def _of_file(api: Api, dataset_id: str) -> tuple[Beginning, Source] | list[Problem]:
    try:
        row = api.store.get_dataset(dataset_id)
        if row["format"] != WEIGHTS:
            return [Problem("/initial/dataset", "wrong_format", f"{dataset_id} is {row['format']}: parameters are uploaded as a safetensors file")]
        held = Held(api.store.home, datasets.content(api.store.home, row["sha256"]))
        header = header_of(held.path)
    except ServiceError as error:
        return [Problem("/initial/dataset", "unknown_dataset", error.detail)]
    except (CheckpointError, FileNotFoundError) as error:
        return [Problem("/initial/dataset", "dataset_damaged", str(error))]
    if held.sha256 != row["sha256"].partition("-")[0]:
        return [Problem("/initial/dataset", "dataset_damaged", f"the file of {dataset_id} is damaged: upload it again")]
    about = {"kind": "initial", "dataset": dataset_id, "best_weights": False}
    return Beginning(held, header, about), source_of(header, False, f"the file {row['name']}")


def hold_checkpoint(api: Api, job_id: str, which: str) -> tuple[Held, Row]:
    """A job's checkpoint, which stays while it is held. 404 without such a job; 409 `no_checkpoint`, or `checkpoint_corrupt` where it is damaged."""
    def find() -> Row:
        with api.store.read():
            api.store.get_job(job_id)
            return api.store.checkpoint(job_id, which)

    try:
        held, row = hold(api.store.home, find)
    except Corrupt:
        raise ServiceError(409, "checkpoint_corrupt", f"the file of checkpoint {which} of {job_id} is damaged or gone: take another one") from None
    return held, dict(row)

