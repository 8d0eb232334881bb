"""Derivatives of a described model on given data, without a job: by reverse mode, forward mode or finite differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BeforeValidator, Field, ValidationError

from engine.autodiff.forward import pushforward
from engine.autodiff.reverse import pullback
from engine.core import FLOATS, Node, evaluate, leaf
from engine.data.encode import gather, table_of_columns
from engine.data.feed import Feed
from engine.data.fit import Notes
from engine.data.table import Table
from engine.errors import Problem, SpecError, nearest
from engine.nn.layers import AnyLayer
from engine.plan.graphs import StepGraph
from engine.spec import Spec, problems
from engine.train.job import AnyObjective, Job
from engine.train.job_data import Data
from engine.train.ready.build import build
from engine.train.ready.memory import temporaries
from engine.train.ready.network import Network
from engine.train.ready.step import StepMaker
from engine.train.rows.prepare import leaves_of
from engine.train.trained.evaluate import part_of, target_rows, weighted_if_there
from engine.train.trained.predict import Predictor

MOST_DIRECTIONS = 4_000     # one run of the graph for each number, in the modes that take one direction at a time
STEP = 1e-6                 # of a finite difference, in float64


@dataclass
class Room:
    """What a request may take: parameters and bytes of its model, looked at by shapes before there are any arrays, and derivatives."""

    max_parameters: int | None = 10_000_000
    max_memory_bytes: int | None = 1_000_000_000
    max_numbers: int = 100_000


ROOM = Room()


def _as_data(value: Any) -> Any:
    """`{"x", "y"}` and `{"columns" or "rows", "target"}` stand for inline data of a job; rows become columns, so that numbers stay as they are."""
    if not isinstance(value, Mapping):
        return value
    value = dict(value)
    if "x" in value:
        target = {"target": "y"} if "y" in value else {}
        return {"dataset": {"columns": {name: value.pop(name) for name in ("x", "y") if name in value}}, **target, **value}
    if "columns" in value or "rows" in value:
        value["dataset"] = {name: value.pop(name) for name in ("columns", "rows") if name in value}
    inline = value.get("dataset")
    rows = inline.get("rows") if isinstance(inline, Mapping) else None
    if isinstance(rows, list) and rows and all(isinstance(row, Mapping) for row in rows):
        value["dataset"] = {"columns": {name: [row.get(name) for row in rows] for name in chain.from_iterable(rows)}}
    return value


class Asked(Spec):
    """Data, what to differentiate by, and how. `parameters` gives values by path."""

    data: Annotated[dict[str, Any], BeforeValidator(_as_data)]
    parameters: dict[str, Any] = {}
    of: Annotated[list[Literal["parameters", "inputs"]], Field(min_length=1)] = ["parameters"]
    mode: Literal["reverse", "forward", "finite_difference"] = "reverse"
    seed: Annotated[int, Field(strict=True, ge=0, lt=2**63)] = 0


class GradientsRequest(Asked):
    """A model and a loss of one's own; parameters that are not given are drawn from `seed`."""

    model: AnyLayer  # type: ignore[valid-type]
    loss: AnyObjective  # type: ignore[valid-type]
    dtype: Literal["float32", "float64"] = "float64"


def gradients(request: Mapping[str, Any], room: Room = ROOM) -> dict[str, Any]:
    """`{"value", "gradients": {path: array}, "norms": {path: number}}`; null where there is no derivative.

    Inputs are called `inputs`, or `inputs.NAME` where there are several. Raises SpecError with pointers into the request.
    """
    try:
        asked = GradientsRequest.model_validate(request)
        job = Job.model_validate({"model": asked.model, "loss": asked.loss, "data": asked.data, "optimiser": "descent", "seed": asked.seed,
                                  "dtype": asked.dtype, "metrics": []})
    except ValidationError as error:
        raise SpecError(problems(error, request)) from None
    inline = job.data.dataset
    if isinstance(inline, str):
        raise SpecError([Problem("/data/dataset", "inline_only", "gradients are computed on data in the request: columns, rows, or x and y")])
    table = Table.from_columns(inline.columns) if inline.columns is not None else Table.from_rows(inline.rows or [])
    built = build(job, {"inline": table}, room, numbered=True)
    part = built.parts["train"]
    graph = built.make_graph(len(part.rows), True)
    fill(graph, part.feeds, part.rows, {**built.parameters, **given(asked.parameters, built.parameters)}, built.buffers, asked.seed)
    return derivatives(graph, asked.of, asked.mode, room)


def trained_gradients(model: Predictor, request: Mapping[str, Any], room: Room = ROOM) -> dict[str, Any]:
    """The same for a trained model, with its loss, its preprocessing and in float64; `request` has data, of, mode, seed, and perhaps parameters."""
    try:
        asked = Asked.model_validate(request)
        data = Data.model_validate(asked.data)
    except ValidationError as error:
        raise SpecError(problems(error, request)) from None
    if isinstance(data.dataset, str):
        raise SpecError([Problem("/data/dataset", "inline_only", "gradients are computed on data in the request: columns or rows")])
    targets = [name for target in model.fitted.targets for name in target.columns]
    table = table_of_columns(model.fitted, data.dataset.columns or {}, targets)
    network = Network(model.network.model, model.fitted, leaves_of(model.fitted, "float64"), "float64")
    maker = weighted_if_there(StepMaker(network, model.objectives), table)
    part = part_of(model.fitted, table, None, Notes())
    rows = target_rows(model.fitted, part, Notes())
    if not len(rows):
        raise SpecError([Problem("/data", "no_rows", "no row has a target: there is no loss to differentiate")])
    graph = maker(len(rows), True)
    if room.max_memory_bytes is not None and (needed := temporaries(graph)[0]) > room.max_memory_bytes:
        raise SpecError([Problem("/data", "too_many_rows", f"{len(rows):,} rows would take {needed / 1e6:,.0f} MB: send fewer")])
    parameters, buffers = ({path: array.astype(np.float64) for path, array in group.items()} for group in (model.parameters, model.buffers))
    feeds = maker.network.fitted.feeds(table.columns, part.order)
    fill(graph, feeds, rows, {**parameters, **given(asked.parameters, parameters)}, buffers, asked.seed)
    return derivatives(graph, asked.of, asked.mode, room)


