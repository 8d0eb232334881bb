"""Forks: new jobs that go on from a checkpoint of another one, changed or for longer."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from engine.data.fit import Notes
from engine.errors import CheckpointError, Problem, nearest
from engine.optim.rules import Rule
from engine.train.job import Job
from engine.train.ready.build import Summary
from engine.train.ready.inherit import carry, fitting, header_of, source_of
from service.errors import ServiceError, invalid_spec
from service.jobs import ANY, awaited
from service.routes import shapes
from service.routes.api import Api, Closed, Here
from service.routes.beginnings import Beginning, Fit, Start, hold_checkpoint
from service.routes.bodies import as_object, read_json
from service.routes.creation import Ready, candidate, check_size, ready
from service.routes.jobs import queue
from service.routes.once import Key, hash_of, once
from service.routes.problems import documented
from service.routes.render import Json
from service.routes.results import WHICH
from service.store.changes import Row

router = APIRouter(prefix="/v1/jobs", route_class=Closed, tags=["jobs"])
FIELDS = ("checkpoint", "more_epochs", "changes", "state")
BODY = shapes.json_body({"type": "object", "additionalProperties": False, "properties": {
    "checkpoint": {"type": ["string", "integer"], "default": "last", "description": "last, best, or the number of an epoch"},
    "more_epochs": {"type": "integer", "minimum": 1, "description": "beyond those of the checkpoint; by default up to the job's own number"},
    "changes": {"type": "object", "description": "a merge patch (RFC 7396) of the job; an optimiser without kind is merged into the rule"},
    "state": {"enum": ["keep", "reset"], "default": "keep"}}})


@router.post("/{job_id}/fork", status_code=202, openapi_extra=BODY, responses={
    202: {"model": shapes.Job, "description": "The new job is queued", "headers": {"Location": {"schema": {"type": "string"}}}},
    **documented(400, 404, 409, 413, 415, 422, 429, 503, 507)})
async def fork_job(request: Request, api: Here, job_id: str, key: Key = None) -> Response:
    """Queue a new job that goes on from a checkpoint of this one."""
    body, raw = await read_json(request, api.settings.max_spec_bytes + api.settings.max_inline_bytes, "a fork")
    raw = as_object(raw)
    return await once(api, request, key, hash_of(body), lambda: Fork(api, job_id, raw).ready(), lambda found: queue(api, found))


@dataclass
class Fork:
    """A fork while it is checked. `wrong` is all that is wrong with the body, apart from the job that it makes."""

    api: Api
    parent_id: str
    body: Json
    wrong: list[Problem] = field(default_factory=list)
    places: dict[str, str] = field(default_factory=dict)        # where a part of the job comes from in the body, by pointers

    def ready(self) -> Ready:
        """The new job, ready to be queued. 404, 409 without the checkpoint, 422 with every problem and pointers into the body."""
        parent = self.api.store.get_job(self.parent_id)
        self._look()
        which = str(self.body.get("checkpoint", "last"))
        known = not any(problem.pointer == "/checkpoint" for problem in self.wrong)
        begun = self._hold(parent, which) if known else None
        spec = self._spec(parent, begun)
        check_size(self.api.settings, json.dumps(spec).encode(), spec)
        try:
            found = candidate(self.api, spec, lambda api, job: Start(fit=lambda job, summary: self._fit(parent, begun, job, summary)))
            if self.wrong:
                raise invalid_spec([])
            return replace(ready(self.api.store, found), parent=self.parent_id)
        except ServiceError as error:
            told = [replace(problem, pointer=self._place(problem.pointer)) for problem in error.errors]
            if error.code != "invalid_spec":
                error.errors = told
                raise
            raise invalid_spec([*self.wrong, *told]) from None

    def _look(self) -> None:
        """The fields of the body by themselves."""
        body = self.body
        for name in body:
            if name not in FIELDS:
                self._refuse(f"/{name}", f"there is no field {name[:80]!r} here", "unknown_field", nearest(name, FIELDS))
        which, more = body.get("checkpoint", "last"), body.get("more_epochs")
        if not isinstance(which, str | int) or isinstance(which, bool) or not re.fullmatch(WHICH, str(which)):
            self._refuse("/checkpoint", "checkpoint is last, best or the number of an epoch")
        if more is not None and (not isinstance(more, int) or isinstance(more, bool) or not 1 <= more < 2**31):
            self._refuse("/more_epochs", "more_epochs is a whole number, at least 1")
        if body.get("state", "keep") not in ("keep", "reset"):
            self._refuse("/state", "state is keep or reset", "invalid_value", nearest(str(body["state"]), ("keep", "reset")))
        changes = body.get("changes", {})
        if not isinstance(changes, dict):
            self._refuse("/changes", "changes is an object: a merge patch of the job")
        elif changes.get("initial") is not None:
            self._refuse("/changes/initial", "a fork begins with the parameters of its checkpoint: send a new job to begin with others")
        elif more is not None and changes.get("epochs") is not None:
            self._refuse("/more_epochs", "give either more_epochs or changes.epochs", "one_form")

    def _refuse(self, pointer: str, detail: str, code: str = "invalid_value", suggestion: str | None = None) -> None:
        self.wrong.append(Problem(pointer, code, detail, suggestion))

    @property
    def keeps(self) -> bool:
        return self.body.get("state", "keep") != "reset"

    # ---------------------------------------------------------------- the checkpoint

    def _hold(self, parent: Row, which: str) -> Beginning | None:
        """The checkpoint, held. With the state of a run there is one of the best epoch only where one was written then."""
        beginning = self._held("last" if which == "best" else which)
        if which != "best" or not self.keeps:
            return beginning
        epoch, kept = beginning.header.meta["best"]["epoch"], sorted({row["epoch"] for row in self.api.store.checkpoints(parent["id"])})
        exact = self._held(str(epoch)) if epoch in kept else None
        if exact is None or exact.header.within:
            why = f"of the best epoch ({epoch}) only the parameters were kept; the whole state is there of epochs {', '.join(map(str, kept))}"
            self._refuse("/checkpoint", why, "not_carried", '"state": "reset"')
        return exact

    def _held(self, which: str) -> Beginning:
        held, row = hold_checkpoint(self.api, self.parent_id, which)
        try:
            header = header_of(held.path)
        except CheckpointError as error:
            raise ServiceError(409, "checkpoint_corrupt", str(error)) from None
        about = {"job": self.parent_id, "epoch": row["epoch"], "step": row["step"], "kind": "fork" if self.keeps else "initial",
                 "best_weights": self.body.get("checkpoint") == "best" and not self.keeps}
        return Beginning(held, header, about, row if self.keeps else None)

    # ---------------------------------------------------------------- the job

    def _spec(self, parent: Row, begun: Beginning | None) -> Json:
        """The job of the fork, as it would have been posted."""
        spec = {**parent["spec"], **{name: parent[name] for name in ("metadata", "priority")}, **({"name": parent["name"]} if parent["name"] else {})}
        spec.pop("initial", None)
        given = self.body.get("changes", {})
        changes = {name: value for name, value in given.items() if name != "initial"} if isinstance(given, dict) else {}
        if "optimizer" in changes and "optimiser" not in changes:
            changes["optimiser"] = changes.pop("optimizer")
            self.places["/optimiser"] = "/changes/optimizer"
        rule = changes.get("optimiser")
        if isinstance(rule, dict) and "centered" in rule and "centred" not in rule:     # the parent's spec says `centred`, and both are refused
            changes["optimiser"] = {("centred" if name == "centered" else name): value for name, value in rule.items()}
        more, done = self.body.get("more_epochs"), begun.checkpoint["epoch"] if begun and begun.checkpoint else 0
        if isinstance(more, int) and not isinstance(more, bool):
            spec["epochs"], self.places["/epochs"] = done + more, "/more_epochs"
        elif self.keeps:
            spec["epochs"] = parent["epochs"]
        if isinstance(changes.get("optimiser"), dict) and "kind" not in changes["optimiser"] and isinstance(spec["optimiser"], list):
            changes["optimiser"] = self._into_rule(spec, changes["optimiser"])
        spec = merged(spec, changes)
        total = spec.get("epochs", 10)
        where = "/changes/epochs" if "epochs" in changes else "/more_epochs"
        if begun and begun.checkpoint and isinstance(total, int) and total <= done and where not in {problem.pointer for problem in self.wrong}:
            self._refuse(where, f"the checkpoint has {done} epochs behind it, and the new job has {total} in all: say more_epochs", "nothing_left")
        return spec

    def _into_rule(self, spec: Json, change: Json) -> list[Any]:
        """The list of an optimiser's steps with its rule changed."""
        steps = Job.model_validate(spec).optimiser.listed
        place = max(place for place, step in enumerate(steps) if isinstance(step, Rule))
        self.places = {f"/optimiser/{place}": self.places.get("/optimiser", "/changes/optimiser"), **self.places}
        return [merged(step, change) if i == place else step for i, step in enumerate(spec["optimiser"])]

    def _fit(self, parent: Row, begun: Beginning | None, job: Job, summary: Summary) -> Fit:
        """What of the checkpoint the new job takes over."""
        if begun is None:
            return Fit()
        notes, about = Notes(), dict(begun.about)
        if self.keeps:
            carried = carry(job, summary, Job.model_validate(parent["spec"]), begun.header, notes)
            best = begun.header.meta["best"] if carried.comparable and carried.monitor else {}
            begun = replace(begun, about={**about, "carried": carried.as_dict()}, columns=self._columns(begun, best, parent, job),
                            checkpoint={**(begun.checkpoint or {}), "best": not begun.header.within and best.get("epoch") == about["epoch"]})
            return Fit(begun, notes.problems, [warning.as_dict() for warning in notes.warnings])
        source = source_of(begun.header, about["best_weights"], f"the checkpoint of {self.parent_id}")
        paths, wanted = fitting(summary, source), [*summary.parameter_shapes, *summary.buffer_shapes]
        if not paths:
            notes.problem("/model", "shape_mismatch", "no parameter of the new model has a namesake of its shape in the checkpoint")
        elif len(paths) < len(wanted):
            left = [path for path in wanted if path not in paths]
            notes.warn("/model", "not_carried", f"{', '.join(left[:8])}{', …' if len(left) > 8 else ''} begin anew: their shapes are others")
        initial = {"job": self.parent_id, "checkpoint": "best" if about["best_weights"] else about["epoch"],
                   **({"paths": paths} if len(paths) < len(wanted) else {})}
        return Fit(begun, notes.problems, [warning.as_dict() for warning in notes.warnings], initial)

    def _columns(self, begun: Beginning, best: Mapping[str, Any], parent: Row, job: Job) -> Json:
        """How far the new job has come without a step of its own."""
        row = begun.checkpoint or {}
        found = {name: row[name] for name in ("epoch", "step", "metrics")}
        device = parent["device"] if job.device == ANY else job.device
        told = f"The job waits for {awaited(device)[1]}, to go on from epoch {row['epoch']}, step {row['step']} of {self.parent_id}."
        return {**found, "progress": row["epoch"] / job.epochs, "message": told,
                "best": {"epoch": best["epoch"], "metrics": best["metrics"]} if best.get("epoch") else None}

    def _place(self, pointer: str) -> str:
        """Where in the body a part of the job is, or would be changed."""
        for part, place in sorted(self.places.items(), key=lambda item: -len(item[0])):
            if pointer == part or pointer.startswith(part + "/"):
                return place + pointer.removeprefix(part)
        return "/changes" + pointer


def merged(target: Any, patch: Any) -> Any:
    """The merge patch of RFC 7396: objects are merged, null removes, anything else replaces. An object of another kind replaces too."""
    if not isinstance(patch, dict):
        return patch
    if not isinstance(target, dict) or (isinstance(patch.get("kind"), str) and patch["kind"] != target.get("kind")):
        target = {}
    found = dict(target)
    for name, value in patch.items():
        if value is None:
            found.pop(name, None)
        else:
            found[name] = merged(found.get(name), value)
    return found
