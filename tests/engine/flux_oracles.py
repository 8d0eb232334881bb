"""Flux's own numbers: how to read them, what runs them, and which do not apply.

The file keeps Julia's layout: nested lists are rows of a matrix whose last axis is the batch; arrays of more axes are in column-major order.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ENTRIES: list[dict[str, Any]] = json.loads((Path(__file__).parent / "oracles" / "flux_numeric.json").read_text())
SPECIAL = {"NaN": np.nan, "Inf": np.inf, "-Inf": -np.inf}
RUNNERS: list[tuple[str, str, Callable[..., Any]]] = []

NOT_RUN = {
    "optim|Float16": "the engine computes in float32 and float64",
    "schedules|Sin": "no schedule swings along a sine: Triangle does along lines, CosineAnneal along a cosine",
    "data|timeseries_kfolds": "no folds that grow: data in time are split once, the last rows validate",
}
"""Entries without a runner, by the beginning of their name, and why."""


def runs(area: str, *beginnings: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The function gives our value for the entries of an area whose names begin so, from `(name, inputs)`."""
    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        RUNNERS.extend((area, beginning, function) for beginning in beginnings or ("",))
        return function

    return add


def runner(entry: dict[str, Any]) -> Callable[..., Any] | None:
    """The function for an entry: that of the longest beginning."""
    found = [(len(start), f) for area, start, f in RUNNERS if area == entry["area"] and entry["name"].startswith(start)]
    return max(found, key=lambda pair: pair[0])[1] if found else None


def reason(entry: dict[str, Any]) -> str | None:
    """Why an entry is not run, or None."""
    known = [(len(start), why) for start, why in NOT_RUN.items() if f"{entry['area']}|{entry['name']}".startswith(start)]
    return max(known)[1] if known else None


def array(value: Any) -> np.ndarray:
    """A value of the file as an array, in Julia's axes."""
    if isinstance(value, dict) and "data_colmajor" in value:
        return np.array(value["data_colmajor"], np.float64).reshape(value["shape"], order="F")
    return np.array(_numbers(value), np.float64)


def _numbers(value: Any) -> Any:
    return [_numbers(v) for v in value] if isinstance(value, list) else SPECIAL.get(value, value) if isinstance(value, str) else value


def word(name: str) -> str:
    return re.match(r"[A-Za-z_0-9]+", name).group()  # type: ignore[union-attr]


def agrees(found: Any, expected: Any, tolerance: dict[str, float]) -> bool:
    """Whether our value is the file's, within its tolerance; trees entry by entry."""
    if isinstance(expected, dict) and "data_colmajor" not in expected:
        return set(found) == set(expected) and all(agrees(found[k], expected[k], tolerance) for k in expected)
    if isinstance(expected, str | bool):
        return found == expected
    if isinstance(expected, list) and any(isinstance(e, list) for e in expected) and not _rectangular(expected):
        return len(found) == len(expected) and all(agrees(f, e, tolerance) for f, e in zip(found, expected, strict=True))
    found, wanted = np.asarray(found, np.float64), array(expected)
    return found.shape == wanted.shape and np.allclose(found, wanted, rtol=tolerance["rtol"] or 1e-12, atol=tolerance["atol"], equal_nan=True)


def _rectangular(value: Any) -> bool:
    try:
        np.array(value, np.float64)
    except ValueError:
        return False
    return True
