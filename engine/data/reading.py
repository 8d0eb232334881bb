"""Columns read as another kind, as classes of another table, as parts of dates."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np

from engine.data.inference import BadCell, Class, Kind, Reading
from engine.data.preprocess import Part
from engine.data.table import Column, cell
from engine.errors import Problem, SpecError


def key(value: Class, strip: str = "") -> str:
    """The text by which equal classes of different tables are known: 7 and 7.0 are one class, `"007"` is another."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    text = cell(value).strip()
    return text.strip(strip).strip() if strip else text


def lookup(column: Column, classes: tuple[Class, ...], strip: str) -> np.ndarray:
    """int32 [column's classes]: the place of each of the column's classes in `classes`, or -1."""
    places = {key(value): place for place, value in enumerate(classes)}
    return np.array([places.get(key(value, strip), -1) for value in column.classes or ()] or [-1], np.int32)


def codes_of_numbers(data: np.ndarray, classes: tuple[Class, ...]) -> np.ndarray:
    """int32 [rows]: the place of each number in `classes` (sorted numbers), -1 for others and NaN."""
    known = np.array([float(c) for c in classes], np.float64)
    if not len(known):
        return np.full(len(data), -1, np.int32)
    values = np.asarray(data, np.float64)
    places = np.minimum(np.searchsorted(known, values), len(known) - 1)
    return np.where(known[places] == values, places, -1).astype(np.int32)


def as_kind(column: Column, kind: Kind) -> Column:
    """The column read as another kind, as when its file had been typed so. Raises SpecError where a value does not allow it."""
    if column.kind == kind or {column.kind, kind} <= {"number", "tensor"} or {column.kind, kind} == {"number", "boolean"}:
        return column
    if kind == "text":
        kind = "category"
    texts = [cell(column.python(row)) for row in range(column.rows)]
    try:
        if kind == "category":
            distinct = dict.fromkeys(text.strip() for text in texts if text.strip())
            return Column(column.name, kind, Reading(kind, tuple(distinct)).encode(texts), tuple(distinct))
        reading = Reading(kind, (False, True)) if kind == "boolean" else Reading("number" if kind == "tensor" else kind)
        return Column(column.name, reading.kind, reading.encode(texts), reading.classes)
    except BadCell as bad:
        raise SpecError([Problem(f"/{column.name}", f"not_a_{kind}", f"column {column.name!r}, row {bad.index}: {bad}")]) from None


def date_parts(seconds: np.ndarray, parts: tuple[Part, ...]) -> np.ndarray:
    """float64 [rows, parts] of seconds since 1970 UTC; NaN where they are missing. Monday is weekday 0."""
    found = np.full((len(seconds), len(parts)), np.nan)
    for row in np.flatnonzero(np.isfinite(seconds)):
        when = datetime.fromtimestamp(float(seconds[row]), UTC)
        values = {"year": when.year, "month": when.month, "day": when.day, "weekday": when.weekday(), "day_of_year": when.timetuple().tm_yday,
                  "hour": when.hour, "minute": when.minute}
        found[row] = [values[part] for part in parts]
    return found
