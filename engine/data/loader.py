"""Batches of arrays, in the order a job would take them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from engine.data.permutation import draws, permutation
from engine.errors import ShapeError, shown


class DataLoader:
    """Batches of data that share their first axis: an array gives arrays, a tuple or list gives tuples, a dict gives dicts.

    batch_size   rows in a batch, or "full"; more than there are rows becomes the rows, with a warning
    shuffle      every pass over the loader takes a new order
    partial      keep the smaller last batch
    replacement  draw each row from all rows, as many as there are: some come twice, others not
    seed         orders are functions of (seed, epoch); `epoch` counts passes from 0 and may be set, to go on where a run stopped

    >>> [len(x) for x, y in DataLoader((range(5), range(5)), batch_size=2)]
    [2, 2, 1]
    """

    def __init__(self, data: Any, batch_size: int | Literal["full"] = 1, shuffle: bool = False, partial: bool = True, *,
                 replacement: bool = False, seed: int = 0):
        self.data = data = arrays(data)
        self.rows = rows_of(data)
        whole = isinstance(batch_size, int | np.integer) and not isinstance(batch_size, bool) and batch_size >= 1
        if not whole and not (isinstance(batch_size, str) and batch_size == "full"):
            several = isinstance(batch_size, np.ndarray | list | tuple)
            hint = "; arrays of one dataset go together: DataLoader((x, y), batch_size=32)" if several else ""
            raise ValueError(f"batch_size is a whole number from 1, or 'full'; found {shown(batch_size)}{hint}")
        if batch_size != "full" and batch_size > max(self.rows, 1):
            warnings.warn(f"batch_size {batch_size} is more than the {self.rows} rows there are: one batch has them all", stacklevel=2)
            batch_size = "full"
        self.batch_size = max(self.rows, 1) if batch_size == "full" else int(batch_size)
        self.shuffle, self.partial, self.replacement, self.seed = shuffle, partial, replacement, seed
        self.epoch = 0

    def __len__(self) -> int:
        """How many batches a pass has."""
        return -(-self.rows // self.batch_size) if self.partial else self.rows // self.batch_size

    def __iter__(self) -> Iterator[Any]:
        epoch, self.epoch = self.epoch, self.epoch + 1
        order = self.order(epoch)
        for batch in range(len(self)):
            part = slice(batch * self.batch_size, (batch + 1) * self.batch_size)
            yield take(self.data, part if order is None else order[part])

    def order(self, epoch: int) -> np.ndarray | None:
        """int64 [rows]: which rows a pass takes one after the other; None for all in the order they have."""
        if self.replacement:
            return draws(self.rows, self.rows, self.seed, epoch)
        return permutation(self.rows, self.seed, epoch) if self.shuffle else None

    def __repr__(self) -> str:
        return f"DataLoader({self.rows} rows, {len(self)} batches of {self.batch_size})"


def arrays(data: Any) -> Any:
    """Data as arrays: an array, a tuple of arrays, or a dict of arrays."""
    if isinstance(data, Mapping):
        return {name: np.asarray(value) for name, value in data.items()}
    if isinstance(data, tuple) or (isinstance(data, list) and any(isinstance(value, np.ndarray) and value.ndim for value in data)):
        return tuple(np.asarray(value) for value in data)
    return np.asarray(data)


def rows_of(data: Any) -> int:
    """The length of the first axis that all arrays share. Raises ShapeError."""
    named = data if isinstance(data, Mapping) else dict(enumerate(data)) if isinstance(data, tuple) else {0: data}
    single = [value for value in named.values() if np.ndim(value) == 0]
    if single or not named:
        found = shown(np.asarray(single[0]).item()) if single else "none"
        raise ShapeError(f"data need at least one array, with rows along its first axis; found {found}")
    lengths = {name: len(value) for name, value in named.items()}
    if len(set(lengths.values())) > 1:
        raise ShapeError(f"arrays of one dataset have equally many rows, found {', '.join(f'{name}: {n}' for name, n in lengths.items())}")
    return next(iter(lengths.values()))


def take(data: Any, rows: slice | Sequence[int] | np.ndarray) -> Any:
    """The same kind of data with these rows; a slice gives views."""
    if isinstance(data, Mapping):
        return {name: value[rows] for name, value in data.items()}
    return tuple(value[rows] for value in data) if isinstance(data, tuple) else data[rows]
