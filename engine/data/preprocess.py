"""How a column becomes numbers: the kinds of preprocessing that a job may ask for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from engine.spec import Family, Spec

preprocessing = Family("preprocessing", {"normalise": "standardise", "normalize": "standardise", "z_score": "standardise", "drop": "ignore",
                                         "skip": "ignore", "date": "datetime", "passthrough": "none", "onehot": "one_hot", "dummy": "one_hot"})
Part = Literal["year", "month", "day", "weekday", "day_of_year", "hour", "minute"]
PARTS: tuple[Part, ...] = ("year", "month", "day", "weekday", "hour")


class Preprocess(Spec):
    """What every kind may say: `impute` fills missing values ("mean", "median", "most_frequent" or a value); `strip` is a set of characters cut
    from both ends of texts and labels; `channels` gives images [height, width] a last axis of length 1."""

    impute: str | float | bool | None = None
    strip: str = ""
    channels: Literal[1] | None = None


@preprocessing.add
class Auto(Preprocess):
    """What the column's kind asks for: numbers standardised, categories one-hot or embedded, numeric arrays as they are."""

    kind: Literal["auto"] = "auto"


@preprocessing.add
class Unchanged(Preprocess):
    """The numbers as they are."""

    kind: Literal["none"] = "none"


@preprocessing.add
class Standardise(Preprocess):
    """(x - mean) / standard deviation, both of the training rows."""

    kind: Literal["standardise"] = "standardise"
    aliases = ("standardize", "standard", "standard_scaler")


@preprocessing.add
class MinMax(Preprocess):
    """(x - min) / (max - min), both of the training rows."""

    kind: Literal["min_max"] = "min_max"
    aliases = ("minmax", "min_max_scaler")


@preprocessing.add
class Log(Preprocess):
    """log(1 + max(x, 0)), then standardised."""

    kind: Literal["log"] = "log"
    aliases = ("log1p",)


@preprocessing.add
class Scale(Preprocess):
    """x * by."""

    by: Annotated[float, Field(strict=True)]
    kind: Literal["scale"] = "scale"


@preprocessing.add
class OneHot(Preprocess):
    """One number for each class of the training rows: 1 at the row's class; all 0 where it is missing or unknown."""

    kind: Literal["one_hot"] = "one_hot"


@preprocessing.add
class Embedding(Preprocess):
    """A vector for each class, trained with the model as `columns.NAME.weight`; one more vector stands for missing and unknown.

    `units` is min(50, (classes + 1) // 2) where it is left out.
    """

    units: Annotated[int, Field(strict=True, ge=1)] | None = None
    kind: Literal["embedding"] = "embedding"


@preprocessing.add
class Datetime(Preprocess):
    """Parts of a date and time (UTC), each standardised."""

    parts: tuple[Part, ...] = PARTS
    kind: Literal["datetime"] = "datetime"


@preprocessing.add
class Ignore(Preprocess):
    """The column is left out."""

    kind: Literal["ignore"] = "ignore"


def _kind_where_absent(value: Any) -> Any:
    """`{"strip": "."}` alone keeps the automatic kind."""
    return {"kind": "auto", **value} if isinstance(value, Mapping) and "kind" not in value else value


AnyPreprocess = Annotated[preprocessing.union(), BeforeValidator(_kind_where_absent)]
