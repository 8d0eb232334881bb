"""Which columns of a table are the inputs: names and patterns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

from engine.data.fit import Notes
from engine.errors import nearest


def check_names(names: Mapping[str, str], known: Sequence[str], notes: Notes) -> None:
    """Each of `names` (by pointer) must be a column."""
    for pointer, name in names.items():
        if name not in known:
            notes.problem(pointer, "unknown_column", f"the data set has no column {name!r}; it has {listed(known)}", nearest(name, known))


def listed(names: Sequence[str]) -> str:
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")


def select(patterns: Sequence[str] | None, known: Sequence[str], reserved: Iterable[str], pointer: str, notes: Notes, *,
           past: bool = False) -> list[str]:
    """The columns that patterns choose, in the order they are named; `*` chooses in table order and never a reserved column (target, weight, group).

    A pattern `!name` takes columns away. None, or exclusions alone, choose every column that is not reserved. With `past` inputs are rows before the
    target's, so that a target may be one.
    """
    reserved = set(reserved)
    patterns = list(patterns or ["*"])
    if all(pattern.startswith("!") for pattern in patterns):
        patterns = ["*", *patterns]
    chosen: dict[str, None] = {}
    for place, pattern in enumerate(patterns):
        bare, adds = pattern.removeprefix("!"), not pattern.startswith("!")
        found = [bare] if bare in known else [name for name in known if fnmatchcase(name, bare) and not (adds and name in reserved)]
        if not found and not any(c in bare for c in "*?["):
            check_names({f"{pointer}/{place}": bare}, known, notes)
        for name in found:
            if adds:
                chosen[name] = None
            else:
                chosen.pop(name, None)
    for name in [name for name in chosen if name in reserved and not past]:
        notes.warn(pointer, "target_in_inputs", f"column {name!r} is an input although it is the target, weight or group")
    return list(chosen)
