"""Changes of a job, as a client asks for them: read, and checked whole before anything is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from engine.errors import Problem, SpecError, nearest
from engine.nn.paths import selected
from engine.spec import FOREIGN_NAMES, problems
from engine.train import Job
from engine.train.callbacks.changes import chosen, hyper_parameters, read_change
from engine.train.job_data import Data
from engine.train.ready.setup import set_up
from service.errors import invalid_request
from service.routes.api import Api
from service.routes.creation import check_metadata
from service.routes.render import Json
from service.store.changes import Row
from service.store.requests import ADJUSTABLE, no_more_changes

LABELS = ("name", "metadata", "priority")       # they change in any state, and nothing that is computed depends on them
PATHS = ("freeze", "thaw")
_PATTERNS = {"oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
BODY = {"type": "object", "additionalProperties": {"type": "number", "description": "a hyper-parameter, by its name"}, "properties": {
    "name": {"type": ["string", "null"]}, "metadata": {"type": "object", "additionalProperties": {"type": "string"}},
    "priority": {"type": "integer", "minimum": -100, "maximum": 100}, "epochs": {"type": "integer", "minimum": 1, "description": "in all"},
    "freeze": _PATTERNS, "thaw": _PATTERNS}}
MOST_PATTERNS, MOST_PROBLEMS = 1000, 100
FIELDS: type[BaseModel] = create_model("FIELDS", __config__=ConfigDict(extra="forbid"), **{
    name: (Job.model_fields[name].annotation, Job.model_fields[name]) for name in (*LABELS, "epochs")})       # type: ignore[call-overload]


@dataclass(frozen=True)
class Changes:
    """`labels` as the store's `update_job` takes them, `changes` as the run does."""

    labels: Json
    changes: Json


def read_changes(api: Api, row: Row, raw: Json) -> Changes:
    """What is asked. 422 with every problem; 409 where the job takes no such change up any more: of a name that is none, 422 in any state."""
    check_metadata(api.settings, raw)
    labels, changes = ({name: value for name, value in raw.items() if (name in LABELS) is wanted} for wanted in (True, False))
    if changes and row["status"] not in ADJUSTABLE:
        known = hyper_parameters(Job.model_validate(row["spec"]).optimiser.listed)
        if unknown := [_unknown(name, known) for name in changes if name not in (*known, *PATHS, "epochs")][:MOST_PROBLEMS]:
            raise invalid_request(unknown[0].detail if len(unknown) == 1 else f"{len(unknown)} errors", unknown)
        raise no_more_changes(row)
    found = _wrong_fields(row, {name: value for name, value in raw.items() if name in FIELDS.model_fields})
    if changes:
        found += _wrong_changes(api, row, {name: value for name, value in changes.items() if name != "epochs"})
    if found:
        raise invalid_request(found[0].detail if len(found) == 1 else f"{len(found)} errors", found[:MOST_PROBLEMS])
    return Changes({**labels, **({"name": labels["name"] or ""} if "name" in labels else {})}, changes)


def _wrong_changes(api: Api, row: Row, changes: Json) -> list[Problem]:
    """What is wrong with hyper-parameters and paths."""
    job = Job.model_validate(row["spec"])
    chain = job.optimiser.listed
    known = hyper_parameters(chain)
    unknown = [name for name in changes if name not in known and name not in PATHS]
    many = [name for name in PATHS if isinstance(changes.get(name), list) and len(changes[name]) > MOST_PATTERNS]
    found = [_unknown(name, known) for name in unknown[:MOST_PROBLEMS]]
    found += [Problem(f"/{name}", "out_of_range", f"at most {MOST_PATTERNS:,} path patterns at once, found {len(changes[name]):,}") for name in many]
    changes = {name: value for name, value in changes.items() if name in known or (name in PATHS and name not in many)}
    paths = _paths(api, job, row) if changes.keys() & set(PATHS) else []
    try:
        read_change(changes, chain, paths)
    except SpecError as error:
        return found + error.problems
    return found + _nothing_trained(api, job, row, changes, paths)


def _unknown(name: str, known: dict[str, float]) -> Problem:
    """Why there is no such thing to change, and what was probably meant."""
    if name in Job.model_fields or name in Data.model_fields or name == "optimizer":
        near = "learning_rate" if name.startswith("optimi") and "learning_rate" in known else None
        live = f"; hyper-parameters can, by their names: {', '.join(known)}" if near else ""
        return Problem(_pointer(name), "unknown_field", f"{name!r} cannot change once a job is there: fork the job, or send a new one{live}", near)
    foreign = FOREIGN_NAMES.get(name)
    names = [*known, "epochs", *PATHS, *LABELS]
    return Problem(_pointer(name), "unknown_field", f"a job has no {name[:80]!r} that can change; it has {', '.join(names)}",
                   foreign if foreign in names else nearest(name, names))


def _pointer(name: str) -> str:
    return "/" + name.replace("~", "~0").replace("/", "~1")


def _wrong_fields(row: Row, given: Json) -> list[Problem]:
    """What is wrong with fields that a job's spec has too."""
    try:
        FIELDS.model_validate(given)
    except ValidationError as error:
        return problems(error, given)
    if (epochs := given.get("epochs")) is not None and epochs < row["epoch"]:
        return [Problem("/epochs", "out_of_range", f"epochs is how many there are in all, and {row['epoch']} are done; found {epochs}")]
    return []


def _paths(api: Api, job: Job, row: Row) -> list[str]:
    """The paths of the job's parameters."""
    if (kept := row["summary"].get("paths")) is not None:
        return kept
    return list(set_up(job, {name: api.tables.open(name)[1] for name in job.references()}).forward.parameters)


def _nothing_trained(api: Api, job: Job, row: Row, live: dict[str, Any], paths: list[str]) -> list[Problem]:
    """After all changes that were asked for, something must be left to be trained. What callbacks freeze is not known before they do."""
    if not live.get("freeze"):
        return []
    trained = {path for path in paths if selected(path, job.trainable)} if job.trainable else set(paths)
    for changes in (*(row["changes"] for row in api.store.adjustments(row["id"])), live):
        freeze, thaw = ([one] if isinstance(one := changes.get(name, ()), str) else one for name in PATHS)
        trained = {path for path in paths if (path in trained or chosen(path, thaw)) and not chosen(path, freeze)}
    return [] if trained else [Problem("/freeze", "nothing_trained", "nothing would be left to be trained")]
