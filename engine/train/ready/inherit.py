"""What a job may take over from another one's files, found by names and shapes alone."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load

from engine.data.fit import Notes
from engine.errors import CheckpointError, nearest
from engine.nn.paths import selected
from engine.plan import control
from engine.train.job import Job
from engine.train.lineage import Initial
from engine.train.ready.build import Summary
from engine.train.run.adopt import Carried
from engine.train.run.checkpoint import check_version

REALS = ("F16", "F32", "F64")
RESET = '"state": "reset"'
Shapes = Mapping[str, Sequence[int]]
BATCHES = ("batch_size", "sampling", "steps_per_epoch", "drop_last", "repeat", "augment")       # of `data`: how its rows are drawn
WITHIN = ("data", "loss", "metrics", "seed", "callbacks")       # what stays as it is within an epoch


@dataclass(frozen=True)
class Header:
    """What a file of arrays says of itself: shapes and types by name. Of a checkpoint also its JSON value, and whether an epoch is under way."""

    shapes: dict[str, tuple[int, ...]]
    types: dict[str, str]
    meta: dict[str, Any]
    within: bool = False

    def group(self, name: str) -> dict[str, tuple[int, ...]]:
        """The shapes under `name/`, by what follows."""
        prefix = name + "/"
        return {key.removeprefix(prefix): shape for key, shape in self.shapes.items() if key.startswith(prefix)}

    def model(self, best: bool) -> tuple[str, str]:
        """The groups of parameters and buffers: the last ones of a checkpoint, or the best so far."""
        return ("best", "best_buffers") if best and self.group("best") else ("parameters", "buffers")


def header_of(path: Path) -> Header:
    """The header of a safetensors file; no array is read. CheckpointError where it is damaged, or a checkpoint of another version."""
    try:
        with safe_open(path, "np") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  no mapping
            shapes = {name: tuple(found.get_shape()) for name, found in slices.items()}
            types = {name: found.get_dtype() for name, found in slices.items()}
            if "control" not in slices:
                return Header(shapes, types, {})
            meta = json.loads((file.metadata() or {}).get("trainyard", "{}"))
            check_version(meta)
            return Header(shapes, types, meta, bool(file.get_tensor("control").view(np.int64)[control.POSITION // 8]))
    except (SafetensorError, OSError, ValueError, IndexError) as error:
        raise error if isinstance(error, CheckpointError) else CheckpointError(f"the file cannot be read: {error}") from None


# ---------------------------------------------------------------- parameters to start from

@dataclass(frozen=True)
class Source:
    """Parameters and buffers that a job may start from; `file`: they are a user's own, whose types are looked at too."""

    parameters: dict[str, tuple[int, ...]]
    buffers: dict[str, tuple[int, ...]]
    what: str
    types: Mapping[str, str] | None = None


def source_of(header: Header, best: bool, what: str) -> Source:
    """Of a checkpoint, the model in it; of any other file, all its arrays."""
    if "control" in header.shapes:
        parameters, buffers = header.model(best)
        return Source(header.group(parameters), header.group(buffers), what)
    return Source(header.shapes, header.shapes, what, header.types)


def check_initial(initial: Initial, summary: Summary, source: Source, notes: Notes) -> None:
    """Whether what the job wants to start from is there and fits."""
    wanted = {**summary.parameter_shapes, **summary.buffer_shapes}
    for place, pattern in enumerate(initial.paths or ()):
        bare = pattern.removeprefix("!")
        if not any(selected(path, [bare]) for path in wanted):
            near = nearest(bare, [*wanted, *(f"{path.rpartition('.')[0]}.*" for path in wanted)])
            notes.problem(f"/initial/paths/{place}", "unknown_path", f"the model has no parameter {bare!r}; it has {_listed(wanted)}", near)
    for path in _chosen(initial.paths, summary.parameter_shapes):
        _check_one(path, summary.parameter_shapes[path], source.parameters, source, notes)
    for path in _chosen(initial.paths, summary.buffer_shapes):
        if path in source.buffers:
            _check_one(path, summary.buffer_shapes[path], source.buffers, source, notes)
        else:
            notes.warn("/initial", "not_found", f"{source.what} has no {path}: it begins as in a new model")


def _check_one(path: str, shape: Sequence[int], shapes: Shapes, source: Source, notes: Notes) -> None:
    where = "/initial"
    if path not in shapes:
        same = [other for other, found in shapes.items() if tuple(found) == tuple(shape)]
        notes.problem(where, "unknown_path", f"{source.what} has no {path} of shape {list(shape)}; it has {_listed(shapes)}",
                      nearest(path, shapes) or next(iter(same), None))
    elif tuple(shapes[path]) != tuple(shape):
        turned = " (dense weights are [in, out]: turn it round)" if len(shape) == 2 and tuple(shapes[path]) == tuple(shape)[::-1] else ""
        notes.problem(where, "shape_mismatch", f"{path} has shape {list(shape)} in this job and {list(shapes[path])} in {source.what}{turned}: "
                                               "choose other paths")
    elif source.types is not None and source.types[path] not in REALS:
        notes.problem(where, "dtype_mismatch", f"{path} in {source.what} has type {source.types[path]}: parameters are {', '.join(REALS)}")


