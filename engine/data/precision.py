"""Whether numbers lose what tells them apart when they become the job's number type."""

from __future__ import annotations

import numpy as np

from engine.data.table import Column

LOOKED_AT = 1 << 16     # numbers of a column
SHARE = 0.01            # of different numbers that may become equal: so many do by chance


def loses(column: Column, dtype: str) -> str | None:
    """What is lost of an array that reaches the model as given, in words; None where it is only rounded."""
    data = column.data.reshape(-1)[:LOOKED_AT]
    if data.dtype.name == dtype or data.dtype == np.uint8 or dtype == "float64":
        return None
    values = np.unique(data[np.isfinite(data)])
    with np.errstate(over="ignore"):
        kept = np.unique(values.astype(dtype))
    if not np.isfinite(kept).all():
        return f"has numbers beyond those of {dtype}, which become infinite"
    lost = len(values) - len(kept)
    return f"is {data.dtype.name}, and {lost} of {len(values)} different numbers become equal in {dtype}" if lost > SHARE * len(values) else None
