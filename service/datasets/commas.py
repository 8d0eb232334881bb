"""Numbers as half of the world writes them, 1.234,5: read where commas do not part the columns and a column has nothing else."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from engine.data.inference import MISSING, Kind

NUMBER = re.compile(r"[+-]?(\d+|\d{1,3}(\.\d{3})+)(,\d+)?")


def pointed(text: str) -> str:
    """The number with a decimal point; any other text as it is."""
    return text.replace(".", "").replace(",", ".") if NUMBER.fullmatch(text.strip()) else text


def all_decimal(rows: Sequence[Sequence[str]]) -> bool:
    """Whether commas are in these rows, and in numbers only."""
    values = [value.strip() for row in rows for value in row if "," in value]
    return bool(values) and all(map(NUMBER.fullmatch, values))


def with_commas(rows: Sequence[Sequence[str]], names: Sequence[str], types: Mapping[str, Kind]) -> frozenset[int]:
    """The columns that have only such numbers, and a comma in one of them, where nobody said that they are anything else."""
    found = set()
    for i, name in enumerate(names):
        values = {row[i].strip() for row in rows if i < len(row)} - MISSING
        if types.get(name, "number") == "number" and any("," in value for value in values) and all(map(NUMBER.fullmatch, values)):
            found.add(i)
    return frozenset(found)


def told(names: Sequence[str], columns: frozenset[int]) -> list[dict[str, str]]:
    return [{"code": "decimal_comma", "column": names[i], "detail": "these are numbers with a decimal comma: 1,5 was read as 1.5; say "
             f"types={names[i]}:category to keep them as texts"} for i in sorted(columns)]