def fitting(summary: Summary, source: Source) -> list[str]:
    """The paths of the new model that have a namesake of their shape."""
    found = [path for path, shape in summary.parameter_shapes.items() if tuple(source.parameters.get(path, (-1,))) == tuple(shape)]
    return found + [path for path, shape in summary.buffer_shapes.items() if tuple(source.buffers.get(path, (-1,))) == tuple(shape)]


def initial_arrays(data: bytes, best: bool, paths: Sequence[str] | None) -> dict[str, np.ndarray]:
    """Parameters and buffers by path, of a checkpoint or of another file; those that the patterns choose. CheckpointError where it is damaged."""
    try:
        arrays = load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(f"the file of the initial parameters cannot be read: {error}") from None
    if "control" in arrays:
        groups = ("best", "best_buffers") if best and any(name.startswith("best/") for name in arrays) else ("parameters", "buffers")
        arrays = {name.partition("/")[2]: array for name, array in arrays.items() if name.partition("/")[0] in groups}
    return {path: arrays[path] for path in _chosen(paths, arrays)}


def _chosen(patterns: Sequence[str] | None, paths: Iterable[str]) -> list[str]:
    return [path for path in paths if patterns is None or selected(path, patterns)]


def _listed(paths: Iterable[str]) -> str:
    names = list(paths)
    return ", ".join(names[:12]) + (", …" if len(names) > 12 else "")


# ---------------------------------------------------------------- the whole state of a run

def carry(new: Job, summary: Summary, old: Job, header: Header, notes: Notes) -> Carried:
    """What of the other job's state the new one goes on with; what it cannot is a problem, with a pointer into the new job."""
    kinds = [[step.kind_name() for step in job.optimiser.listed] for job in (new, old)]
    if kinds[0] != kinds[1]:
        _lost(notes, "/optimiser", f"the state of {' and '.join(kinds[1])} is of no use to {' and '.join(kinds[0])}")
    where = "/model" if new.model != old.model else "/data"
    shown = [line for group, shapes in (("parameters", summary.parameter_shapes), ("buffers", summary.buffer_shapes))
             for line in _differences(shapes, header.group(group))]
    if shown:
        _lost(notes, where, f"{'; '.join(shown[:4])}{'; …' if len(shown) > 4 else ''}")
    for name in ("trainable", "dtype"):
        if getattr(new, name) != getattr(old, name):
            _lost(notes, f"/{name}", f"with another {name!r} the optimiser's state has another form")
    if header.within:
        for name in WITHIN:
            if getattr(new, name) != getattr(old, name):
                why = f"the checkpoint is within epoch {header.meta['epoch'] + 1}, which is gone through to its end with the same {name}"
                _lost(notes, f"/{name}", why, "the checkpoint of a whole epoch")
    comparable = _compared(new) == _compared(old)
    if not comparable and (old.callbacks or header.meta["best"]["epoch"]):
        notes.warn("/loss" if new.loss != old.loss else "/data", "not_carried",
                   "data or loss are others: the best values so far, and what callbacks remember, begin anew")
    if header.meta["class_names"] != summary.class_names:
        notes.warn("/data/target", "classes_differ", f"the classes were {_listed(map(str, header.meta['class_names'] or ()))} and are "
                                                     f"{_listed(map(str, summary.class_names or ()))}: the model's outputs keep their places")
    others, places = [callback for callback in old.callbacks if callback.kind != "on_nonfinite"], []
    for callback in (callback for callback in new.callbacks if callback.kind != "on_nonfinite"):
        place = next((i for i, other in enumerate(others) if other == callback and i not in places), None)
        places.append(place if comparable else None)
    guards = [[callback for callback in job.callbacks if callback.kind == "on_nonfinite"] for job in (new, old)]
    return Carried(tuple(places), comparable, new.monitor == old.monitor, guards[0] == guards[1])


def _lost(notes: Notes, pointer: str, why: str, instead: str = RESET) -> None:
    notes.problem(pointer, "not_carried", f"{why}: with {RESET} the new job starts from the parameters alone", instead)


def _differences(wanted: Shapes, found: Shapes) -> list[str]:
    return [f"{path} has shape {list(wanted[path]) if path in wanted else 'none'} in this job and {list(found[path]) if path in found else 'none'} "
            "in the checkpoint" for path in dict.fromkeys([*wanted, *found]) if tuple(wanted.get(path, (-1,))) != tuple(found.get(path, (-1,)))]


def _compared(job: Job) -> tuple[Any, ...]:
    return job.data.model_copy(update=dict.fromkeys(BATCHES)), job.loss, job.seed
