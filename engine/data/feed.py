"""How a batch is filled: one feed copies one column of the data into part of one batch leaf, row by row, transforming on the way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np


@dataclass(frozen=True, eq=False)
class Span:
    """The rows of one window: `steps` of them, from `ahead` places behind its first; `order` are the rows by place, None for as they stand."""

    ahead: int
    steps: int
    order: np.ndarray | None = None     # int64

    def rows(self, starts: np.ndarray) -> np.ndarray:
        """int64 [windows * steps]: the rows of windows that begin at these places."""
        places = (starts[:, None] + (self.ahead + np.arange(self.steps))).ravel()
        return places if self.order is None else self.order[places]


@dataclass(frozen=True, eq=False)
class Feed:
    """Copy `source[row]` into `target[position, offset : offset + width]` for each row of the batch.

    target  name of the batch leaf; its rows are `stride` elements apart (the whole leaf's row, for concatenated columns)
    source  array, rows first, C-contiguous: float32, float64, int32, int64 or uint8; never copied, so a memory map serves
    kind    number     (x - shift) * scale, a missing value (NaN, or the integer `missing`) first replaced by `fill` ([width] arrays or scalars)
            indicator  1.0 where the value is missing, else 0.0
            code       int32: lookup[x - base] where there is a lookup, checked to lie in [0, classes); a missing or unknown value becomes `unknown`
            one_hot    `classes` floats: 1.0 at the code, all 0.0 where missing or unknown
            log        log1p(max(x, 0)) after fill, then shift and scale
    span    in windows: the rows that are copied for each position of the batch, side by side; `stride` is then that of one of them
    """

    target: str
    source: np.ndarray
    kind: Literal["number", "indicator", "code", "one_hot", "log"] = "number"
    offset: int = 0
    stride: int = 0
    width: int = 1
    shift: float | np.ndarray = 0.0
    scale: float | np.ndarray = 1.0
    fill: float | np.ndarray = np.nan
    missing: int | None = None
    lookup: np.ndarray | None = None      # int32
    base: int = 0
    classes: int = 0
    unknown: int = -1
    span: Span | None = None
