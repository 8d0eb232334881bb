"""Why a job document cannot be accepted: its fields, and the columns that it names, told together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from engine.data.columns import select
from engine.data.fit import Notes
from engine.data.table import Table
from engine.errors import Problem, SpecError
from engine.spec import problems
from engine.train.job_data import Data
from engine.train.rows.parts import target_columns
from engine.train.rows.prepare import check_columns, main_table, reserved


def references(raw: Any) -> list[str]:
    """The data sets that a document names, whatever else may be wrong with it."""
    data = raw.get("data") if isinstance(raw, Mapping) else None
    if not isinstance(data, Mapping):
        return []
    parts = [data.get(name) for name in ("validation", "test")]
    also = [part.get("also") for part in parts if isinstance(part, Mapping)]
    found = [data.get("dataset"), *(part.get("dataset") if isinstance(part, Mapping) else part for part in parts),
             *(dataset for group in also if isinstance(group, Mapping) for dataset in group.values())]
    return list(dict.fromkeys(name for name in found if isinstance(name, str)))


def refusal(error: ValidationError, raw: Any, tables: Mapping[str, Table]) -> list[Problem]:
    """Every wrong field, and where the `data` can be read by itself, every column that its table does not have."""
    found = problems(error, raw)
    try:
        data = Data.model_validate(raw.get("data") if isinstance(raw, Mapping) else None)
    except ValidationError:
        return found
    notes = Notes()
    try:
        table = main_table(data, tables, notes)
        check_columns(data, table, target_columns(data), notes)
        named = data.inputs if isinstance(data.inputs, Mapping) else {"": data.inputs}
        for name, patterns in named.items():
            select(patterns, list(table.columns), reserved(data), f"/data/inputs/{name}".rstrip("/"), notes)
    except SpecError as wrong:
        return found + wrong.problems
    return found + notes.problems
