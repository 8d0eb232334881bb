"""What a new data set is like: a summary of each column, and warnings of what is better known before training.

The columns are read from their files once, some rows at a time, so memory stays small whatever their size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from engine.data.summary import MOST_DISTINCT, Distinct, Summary, hashes, joined, text_hashes

BLOCK_BYTES = 1 << 23       # read together, over all columns
MOST_VALUES = 1 << 22       # hashes remembered, over all columns
COMPARED_COLUMNS = 1000     # rows of more columns are not compared with each other
FEW_ROWS = 20               # of so few rows nothing is said but that they are all the same
MANY_MISSING = 0.5
NEAR_UNIQUE = 0.95
REPEATED = 0.01
LONGEST_KEY = 64            # characters on average: longer texts are prose
Found = dict[str, Any]


def profile(folder: Path, about: Mapping[str, Any]) -> tuple[list[Found], list[dict[str, str]]]:
    """(summaries of the columns, warnings) of the data set that `about` (its table.json) describes."""
    columns = [Stored(folder, place, column) for place, column in enumerate(about["columns"])]
    rows, compared = about["rows"], len(columns) <= COMPARED_COLUMNS and about["kind"] != "text"
    most = min(MOST_DISTINCT, max(1024, MOST_VALUES // max(1, len(columns))))
    summaries = [column.summary(most) for column in columns]
    whole = Distinct()
    together = BLOCK_BYTES * min(8, 1 + len(columns) // 250)      # files are opened for each block
    step = max(1, together // max(1, sum(column.width for column in columns)))
    for start in range(0, rows, step):
        parts = [column.look(start, min(step, rows - start), summary, compared) for column, summary in zip(columns, summaries, strict=True)]
        if compared:
            whole.see(joined([part for part in parts if part is not None]))
    found = [summary.about() for summary in summaries]
    noticed = [warning for column, summary, shown in zip(columns, summaries, found, strict=True) for warning in warnings(column, summary, shown)]
    if compared and rows >= FEW_ROWS and whole.repeated >= REPEATED:
        count = f"{round(whole.repeated * rows):,}" if whole.exact else f"about {round(whole.repeated * rows):,}"
        noticed.append({"code": "duplicate_rows", "detail": f"{count} of {rows:,} rows ({whole.repeated:.1%}) are equal to an earlier row"})
    return found, noticed


class Stored:
    """A column in its files."""

    def __init__(self, folder: Path, place: int, about: Mapping[str, Any]):
        self.bin, self.content, self.about = folder / f"{place}.bin", folder / f"{place}.text", about
        self.text = about["kind"] == "text"
        self.dtype, self.shape = np.dtype(about["dtype"]), tuple(about["shape"])
        self.numbers = int(np.prod(self.shape, dtype=object))
        self.width = self.dtype.itemsize * self.numbers + (64 if self.text else 0)
        self.characters = 0

    def summary(self, most: int) -> Summary:
        about = self.about
        return Summary(about["name"], about["kind"], "utf8" if self.text else about["dtype"], self.shape, about.get("classes"), most)

    def read(self, start: int, rows: int) -> np.ndarray:
        found = np.fromfile(self.bin, self.dtype, (rows + self.text) * self.numbers, offset=start * self.numbers * self.dtype.itemsize)
        return found.reshape(rows + self.text, *self.shape)

    def look(self, start: int, rows: int, summary: Summary, compared: bool) -> np.ndarray | None:
        """Show these rows to the summary; their hashes, where rows are compared."""
        if not self.text:
            block = self.read(start, rows)
            coded = summary.classes is not None or (not compared and summary.distinct is None)
            found = hashes(block) if not coded or compared else None
            summary.see(block, found)
            return found
        parts = []
        for offsets, content in self.texts(start, rows):
            parts.append(text_hashes(offsets, content) if compared else np.zeros(len(offsets) - 1, np.uint64))
            summary.see(np.diff(offsets), parts[-1] if compared else None)
            self.characters += int(offsets[-1])
        return np.concatenate(parts)

    def texts(self, start: int, rows: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(offsets from 0, bytes) of these rows, not too many bytes at a time."""
        offsets = self.read(start, rows)
        first = 0
        while first < rows:
            last = max(first + 1, int(np.searchsorted(offsets, offsets[first] + BLOCK_BYTES, "right")) - 1)
            size = int(offsets[last] - offsets[first])
            yield offsets[first:last + 1] - offsets[first], np.fromfile(self.content, np.uint8, size, offset=int(offsets[first])) if size else (
                np.zeros(0, np.uint8))
            first = last


def warnings(column: Stored, summary: Summary, shown: Found) -> list[dict[str, str]]:
    """What a reader of one column should know."""
    rows, missing = summary.rows, shown["missing"]
    found = []
    if constant(summary, shown) and rows > 1:
        found.append(("constant", "every row that has a value has the same one" if missing else "every row has the same value"))
    if rows < FEW_ROWS:
        return [{"code": code, "column": shown["name"], "detail": detail} for code, detail in found]
    absent = missing if column.shape == () else missing / column.numbers
    if MANY_MISSING * rows < absent < rows:
        found.append(("many_missing", f"{absent / rows:.0%} of the rows have no value"))
    if reason := key_like(column, summary, rows - missing):
        found.append(("near_unique", f"{reason}: it looks like an id, from which nothing general can be learnt"))
    return [{"code": code, "column": shown["name"], "detail": detail} for code, detail in found]


def constant(summary: Summary, shown: Found) -> bool:
    """Whether all values are the same."""
    if summary.about_it["kind"] == "text":
        return summary.distinct is not None and summary.distinct.exact and summary.distinct.count == 1
    return shown["unique"] == 1 if "unique" in shown else summary.count > 0 and summary.low == summary.high


def key_like(column: Stored, summary: Summary, present: int) -> str | None:
    """Why a column seems to number or name its rows; None where it does not."""
    distinct = summary.distinct
    if distinct is None or present < FEW_ROWS or distinct.count < NEAR_UNIQUE * present:
        return None
    if column.text:
        short = column.characters <= (LONGEST_KEY + 1) * present and distinct.repeated <= 1 - NEAR_UNIQUE
        return f"nearly every row has a text of its own ({distinct.count:,} in {present:,} rows)" if short else None
    if summary.about_it["kind"] != "number" or column.about["array"] or not summary.whole or distinct.repeated > 1 - NEAR_UNIQUE:
        return None
    dense = summary.high - summary.low < 2 * present
    return f"nearly every row has a whole number of its own ({distinct.count:,} in {present:,} rows)" if summary.rising or dense else None