def fill(graph: StepGraph, feeds: Sequence[Feed], rows: np.ndarray, parameters: Mapping[str, np.ndarray], buffers: Mapping[str, np.ndarray],
         seed: int) -> None:
    """Give every leaf of a graph its value: these rows of the data, parameters and buffers by path, the first step of `seed`."""
    leaves = {name: (node.shape[1:], node.dtype) for name, node in graph.batch.items()}
    for name, array in gather(feeds, rows, leaves).items():
        graph.batch[name].value = array
    for nodes, arrays in ((graph.parameters, parameters), (graph.buffers, buffers)):
        for path, node in nodes.items():
            node.value = arrays[path]
    if graph.key is not None:
        graph.key.value = np.array([seed, 1], np.int64)
    for node in graph.counters.values():
        node.value = np.ones((), node.dtype)


def derivatives(graph: StepGraph, of: Sequence[str], mode: str, room: Room = ROOM) -> dict[str, Any]:
    """The answer for a graph whose leaves have values."""
    inputs = {"inputs" if name == "x" else f"inputs.{name.removeprefix('x.')}": node for name, node in graph.batch.items()
              if name.split(".")[0] == "x" and node.dtype in FLOATS}
    wanted = {**(graph.parameters if "parameters" in of else {}), **(inputs if "inputs" in of else {})}
    _check_size(wanted, mode, room)
    value, arrays = _MODES[mode](graph.loss, wanted)
    return {"value": value, "gradients": {name: None if array is None else array.tolist() for name, array in arrays.items()},
            "norms": {name: None if array is None else float(np.linalg.norm(array)) for name, array in arrays.items()}}


def given(values: Mapping[str, Any], known: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Values of parameters by path, checked against the model's. Raises SpecError."""
    wrong, found = [], {}
    for path, value in values.items():
        if path not in known:
            wrong.append(Problem(f"/parameters/{path}", "unknown_path", f"the model has no parameter {path!r}", nearest(path, known)))
            continue
        try:
            array = np.array(value, known[path].dtype)
        except (TypeError, ValueError):
            array = np.zeros(0)
        if array.shape != known[path].shape or not np.isfinite(array).all():
            wrong.append(Problem(f"/parameters/{path}", "shape_mismatch", f"{path} takes finite numbers of shape {list(known[path].shape)}"))
        found[path] = array
    if wrong:
        raise SpecError(wrong)
    return found


def _check_size(wanted: Mapping[str, Node], mode: str, room: Room) -> None:
    count = sum(node.size for node in wanted.values())
    most = room.max_numbers if mode == "reverse" else min(room.max_numbers, MOST_DIRECTIONS)
    if count > most:
        raise SpecError([Problem("/of", "too_many_numbers", f"there are {count:,} derivatives; mode {mode!r} gives at most {most:,}")])


# ---------------------------------------------------------------- the modes

Arrays = dict[str, np.ndarray | None]


def _reverse(loss: Node, wanted: Mapping[str, Node]) -> tuple[float, Arrays]:
    found = dict(zip(wanted, pullback(loss, None, list(wanted.values())), strict=True))
    evaluate([loss, *(node for node in found.values() if node is not None)])
    return loss.item(), {name: None if node is None else node.numpy() for name, node in found.items()}


def _forward(loss: Node, wanted: Mapping[str, Node]) -> tuple[float, Arrays]:
    """One derivative for each number, along the direction that changes it alone."""
    arrays: Arrays = {}
    for name, node in wanted.items():
        direction = leaf(node.shape, node.dtype, name="direction", value=np.zeros(node.shape, node.dtype))
        tangent = pushforward([loss], {node: direction})[0]
        arrays[name] = None if tangent is None else _each(node.shape, lambda moved, d=direction, t=tangent: _along(d, t, moved))
    return loss.item(), arrays


def _along(direction: Node, tangent: Node, moved: np.ndarray) -> float:
    direction.value, tangent.value = moved.astype(direction.dtype), None
    return tangent.item()


def _difference(loss: Node, wanted: Mapping[str, Node]) -> tuple[float, Arrays]:
    """Central differences: what does not move the loss at all has no derivative where reverse mode knows of none."""
    known = dict(zip(wanted, pullback(loss, None, list(wanted.values())), strict=True))
    arrays: Arrays = {}
    for name, node in wanted.items():
        start = node.numpy()
        step = STEP if node.dtype == "float64" else 1e-3
        arrays[name] = None if known[name] is None else _each(
            node.shape, lambda moved, n=node, s=start, h=step: (_at(loss, n, s + h * moved) - _at(loss, n, s - h * moved)) / (2 * h))
        node.value = start
    loss.value = None
    return loss.item(), arrays


def _at(loss: Node, node: Node, value: np.ndarray) -> float:
    node.value, loss.value = np.ascontiguousarray(value, node.dtype), None
    return loss.item()


def _each(shape: tuple[int, ...], measure: Any) -> np.ndarray:
    """`measure(direction)` for the direction of each number of an array."""
    found = np.zeros(shape)
    for place in np.ndindex(*shape):
        direction = np.zeros(shape)
        direction[place] = 1.0
        found[place] = measure(direction)
    return found


_MODES = {"reverse": _reverse, "forward": _forward, "finite_difference": _difference}
