"""The windows of a job, cut into training, validation and test: rows are split first, and no window crosses from one part into another."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from engine.data import splits
from engine.data.characters import code_points
from engine.data.columns import check_names
from engine.data.fit import Notes
from engine.data.table import Table
from engine.data.target import present
from engine.data.windows import Line, Windows, last_places, line_of, starts, values_of
from engine.train.job_data import Data, Split
from engine.train.rows.parts import Part, Targets, ordered, other_tables, split_rows


def parts_of(data: Data, table: Table, tables: Mapping[str, Table], targets: Targets, seed: int, notes: Notes) -> dict[str, Part]:
    """The parts of a job's rows, or of its windows, once `check_others` and `check_windows` have found nothing wrong."""
    if data.windows is None:
        return split_rows(data, table, tables, targets, seed, notes)
    cut = _split_text(data, table) if table.kind == "text" else _split_table(data, table, targets, seed, notes)
    for name, other, pointer in other_tables(data, tables):
        if (other.kind == "text") != (table.kind == "text"):
            notes.problem(pointer, "not_text", "plain text is validated on plain text, a table on a table")
        else:
            for column in (data.windows.order, data.windows.group):
                check_names({pointer: column} if column else {}, list(other.columns), notes)
            cut[name] = window_part(data.windows, other, targets, data.weight, notes, pointer)
    there = f"the data set has {len(code_points(_text(table)))} characters" if table.kind == "text" else f"the data set has {table.rows} rows"
    return ordered(cut, data, f"{there}, a window with its target takes {data.windows.span}", notes)


def _text(table: Table):
    return next(iter(table.columns.values()))


def check_windows(data: Data, text: bool, notes: Notes) -> None:
    """Windows overlap, so rows cannot be taken out of their midst at random; a text has one order and no groups."""
    windows = data.windows
    if windows is None:
        return
    for place, split in (("validation", data.validation), ("test", data.test)):
        if split is not None and split.fraction is not None and (split.by == "random" or (text and split.by == "group")):
            better = '"by": "last"' if text else '"by": "last" or "group"'
            detail = f"windows cross no split, so a part is one stretch of rows: say {better}"
            notes.problem(f"/data/{place}/by", "overlapping_windows", detail, "last")
        if split is not None and split.stratify:
            notes.problem(f"/data/{place}/stratify", "overlapping_windows", "windows are split by time or by group, not by their labels")
    if text and data.weight is not None:
        notes.problem("/data/weight", "plain_text", "a text has no column of weights: leave 'weight' out")
    if text and data.inputs not in (None, ["*"], ["text"]):
        notes.problem("/data/inputs", "plain_text", "the input of a text is the text: leave 'inputs' out")
    if text and not isinstance(data.preprocess, str):
        notes.problem("/data/preprocess", "plain_text", "a text becomes character numbers: leave 'preprocess' out")
    for name in ("order", "group") if text else ():
        if getattr(windows, name) is not None:
            notes.problem(f"/data/windows/{name}", "plain_text", f"a text has its own order and no columns: leave {name!r} out")
    if text and windows.horizon != 1:
        notes.problem("/data/windows/horizon", "plain_text", "the target of a text is the text shifted by one: leave 'horizon' out")


# ---------------------------------------------------------------- text

def _split_text(data: Data, table: Table) -> dict[str, Part]:
    assert data.windows is not None
    total = end = len(code_points(_text(table)))
    cut = {}
    for name, split in (("test", data.test), ("valid", data.validation)):
        if split is not None and split.fraction is not None:
            begin = max(0, end - round(split.fraction * total))
            cut[name], end = Part(table, text_starts(begin, end, data.windows)), begin
    return {"train": Part(table, text_starts(0, end, data.windows)), **cut}


def text_starts(begin: int, end: int, windows: Windows) -> np.ndarray:
    """int64 [windows]: where the windows of a stretch of characters begin."""
    return np.arange(begin, max(begin, end - windows.length), windows.stride or windows.length, dtype=np.int64)


# ---------------------------------------------------------------- tables

def window_part(windows: Windows, table: Table, targets: Targets, weight: str | None, notes: Notes, pointer: str) -> Part:
    """All windows of one table."""
    if table.kind == "text":
        return Part(table, text_starts(0, len(code_points(_text(table))), windows))
    absent = [name for name in (*wanted(targets), *([weight] if weight else [])) if name not in table.columns]
    for name in absent:
        notes.problem(pointer, "missing_column", f"the data set has no column {name!r}, which is a target or the weight")
    if absent:
        return Part(table, np.zeros(0, np.int64))
    line = _line(table, windows, notes)
    return _part(table, line, np.ones(line.places, bool), windows, targets, weight)


def wanted(targets: Targets) -> list[str]:
    """The columns that targets are made of."""
    return [name for columns in targets.values() for name in columns if name != "@inputs"]


def _line(table: Table, windows: Windows, notes: Notes) -> Line:
    """The rows in order; those that have no place in it are left out with a warning."""
    there = present([table.columns[windows.order]]) if windows.order in table.columns else np.ones(table.rows, bool)
    if not there.all():
        notes.warn("/data/windows/order", "missing_order", f"{int(np.count_nonzero(~there))} of {table.rows} rows have no {windows.order!r} and are "
                                                           "left out")
    return line_of(table, windows, there)


def _split_table(data: Data, table: Table, targets: Targets, seed: int, notes: Notes) -> dict[str, Part]:
    windows = data.windows
    assert windows is not None
    line = _line(table, windows, notes)
    free, taken = np.ones(line.places, bool), {}
    for name, split in (("test", data.test), ("valid", data.validation)):
        if split is not None and split.fraction is not None:
            taken[name] = _take(split, table, line, free, seed, name)
            free = free & ~taken[name]
    return {name: _part(table, line, chosen, windows, targets, data.weight) for name, chosen in {"train": free, **taken}.items()}


def _take(split: Split, table: Table, line: Line, free: np.ndarray, seed: int, purpose: str) -> np.ndarray:
    """bool [places] of a part."""
    assert split.fraction is not None
    if split.by == "last":
        return last_places(line, free, split.fraction)
    places = np.flatnonzero(free)
    groups = values_of(table.columns[split.group or ""])[line.rows(places)]
    found = np.zeros(line.places, bool)
    found[splits.grouped(places, round(split.fraction * line.places), groups, seed, purpose)] = True
    return found


def _part(table: Table, line: Line, chosen: np.ndarray, windows: Windows, targets: Targets, weight: str | None) -> Part:
    names = [*wanted(targets), *([weight] if weight else [])]
    complete = line.at(present([table.columns[name] for name in names]) if names else np.ones(table.rows, bool))
    return Part(table, starts(line, chosen, windows, complete, bool(names)), line=line, inside=line.rows(np.flatnonzero(chosen)))
