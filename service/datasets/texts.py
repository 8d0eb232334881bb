"""Tables written as texts, whatever the format: the first pass guesses each column's kind from every row, the second writes the columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import BinaryIO, NamedTuple, Protocol

from engine.data.inference import MAX_CLASSES, BadCell, Guess, Kind, Reading
from service.datasets.draft import Draft, Writer
from service.datasets.limits import DatasetError

BLOCK = 1 << 16       # characters of a file looked at together: more leaves the processor's cache (1 << 21 took 2.5 times as long)
WIDE = 1 << 8         # and as many more for each column, whose files are opened for each block
DISTINCT = 4_000_000  # different values remembered, over all columns

Open = Callable[[], BinaryIO]
Warnings = list[dict[str, str]]


class Texts(Protocol):
    """Some rows of a column."""

    def __len__(self) -> int: ...
    def see(self, guess: Guess) -> None: ...
    def append(self, writer: Writer, reading: Reading) -> None: ...


class Plain(tuple[str, ...]):
    """Texts of Python, read one by one; `quick.Texts` are the fast ones."""

    def see(self, guess: Guess) -> None:
        guess.see(self)

    def append(self, writer: Writer, reading: Reading) -> None:
        if reading.kind == "text":
            writer.append_texts(self)
        else:
            writer.append(reading.encode(self))


class Block(NamedTuple):
    """Some rows of a table, as columns of texts."""

    first: int                    # row of the first one
    line: Callable[[int], int]    # of the file, where the row at a place of the block ends
    columns: Sequence[Texts]


def block_size(columns: int) -> int:
    return BLOCK + WIDE * columns


Blocks = Callable[[], Iterator[Block]]


def write(draft: Draft, names: Sequence[str], types: Mapping[str, Kind], blocks: Blocks) -> Warnings:
    """Write a table into a draft; returns the warnings. DatasetErrors name the line, the column and the value."""
    guesses = guess(names, types, blocks())
    readings = []
    for name, found in zip(names, guesses, strict=True):
        try:
            readings.append(found.reading())
        except BadCell as bad:
            raise DatasetError(f"not_a_{found.kind}", f"column {name!r}, row {bad.index}: {bad}", row=bad.index, column=name) from None
    writers = [draft.column(name, reading.kind, reading.dtype, classes=reading.classes) for name, reading in zip(names, readings, strict=True)]
    for block in blocks():
        wrong: list[tuple[BadCell, str, Kind]] = []
        for name, reading, writer, values in zip(names, readings, writers, block.columns, strict=True):
            try:
                values.append(writer, reading)
            except BadCell as bad:
                wrong.append((bad, name, reading.kind))
        if wrong:       # the first one of the file is told of, wherever blocks end
            raise bad_cell(block, *min(wrong, key=lambda found: found[0].index))
    return [{"code": code, "column": name, "detail": detail} for name, found in zip(names, guesses, strict=True) for code, detail in found.warnings()]


def bad_cell(block: Block, bad: BadCell, name: str, kind: Kind) -> DatasetError:
    row, line = block.first + bad.index, block.line(bad.index)
    detail = f"line {line} (row {row}), column {name!r}: {bad}; mend it, leave it empty if it is missing, or give the column another type"
    return DatasetError(f"not_a_{kind}", detail, row=row, line=line, column=name)


def guess(names: Sequence[str], types: Mapping[str, Kind], blocks: Iterator[Block]) -> list[Guess]:
    most = min(MAX_CLASSES, max(64, DISTINCT // len(names)))
    guesses = [Guess(types.get(name), most) for name in names]
    for block in blocks:
        for found, values in zip(guesses, block.columns, strict=True):
            values.see(found)
    if not guesses[0].rows:
        raise DatasetError("no_rows", "the file has a header and no rows; say header=false if its first row is data")
    return guesses


def check_width(width: int, most: int) -> None:
    if width > most:
        raise DatasetError("too_many_columns", f"{width:,} columns are more than {most:,}: send arrays (.npy, .npz) instead")
