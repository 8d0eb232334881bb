"""A trained model in use: predictions for rows as they were uploaded, and evaluations, from the job's spec and a checkpoint alone."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from threading import Lock
from typing import Any

import numpy as np
from pydantic import ValidationError

from engine.core import Node, count
from engine.data.characters import code_points, unknown
from engine.data.encode import gather, table_of_columns, table_of_inputs, table_of_rows
from engine.data.fit import Notes
from engine.data.fitted import Fitted
from engine.data.table import Table
from engine.data.target import shown
from engine.data.windows import Line, last_starts, line_of
from engine.errors import CheckpointError, Problem, SpecError
from engine.spec import problems
from engine.train.job import Job
from engine.train.ready.goals import objectives_of
from engine.train.ready.network import OUTPUT, Network
from engine.train.ready.objective import Objective
from engine.train.ready.setup import network_of
from engine.train.ready.step import StepMaker
from engine.train.rows.parts import Part, check_others, target_columns
from engine.train.rows.prepare import leaves_of, main_table
from engine.train.rows.windows import parts_of
from engine.train.run.checkpoint import unpack
from engine.train.trained.evaluate import Evaluation, evaluation, part_of
from engine.train.trained.machine import Bound, Machine

Metrics = Sequence[Any] | Mapping[str, Sequence[Any]]
SPLITS = {"train": "train", "validation": "valid", "test": "test"}


@dataclass(frozen=True)
class _Given:
    """Data for a prediction: `index` are rows, or where windows begin in the rows by `order`."""

    table: Table
    index: np.ndarray
    order: np.ndarray | None
    warnings: list[dict[str, str]]


class Predictor:
    """The model of a checkpoint. `best` takes the best weights that the checkpoint knows instead of its last ones. Safe to use from threads."""

    def __init__(self, job: Job | Mapping[str, Any], checkpoint: bytes, *, best: bool = False):
        self.job = job if isinstance(job, Job) else Job.model_validate(job)
        found = unpack(checkpoint)
        self.meta = found.meta
        self.fitted = Fitted.model_validate(found.meta["fitted"])
        self.objectives = objectives_of(self.job, self.fitted, Notes())
        self.network: Network = network_of(self.job, self.fitted, self.objectives)
        groups = ("best", "best_buffers") if best and found.group("best") else ("parameters", "buffers")
        self.parameters, self.buffers = (found.group(name) for name in groups)
        self._lock = Lock()
        self._forward = Machine(self.bound)
        self._check()

    def _check(self) -> None:
        forward = self.network.forward(1, False)
        wrong = [path for path, node in forward.parameters.items() if path not in self.parameters or self.parameters[path].shape != node.shape]
        if wrong:
            raise CheckpointError(f"the checkpoint belongs to another model: {wrong[0]} is not there or has another shape")

    # ---------------------------------------------------------------- predictions

    def predict(self, rows: Sequence[Mapping[str, Any]] | None = None, columns: Mapping[str, Any] | None = None, inputs: Any = None,
                table: Table | None = None, losses: bool = False) -> dict[str, Any]:
        """Predictions for rows (objects), columns, arrays for the model's inputs, or a table; give one of them.

        The keys of the contract's prediction: outputs, classes, probabilities, class_names, warnings, and `losses` of the rows where asked for, which
        needs the target's column. By output name where the model has several. Raises SpecError with pointers into what was given.
        """
        given = self._given(rows, columns, inputs, table, losses)
        chunks = list(self._chunks(given))
        answer = self._answer({name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]})
        if losses:
            answer["losses"] = self._losses(given.table)
        return {**answer, "warnings": given.warnings}

    def pieces(self, rows: Sequence[Mapping[str, Any]] | None = None, inputs: Any = None, table: Table | None = None,
               losses: bool = False) -> Iterator[dict[str, Any]]:
        """The same answer in pieces of some rows each, so that there is never all of it at once; without warnings."""
        given = self._given(rows, None, inputs, table, losses)
        found, at = self._losses(given.table) if losses else None, 0
        for chunk in self._chunks(given):
            size = len(next(iter(chunk.values())))
            yield {**self._answer(chunk), **({"losses": found[at:at + size]} if found is not None else {})}
            at += size

    @cached_property
    def width(self) -> int:
        """Numbers that are computed for each row."""
        return sum(count(node.shape) for node in self.bound(1).results.values())

    def _given(self, rows: Any, columns: Any, inputs: Any, table: Table | None, losses: bool) -> _Given:
        made = table if table is not None else self._table(rows, columns, inputs, losses)
        if not made.rows:
            raise _no_rows()
        warnings = self._unseen(made, rows is not None)
        return _Given(made, *self._index(made, inputs is not None), warnings)

    def _chunks(self, given: _Given) -> Iterator[dict[str, np.ndarray]]:
        """What the model makes of rows, or of windows, some at a time; between them others have their turn."""
        length = self.fitted.windows.length if self.fitted.windows else 1
        feeds = self.fitted.input_feeds(self._columns(given.table), given.order)
        chunks = self._forward.run(given.index, lambda chunk: gather(feeds, chunk, self._inputs), length)
        while True:
            with self._lock:
                found = next(chunks, None)
            if found is None:
                return
            yield found[1]

    def following(self, window: np.ndarray) -> np.ndarray:
        """float64 [length, classes]: how likely each character is to follow those of a window of character numbers, int32 [length]."""
        leaf = self.fitted.inputs[0].leaf
        with self._lock:
            _, found = next(self._forward.run(np.zeros(1, np.int64), lambda _: {leaf: window[None]}))
        return found[f"probabilities/{OUTPUT}"][0].astype(np.float64)

    def _index(self, table: Table, arrays: bool) -> tuple[np.ndarray, np.ndarray | None]:
        """The rows to predict; or where windows begin, and the order of rows: the last ones of each group, or each of the given arrays."""
        windows, text = self.fitted.windows, next((c for c in self.fitted.columns if c.encoding == "characters"), None)
        if windows is None:
            return np.arange(table.rows, dtype=np.int64), None
        if arrays:
            return np.arange(0, table.rows, windows.length, dtype=np.int64), None
        if text is None or text.name not in table.columns:
            line = line_of(table, windows)
            return last_starts(line, windows), line.order
        points = code_points(table.columns[text.name])
        if new := unknown(points, [str(c) for c in text.classes or ()]):
            raise SpecError([Problem(f"/{text.name}", "unseen_class", f"the text has characters that the model does not know: {shown(new)}")])
        return last_starts(Line(len(points)), windows), None

    def _table(self, rows: Any, columns: Any, inputs: Any, losses: bool) -> Table:
        windows = self.fitted.windows
        if windows and losses:
            raise SpecError([Problem("", "no_losses", "losses of windows need the rows that follow them: evaluate a data set instead")])
        targets = [name for target in self.fitted.targets for name in target.columns] if losses else []
        given = rows if rows is not None else columns if columns is not None else inputs
        sorts = [name for name in (windows.order, windows.group) if name] if windows else []
        first = rows[0] if rows else columns
        targets += [name for name in sorts if isinstance(first, Mapping) and name in first]
        if not given:
            raise _no_rows()
        if rows is not None:
            return table_of_rows(self.fitted, rows, targets)
        if columns is not None:
            return table_of_columns(self.fitted, columns, targets)
        return table_of_inputs(self.fitted, inputs)

    def _columns(self, table: Table) -> dict[str, Any]:
        absent = [column.name for column in self.fitted.columns if column.name not in table.columns]
        if absent:
            raise SpecError([Problem(f"/{name}", "missing_column", f"the model needs the column {name!r}") for name in absent])
        return table.columns

    def _unseen(self, table: Table, by_row: bool) -> list[dict[str, str]]:
        """A warning for each column with categories that training has not had; `by_row` it points at the first such row."""
        warnings = []
        for column in (column for column in self.fitted.columns if column.name in table.columns):
            name, cells = column.name, table.columns[column.name]
            if values := column.unseen(cells):
                first = bisect_left(range(table.rows), True, key=lambda row, c=column, x=cells: bool(c.unseen(x, np.arange(row + 1))))
                warnings.append({"pointer": f"/{first}/{name}" if by_row else f"/{name}", "code": "unseen_category",
                                 "detail": f"column {name!r} has categories that are unknown to the model: {shown(values)}"})
        return warnings

    @cached_property
    def _inputs(self) -> dict[str, Any]:
        """The batch leaves of inputs, without targets and weights."""
        return leaves_of(self.fitted.model_copy(update={"targets": (), "weight": None}), self.job.dtype)

    def bound(self, rows: int) -> Bound:
        """The graph of a batch of so many rows: its inputs after preprocessing by name, and results `outputs/NAME` and `probabilities/NAME`."""
        network = Network(self.network.model, self.fitted, self._inputs, self.job.dtype)
        forward = network.forward(rows, False)
        self._bind(forward.parameters, forward.buffers, forward.key, {})
        results: dict[str, Node] = {}
        for objective in self.objectives:
            y_hat = forward.outputs[objective.name]
            results[f"outputs/{objective.name}"] = objective.own_units(y_hat)
            if (probabilities := objective.probabilities(y_hat)) is not None:
                results[f"probabilities/{objective.name}"] = probabilities
        return Bound(forward.batch, results)

    def _bind(self, parameters: Mapping[str, Node], buffers: Mapping[str, Node], key: Node | None, counters: Mapping[str, Node]) -> None:
        for path, node in parameters.items():
            node.value = self.parameters[path]
        for path, node in buffers.items():
            node.value = self.buffers[path]
        if key is not None:
            key.value = np.array([self.job.seed, 0], np.int64)
        counted = {"epoch": max(1, self.meta.get("epoch", 1)), "step": self.meta.get("step", 0) + 1}    # as the run's own evaluations have them
        for name, node in counters.items():
            node.value = np.full((), counted[name], node.dtype)

    def _answer(self, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
        answers: dict[str, dict[str, Any]] = {}
        for objective in self.objectives:
            name, classes = objective.name, objective.target.classes if objective.target else None
            found: dict[str, Any] = {"outputs": arrays[f"outputs/{name}"].tolist()}
            if classes is not None:
                probabilities = arrays[f"probabilities/{name}"]
                names = np.array(classes, object)[probabilities.argmax(axis=-1)]
                found |= {"classes": names.tolist(), "probabilities": probabilities.tolist(), "class_names": list(classes)}
            answers[name] = found
        if list(answers) == [OUTPUT]:
            return answers[OUTPUT]
        keys = ("outputs", "classes", "probabilities", "class_names")
        return {key: {name: answer[key] for name, answer in answers.items() if key in answer} for key in keys}

    def _losses(self, table: Table) -> list[float | None]:
        """The loss of each row; None where it has no target."""
        found = self._evaluation(part_of(self.fitted, table, None, Notes()), Notes())
        if len(found.losses) != len(found.rows):
            raise SpecError([Problem("", "no_losses", "the loss of this model is one number for all rows together, not one for each")])
        losses: list[float | None] = [None] * table.rows
        for row, loss in zip(found.rows, found.losses, strict=True):
            losses[row] = float(loss)
        return losses

    # ---------------------------------------------------------------- evaluations

    def evaluate(self, table: Table, metrics: Metrics | None = None, rows: np.ndarray | None = None) -> dict[str, Any]:
        """Loss and metrics on a table (or some of its rows), with the contract's keys: rows, loss, metrics, confusion_matrix, per_class, worst.

        `metrics` are names or objects; the job's where left out. Raises SpecError where columns or labels do not fit.
        """
        notes = Notes()
        return self._told(part_of(self.fitted, table, rows, notes), notes, metrics)

    def _told(self, part: Part, notes: Notes, metrics: Metrics | None) -> dict[str, Any]:
        found = self._evaluation(part, notes, metrics)
        return found.as_dict() | {"warnings": [warning.as_dict() for warning in notes.warnings]}

    def evaluate_split(self, tables: Mapping[str, Table], split: str, metrics: Metrics | None = None) -> dict[str, Any]:
        """The same on the rows that were "train", "validation" or "test" in the job; `tables` as for a run."""
        return self._told(self._part(tables, split), Notes(), metrics)

    def _part(self, tables: Mapping[str, Table], split: str) -> Part:
        notes = Notes()
        table = main_table(self.job.data, tables, notes)
        check_others(self.job.data, tables, notes)
        if notes.problems:
            raise SpecError(notes.problems)
        parts = parts_of(self.job.data, table, tables, target_columns(self.job.data), self.job.seed, notes)
        if split not in SPLITS or SPLITS[split] not in parts:
            known = [name for name, part in SPLITS.items() if part in parts]
            raise SpecError([Problem("/split", "unknown_split", f"the job has no {split!r} rows; it has {', '.join(known)}")])
        return parts[SPLITS[split]]

    def _evaluation(self, part: Part, notes: Notes, metrics: Metrics | None = None) -> Evaluation:
        self._columns(part.table)
        maker = StepMaker(self.network, self._objectives(metrics))
        with self._lock:
            return evaluation(maker, part, self._bind, notes)

    def _objectives(self, metrics: Metrics | None) -> list[Objective]:
        if metrics is None:
            return self.objectives
        raw = {**self.job.spec(), "metrics": metrics if isinstance(metrics, Mapping) else list(metrics)}
        try:
            job = Job.model_validate(raw)
        except ValidationError as error:
            raise SpecError(problems(error, raw)) from None
        notes = Notes()
        found = objectives_of(job, self.fitted, notes)
        if notes.problems:
            raise SpecError(notes.problems)
        return found


def _no_rows() -> SpecError:
    return SpecError([Problem("", "no_rows", "there are no rows to predict")])
