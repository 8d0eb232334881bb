"""Whole columns of texts at once, as Arrow arrays: they answer as `Guess` and `Reading` do value by value, many times faster.

Where a block has anything that Arrow reads otherwise than the careful reader, there is no answer here, and that one reads it. This module loads
pyarrow; only processes that read for a while import it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import csv

from engine.data.inference import MISSING, Guess, Reading
from service.datasets.draft import Writer

pc: Any = import_module("pyarrow.compute")     # its functions are made as it is loaded
LINE_FEED, RETURN, SPACE, QUOTE = b"\n\r \""


@cache
def missing() -> pa.Array:
    return pa.array(sorted(MISSING))


def plain(data: bytes, delimiter: bytes) -> bool:
    """Whether every quote opens a field, closes one or is doubled within one, and no text in quotes begins with a space: so two readers agree."""
    text = np.frombuffer(b"\n" + data + b"\n", np.uint8)
    quotes = np.flatnonzero(text == QUOTE)
    if len(quotes) % 2:
        return False
    opens, closes = quotes[::2], quotes[1::2]
    before, after, ends = text[opens - 1], text[closes + 1], (ord(delimiter), LINE_FEED, QUOTE)
    spaced = (text[opens + 1] == SPACE) & (before != QUOTE)
    return bool(np.isin(before, ends).all() and np.isin(after, (*ends, RETURN)).all() and not spaced.any())


def columns(data: bytes, width: int, delimiter: str, longest: int) -> list[pa.Array] | None:
    """The fields of whole rows of CSV (UTF-8), a column each; None where the careful reader is to read them."""
    if width < 2 or delimiter == " " or not data or b"\0" in data or (b"\r" in data and data.count(b"\r") != data.count(b"\r\n")):
        return None
    ends = np.flatnonzero(np.frombuffer(data, np.uint8) == 10)
    if int(np.diff(ends, prepend=-1, append=len(data)).max()) > longest:
        return None
    quoted = b'"' in data
    if quoted and not plain(data, delimiter.encode()):
        return None
    names = [str(i) for i in range(width)]
    try:
        table = csv.read_csv(pa.BufferReader(data), csv.ReadOptions(column_names=names, block_size=len(data) + 1, use_threads=False),
                             csv.ParseOptions(delimiter=delimiter, quote_char='"' if quoted else False, newlines_in_values=quoted),
                             csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string())))
    except (pa.ArrowInvalid, pa.ArrowKeyError):
        return None
    if not table.num_rows or (table.num_rows < len(ends) and longest_row(table) > longest):
        return None
    return [Texts.of(column) for column in table.columns]


def longest_row(table: pa.Table) -> int:
    """At least as many bytes as any row had in its file, with all its quotes."""
    fields = sum(pc.binary_length(column).to_numpy() for column in table.columns)
    return 2 * int(np.max(fields)) + 3 * table.num_columns + 2


class Texts:
    """A column of texts; nulls are missing. `cut`: spaces at their beginnings do not count."""

    def __init__(self, array: pa.Array, cut: bool):
        self.array, self.cut = array, cut

    @classmethod
    def of(cls, column: pa.ChunkedArray, cut: bool = True) -> Texts:
        whole = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
        return cls(whole, cut)

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, rows: slice) -> Texts:
        return Texts(self.array[rows], self.cut)

    def see(self, guess: Guess) -> None:
        """Let a guess look at these rows."""
        asks = guess.asks
        if asks == "numbers" and (found := self.numbers()) is not None:
            guess.see_numbers(found, len(self))
        elif asks == "nothing" or (asks == "dates" and self.seconds() is not None):
            guess.rows += len(self)
        else:
            distinct = pc.unique(self.array)
            guess.see(strings(distinct), len(self), lambda place: pc.index(self.array, distinct[place]).as_py())

    def append(self, writer: Writer, reading: Reading) -> None:
        """Write these rows. Raises BadCell as Reading does."""
        if reading.kind == "text":
            writer.append_text(*self.lines())
        elif reading.classes is not None:
            coded = self.array.dictionary_encode()
            codes = reading.encode([*strings(coded.dictionary), ""])
            writer.append(codes[pc.fill_null(coded.indices, len(codes) - 1).to_numpy(zero_copy_only=False)])
        else:
            found = self.numbers() if reading.kind == "number" else self.seconds()
            if found is None:
                found = reading.encode(strings(self.array))
            found = np.where(np.isinf(found), np.nan, found)
            writer.append(found)

    def numbers(self) -> np.ndarray | None:
        """float64 [rows], NaN where missing; None where a text may be no number."""
        try:
            found = pc.cast(self.array, pa.float64())
        except pa.ArrowInvalid:
            try:
                found = pc.cast(self._known(), pa.float64())
            except pa.ArrowInvalid:
                return None
        return pc.fill_null(found, np.nan).to_numpy(zero_copy_only=False)

    def seconds(self) -> np.ndarray | None:
        """Seconds since 1970 UTC, float64 [rows], NaN where missing; None where a text may be no date."""
        known = self._known()
        for kind in (pa.timestamp("us"), pa.timestamp("us", "UTC")):
            try:
                found = pc.cast(known, kind)
            except pa.ArrowInvalid:
                continue
            absent = found.is_null().to_numpy(zero_copy_only=False)
            whole = pc.fill_null(pc.cast(found, pa.int64()), 0).to_numpy(zero_copy_only=False) / 1e6
            if len(whole) and whole.min() < -62_135_596_800:       # the year 0
                return None
            return np.where(absent, np.nan, whole)
        return None

    def _known(self) -> pa.Array:
        """The texts without spaces around them, null where they mean missing."""
        bare = pc.utf8_trim_whitespace(self.array)
        return pc.if_else(pc.is_in(bare, missing()), pa.scalar(None, bare.type), bare)

    def lines(self) -> tuple[bytes, np.ndarray]:
        """The UTF-8 bytes as columns of text hold them, each ending in a line feed, a missing one empty; and where each ends."""
        texts = pc.utf8_ltrim(self.array, " ") if self.cut else self.array
        absent = pc.or_kleene(pc.is_in(texts, missing()), texts.is_null())
        texts = pc.fill_null(pc.cast(texts, pa.large_string()), "")
        nothing, end = pa.scalar("", texts.type), pa.scalar("\n", texts.type)
        texts = pc.if_else(absent, nothing, pc.binary_join_element_wise(texts, nothing, end))
        ends = np.frombuffer(texts.buffers()[1], np.int64)[texts.offset:texts.offset + len(texts) + 1]
        content = texts.buffers()[2]
        return (content[int(ends[0]):int(ends[-1])].to_pybytes() if content is not None else b""), ends[1:] - ends[0]


def strings(array: pa.Array) -> Sequence[str]:
    """Python's texts, "" for null."""
    return ["" if value is None else value for value in array.to_pylist()]
