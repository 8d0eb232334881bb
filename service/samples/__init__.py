"""Data sets that ship with the service: `"sample:digits"` in a job. Each is a folder here, with its README (source and licence)."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any

import numpy as np

from engine.data.table import Table
from engine.errors import nearest
from service.datasets.limits import DatasetError

SAMPLES = {
    "digits": {
        "description": "1,797 handwritten digits as 8 x 8 grey values from 0 to 1 (`pixels` [64]), and which digit each is (`label`).",
        "licence": "CC BY 4.0",
        "source": "https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits",
    }
}


@cache
def open_sample(name: str) -> Table:
    """The table of a sample, by its name without `sample:`. DatasetError `unknown_sample` when there is none."""
    if name not in SAMPLES:
        detail = f"no sample is called {name[:80]!r}; there are {', '.join(SAMPLES)}"
        raise DatasetError("unknown_sample", detail, suggestion=nearest(name, SAMPLES))
    with resources.files(__name__).joinpath(name, f"{name}.npz").open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        return Table.from_columns({column: arrays[column] for column in arrays.files})


def samples() -> list[dict[str, Any]]:
    """The catalogue: what each sample is, where it comes from, and its columns."""
    found = []
    for name, about in SAMPLES.items():
        table = open_sample(name)
        columns = [column.summary() for column in table.columns.values()]
        found.append({"kind": name, "aliases": [], "dataset": f"sample:{name}", **about, "rows": table.rows, "columns": columns})
    return found
