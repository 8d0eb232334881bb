"""Feeds carried out by numpy: batches for predictions, and the meaning that the gather kernels are tested against."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from engine.data.feed import Feed
from engine.data.fitted import Fitted, FittedInput
from engine.data.table import Table, check_rows
from engine.data.windows import Windows
from engine.errors import Problem, SpecError, nearest

Leaf = tuple[tuple[int, ...], str]
"""(shape of one row, dtype) of a batch leaf."""


def gather(feeds: Iterable[Feed], rows: np.ndarray, leaves: Mapping[str, Leaf]) -> dict[str, np.ndarray]:
    """The batch leaves of these rows, or of the windows that begin at these places, each [rows, *shape]."""
    batch = {name: np.zeros((len(rows), *shape), dtype) for name, (shape, dtype) in leaves.items()}
    for feed in feeds:
        taken = rows if feed.span is None else feed.span.rows(rows)
        target = batch[feed.target].reshape(len(taken), -1)
        values = _apply(feed, feed.source[taken].reshape(len(taken), -1))
        target[:, feed.offset:feed.offset + values.shape[1]] = values
    return batch


def _apply(feed: Feed, x: np.ndarray) -> np.ndarray:
    if feed.kind in ("code", "one_hot"):
        codes = _codes(feed, x)
        return codes if feed.kind == "code" else (codes[..., None] == np.arange(feed.classes)).reshape(len(x), -1)
    missing = np.isnan(x) if x.dtype.kind == "f" else x == feed.missing if feed.missing is not None else np.zeros(x.shape, bool)
    if feed.kind == "indicator":
        return missing
    values = np.where(missing, feed.fill, x.astype(np.float64))
    if feed.kind == "log":
        values = np.log1p(np.maximum(values, 0))
    return (values - feed.shift) * feed.scale


def _codes(feed: Feed, x: np.ndarray) -> np.ndarray:
    codes = x.astype(np.int64) - feed.base
    if feed.lookup is not None:
        inside = (codes >= 0) & (codes < len(feed.lookup))
        codes = np.where(inside, feed.lookup[np.where(inside, codes, 0)], -1)
    return np.where((codes >= 0) & (codes < feed.classes), codes, feed.unknown)


# ---------------------------------------------------------------- rows as uploaded

def table_of_rows(fitted: Fitted, rows: Sequence[Mapping[str, Any]], also: Sequence[str] = ()) -> Table:
    """JSON rows read with the kinds that the columns had in training, and the columns `also`. SpecError with pointers `/row/column`."""
    wanted = {column.name: column for column in fitted.columns}
    check_rows(rows)
    fed = [{name: value for name, value in row.items() if name in wanted or name in also} for row in rows]
    problems = [p for place, row in enumerate(rows) for p in _names(fitted, row, f"/{place}")]
    if problems:
        raise SpecError(problems[:100])
    return Table.from_rows(fed, {name: column.kind for name, column in wanted.items() if column.kind != "tensor"})


def table_of_columns(fitted: Fitted, columns: Mapping[str, Any], also: Sequence[str] = ()) -> Table:
    """JSON columns, the inputs' and those `also`; SpecError with pointers `/column/row`."""
    problems = _names(fitted, columns, "")
    if problems:
        raise SpecError(problems)
    wanted = {*also, *(column.name for column in fitted.columns)}
    return Table.from_columns({name: values for name, values in columns.items() if name in wanted})


def _names(fitted: Fitted, found: Mapping[str, Any], pointer: str) -> list[Problem]:
    """Absent input columns, and columns that neither the model nor its data set has."""
    wanted = [column.name for column in fitted.columns]
    absent = [Problem(f"{pointer}/{name}", "missing_column", f"the model needs the column {name!r}") for name in wanted if name not in found]
    unknown = [Problem(f"{pointer}/{name}", "unknown_column", f"neither the model nor its data set has a column {name!r}", nearest(name, wanted))
               for name in found if name not in fitted.known and name not in wanted]
    return absent + unknown


def table_of_inputs(fitted: Fitted, inputs: Any) -> Table:
    """Arrays for the inputs of the model: by name, in order, or for a model with one input its rows. SpecError with pointers `/input`."""
    arrays = by_input(fitted, inputs)
    columns: dict[str, Any] = {}
    for item in fitted.inputs:
        columns |= _split(item, fitted.windows, arrays[item.name])
    return Table.from_columns(columns)


def by_input(fitted: Fitted, inputs: Any) -> dict[str, Any]:
    """What each input was given: a list has them in order, or is the rows of the only one. SpecError with pointers `/input`."""
    names = [item.name for item in fitted.inputs]
    if isinstance(inputs, Mapping):
        problems = [Problem(f"/{n}", "missing_input", f"the model needs the input {n!r}") for n in names if n not in inputs]
        problems += [Problem(f"/{n}", "unknown_input", f"the model has no input {n!r}", nearest(n, names)) for n in inputs if n not in names]
        if problems:
            raise SpecError(problems)
        return dict(inputs)
    if len(names) == 1:
        item = fitted.inputs[0]
        alone = len(inputs) == 1 and np.ndim(_array(inputs[0], "")) == 1 + len(_raw_shape(item, fitted.windows))
        return {names[0]: inputs[0] if alone else inputs}
    if len(inputs) != len(names):
        raise SpecError([Problem("", "inputs_mismatch", f"the model has {len(names)} inputs ({', '.join(names)}), found {len(inputs)}")])
    return dict(zip(names, inputs, strict=True))


def _raw_shape(item: FittedInput, windows: Windows | None) -> tuple[int, ...]:
    """The shape of one row of an input before preprocessing, or of the rows of one window."""
    alone = item.columns[0].shape if len(item.columns) == 1 else ()
    return (*((windows.length,) if windows else ()), *(alone or (sum(int(np.prod(column.shape)) for column in item.columns),)))


def _array(values: Any, pointer: str) -> np.ndarray:
    try:
        array = np.array(values)
    except ValueError:
        raise SpecError([Problem(pointer, "ragged", "the rows of an input must have one shape")]) from None
    if array.dtype.kind == "O":
        with suppress(TypeError, ValueError, OverflowError):        # what is no number stays what it is, and is refused
            array = array.astype(np.float64)
    if array.dtype.kind not in "iufb":
        raise SpecError([Problem(pointer, "not_numbers", "an input is an array of numbers; give rows of columns for other values")])
    return array


def _split(item: FittedInput, windows: Windows | None, values: Any) -> dict[str, np.ndarray]:
    """The columns of one input, from its array; the rows of windows one below the other."""
    pointer = f"/{item.name}"
    array, shape = _array(values, pointer), _raw_shape(item, windows)
    if shape[-1] == 1 and array.ndim == len(shape):
        array = array[..., None]
    if array.shape[1:] != shape:
        raise SpecError([Problem(pointer, "shape_mismatch", f"input {item.name!r} takes rows of shape {list(shape)}, found {list(array.shape[1:])}")])
    if array.dtype.kind == "b":
        array = array.astype(np.int64)
    rows = len(array) * (windows.length if windows else 1)
    flat, at, found = array.reshape(rows, -1), 0, {}
    for column in item.columns:
        width = int(np.prod(column.shape))
        part = flat[:, at:at + width]
        found[column.name] = np.ascontiguousarray(part.reshape(rows, *column.shape))
        at += width
    return found
