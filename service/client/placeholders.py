"""Job files that leave data sets open: `"dataset": "$train"` is filled in when the job is submitted."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

OPEN = re.compile(r"\$([A-Za-z_][A-Za-z0-9_-]*)")
PLACES = ("data", "dataset", "validation", "test", "also")      # where a job names data sets


def names(spec: Mapping[str, Any]) -> list[str]:
    """The data sets that a job leaves open, in the order in which it names them."""
    found: dict[str, None] = {}
    _replaced(spec, lambda name: found.setdefault(name) or "")
    return list(found)


def check(spec: Mapping[str, Any], given: Iterable[str]) -> None:
    """Raises ValueError where a data set is left open, or given and not asked for."""
    wanted, given = names(spec), list(given)
    if missing := [name for name in wanted if name not in given]:
        needs = ", ".join(f"--data {name}=FILE" for name in missing)
        raise ValueError(f"the job leaves the data set ${missing[0]} open: name its file ({needs}, or {missing[0]}.COLUMN=FILE for each array file)")
    if unknown := [name for name in given if name not in wanted]:
        there = f"it leaves open {', '.join('$' + name for name in wanted)}" if wanted else "it leaves none open"
        raise ValueError(f"the job has no data set ${unknown[0]}: {there}")


def filled(spec: Mapping[str, Any], ids: Mapping[str, str]) -> dict[str, Any]:
    """The job with ids where it says "$NAME"."""
    return _replaced(spec, ids.__getitem__)


def _replaced(value: Any, by: Callable[[str], str], place: str = "") -> Any:
    if isinstance(value, str) and place:
        found = OPEN.fullmatch(value)
        return by(found[1]) if found else value
    if not isinstance(value, Mapping):
        return value
    return {name: _replaced(inner, by, name) if name in PLACES or place == "also" else inner for name, inner in value.items()}
