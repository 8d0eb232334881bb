"""Curves: numbers by step, packed in blocks of 1,024 pairs of float64, and charts made from them and from epoch events.

Trainers make curves and the API draws charts. The supervisor does neither, so the rest of the store does not import this module, nor numpy.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import Connection, Text, bindparam, delete, func, insert, or_, select, type_coerce

from service.store.database import Database
from service.store.tables import blocks, events

BLOCK = 1024
Numbers = Sequence[float] | np.ndarray

_MINE = (blocks.c.job_id == bindparam("this_job")) & (blocks.c.series == bindparam("this_series"))
_TAIL = select(blocks.c.number, blocks.c.data).where(
    _MINE, or_(blocks.c.last_step >= bindparam("step"), blocks.c.count < BLOCK)).order_by(blocks.c.number)
_CUT = delete(blocks).where(_MINE, blocks.c.number >= bindparam("first"))
_NEXT = select(func.coalesce(func.max(blocks.c.number) + 1, 0)).where(_MINE)


@dataclass(frozen=True)
class Curve:
    """Values by step, steps rising."""

    steps: Numbers
    values: Numbers

    def append(self, connection: Connection, job_id: str, series: str) -> None:
        """Add them to a series of the job. A step that is there already (a replay) takes the new value: each step is stored once."""
        fresh = np.column_stack([np.asarray(self.steps, float), np.asarray(self.values, float)])
        if not len(fresh):
            return
        mine = {"this_job": job_id, "this_series": series}
        rows = connection.execute(_TAIL, {**mine, "step": float(fresh[0, 0])}).all()
        if rows:
            first = rows[0].number
            old = np.frombuffer(b"".join(row.data for row in rows)).reshape(-1, 2)
            fresh = np.concatenate([old[~np.isin(old[:, 0], fresh[:, 0])], fresh])
            fresh = fresh[np.argsort(fresh[:, 0], kind="stable")]
            connection.execute(_CUT, {**mine, "first": first})
        else:
            first = connection.execute(_NEXT, mine).scalar_one()
        parts = [fresh[at:at + BLOCK] for at in range(0, len(fresh), BLOCK)]
        connection.execute(insert(blocks), [{"job_id": job_id, "series": series, **_block(number, part)} for number, part in enumerate(parts, first)])


def chart(store: Database, job_id: str, series: Iterable[str] = (), *, by: str = "epoch", points: int = 1000) -> dict[str, Any]:
    """{"columns": {"epoch": […], "step": […], name: […]}, "thinned": bool}; all series when none is named, None where a series has no value.

    `by` "epoch" takes the epoch events, "step" the curves. More than `points` rows are thinned to as many at most, as long as that is room for the
    first and the last row and the extremes of each series, which stay.
    """
    with store.read() as connection:
        rows = select(type_coerce(events.c.data, Text)).where(events.c.job_id == job_id, events.c.type == "epoch").order_by(events.c.seq)
        epochs: list[Any] = json.loads(f"[{','.join(connection.execute(rows).scalars())}]")       # at once: there may be very many
        if by == "epoch":
            return _by_epoch(epochs, list(series), points)
        names = list(series) or list(connection.execute(select(blocks.c.series).where(blocks.c.job_id == job_id).distinct()
                                                        .order_by(blocks.c.series)).scalars())
        share = points // max(1, len(names))        # each series keeps steps of its own
        curves = {name: _read(connection, job_id, name, points, share) for name in names}
    return _by_step(curves, np.array([row["step"] for row in epochs], float))


def _block(number: int, pairs: np.ndarray) -> dict[str, Any]:
    low, high = (pairs[index] for index in _extremes(pairs[None, :, 1:]).ravel())
    return {"number": number, "count": len(pairs), "first_step": float(pairs[0, 0]), "last_step": float(pairs[-1, 0]),
            "minimum": _or_none(low[1]), "minimum_step": float(low[0]), "maximum": _or_none(high[1]), "maximum_step": float(high[0]),
            "data": np.ascontiguousarray(pairs).tobytes()}


def _extremes(values: np.ndarray) -> np.ndarray:
    """Where the smallest and the largest value of each column are in each stretch, [stretches, rows, columns] to [stretches, 2, columns]. A NaN is
    the largest, so that charts show it."""
    unknown = np.isnan(values)
    low = np.where(unknown, np.inf, values).argmin(1)
    high = np.where(unknown.any(1), unknown.argmax(1), np.where(unknown, -np.inf, values).argmax(1))
    return np.stack([low, high], 1)


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _read(connection: Connection, job_id: str, series: str, points: int, share: int) -> tuple[np.ndarray, bool]:
    """(pairs, thinned): a series, of more than `points` pairs `share`; long ones come from the blocks' extremes alone."""
    mine = (blocks.c.job_id == job_id) & (blocks.c.series == series)
    kept = (blocks.c.count, blocks.c.minimum_step, blocks.c.minimum, blocks.c.maximum_step, blocks.c.maximum)
    summaries = connection.execute(select(*kept).where(mine).order_by(blocks.c.number)).all()
    if 2 * len(summaries) >= points:
        ends = np.array([pair for row in summaries for pair in sorted({(row[1], _or_nan(row[2])), (row[3], _or_nan(row[4]))})], float)
        return ends[thin(ends[:, 1:], share)], True
    data = b"".join(connection.execute(select(blocks.c.data).where(mine).order_by(blocks.c.number)).scalars())
    pairs = np.frombuffer(data).reshape(-1, 2)
    return (pairs, False) if len(pairs) <= points else (pairs[thin(pairs[:, 1:], share)], True)


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value


