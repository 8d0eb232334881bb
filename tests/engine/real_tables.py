"""Real data for tests, as tables."""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path

import pytest

from engine.data.table import Table

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "data"


@cache
def real_table(name: str, header: bool = True, rows: int | None = None) -> Table:
    """A CSV file of the shared data, or its first rows; the test is skipped where the file is not there."""
    path = FOLDER / name
    if not path.exists():
        pytest.skip(f"the data file {name} is not here")
    with path.open(newline="") as file:
        lines = [line for line in csv.reader(file, skipinitialspace=True) if line][: None if rows is None else rows + header]
    names = lines.pop(0) if header else [f"c{i}" for i in range(len(lines[0]))]
    return Table.from_rows([dict(zip(names, line, strict=True)) for line in lines])
