"""Job files that leave data sets open: `"dataset": "$train"` is filled in when the job is submitted."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

OPEN = re.compile(r"\$([A-Za-z_][A-Za-z0-9_-]*)")


def names(spec: Mapping[str, Any]) -> list[str]:
    """The data sets that a job leaves open, in the order in which it names them."""
    return list(dict.fromkeys(_names(spec.get("data"))))


def _names(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield from (found[1] for found in [OPEN.fullmatch(value)] if found)
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _names(inner)


def check(spec: Mapping[str, Any], given: Iterable[str]) -> None:
    """Raises ValueError where a data set is left open, or given and not asked for."""
    wanted, given = names(spec), list(given)
    if missing := [name for name in wanted if name not in given]:
        needs = ", ".join(f"--data {name}=FILE" for name in missing)
        raise ValueError(f"the job leaves the data set ${missing[0]} open: name its file ({needs}, or {missing[0]}.COLUMN=FILE for each array file)")
    if unknown := [name for name in given if name not in wanted]:
        there = f"it leaves open {', '.join('$' + name for name in wanted)}" if wanted else "it leaves none open"
        raise ValueError(f"the job has no data set ${unknown[0]}: {there}")


def filled(value: Any, ids: Mapping[str, str]) -> Any:
    """The job with ids where it says "$NAME"."""
    if not ids:
        return value
    return {**value, "data": _filled(value.get("data"), ids)}


def _filled(value: Any, ids: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        found = OPEN.fullmatch(value)
        return ids[found[1]] if found else value
    return {name: _filled(inner, ids) for name, inner in value.items()} if isinstance(value, Mapping) else value