def thin(values: np.ndarray, points: int) -> np.ndarray:
    """Row numbers, rising, at most `points` where there is room: of each stretch of rows the smallest and largest of every column, and the first and
    last row."""
    rows, columns = values.shape
    if rows <= points:
        return np.arange(rows)
    count = max(1, (points - 2) // (2 * columns))
    size, longer = divmod(rows, count)      # the first stretches have one row more
    kept = [np.array([0, rows - 1])]
    for first, many, length in ((0, longer, size + 1), (longer * (size + 1), count - longer, size)):
        begins = first + length * np.arange(many)
        kept.append((begins[:, None, None] + _extremes(values[first:first + many * length].reshape(many, length, columns))).ravel())
    return np.unique(np.concatenate(kept))


def _by_epoch(epochs: list[dict[str, Any]], series: list[str], points: int) -> dict[str, Any]:
    names = [name for name in series or _numbers(epochs) if name not in ("epoch", "step")]
    columns = {name: [row.get(name) for row in epochs] for name in ("epoch", "step", *names)}
    thinned = len(epochs) > points and bool(names)
    if thinned:
        kept = thin(np.array([columns[name] for name in names], float).T, points)      # None is NaN
        columns = {name: [column[index] for index in kept] for name, column in columns.items()}
    return {"columns": columns, "thinned": thinned}


def _numbers(epochs: list[dict[str, Any]]) -> list[str]:
    """The names that have a number in some row."""
    found: dict[str, None] = {}
    for row in epochs:
        if not row.keys() <= found.keys():
            found.update(dict.fromkeys(name for name, value in row.items() if isinstance(value, int | float)))
    return list(found)


def _by_step(curves: dict[str, tuple[np.ndarray, bool]], epoch_ends: np.ndarray) -> dict[str, Any]:
    steps = np.unique(np.concatenate([pairs[:, 0] for pairs, _ in curves.values()])) if curves else np.empty(0)
    columns: dict[str, list[Any]] = {"epoch": (np.searchsorted(epoch_ends, steps) + 1).tolist(), "step": steps.astype(np.int64).tolist()}
    for name, (pairs, _) in curves.items():
        column: list[Any] = [None] * len(steps)
        for index, value in zip(np.searchsorted(steps, pairs[:, 0]), pairs[:, 1].tolist(), strict=True):
            column[index] = value
        columns[name] = column
    return {"columns": columns, "thinned": any(thinned for _, thinned in curves.values())}
