"""The `data` of a job: which columns, how they become numbers, batches and splits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, StringConstraints, Tag, ValidationInfo, field_validator, model_validator

from engine.data.augment import AnyAugmentation
from engine.data.preprocess import AnyPreprocess
from engine.data.windows import Windows
from engine.spec import Spec

Count = Annotated[int, Field(strict=True, ge=1)]
Positive = Annotated[float, Field(strict=True, gt=0)]
Fraction = Annotated[float, Field(strict=True, gt=0, lt=1)]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_-]{0,63}$")]
RESERVED = ("train", "valid", "test", "full_train", "validation", "full")


def form(*forms: str) -> Discriminator:
    """Tells the forms of a value apart by its JSON type, so that errors are about the form that was meant."""
    def tag(value: Any) -> str | None:
        kinds = {"list": "list", "tuple": "list", "str": "str", "int": "int"}
        name = "dict" if isinstance(value, Mapping | Spec) else kinds.get(type(value).__name__)
        return name if name in forms else None

    names = {"dict": "an object", "list": "a list", "str": "a text", "int": "a whole number"}
    wanted = " or ".join(names[name] for name in forms)
    return Discriminator(tag, custom_error_type="wrong_form", custom_error_message=f"expected {wanted}")


class Inline(Spec):
    """Data in the job itself: columns (lists of rows), or rows (objects)."""

    columns: dict[str, list[Any]] | None = None
    rows: list[dict[str, Any]] | None = None

    @model_validator(mode="after")
    def one_form(self) -> Inline:
        if (self.columns is None) == (self.rows is None):
            raise ValueError("give either 'columns' or 'rows'")
        return self


class Split(Spec):
    """Rows kept out of training: another data set, or a fraction of this one."""

    dataset: str | None = None
    fraction: Fraction | None = None
    by: Literal["random", "last", "group"] | None = None
    group: str | None = None
    stratify: bool | str = False

    @model_validator(mode="after")
    def consistent(self) -> Split:
        if (self.dataset is None) == (self.fraction is None):
            raise ValueError("give either 'dataset' or 'fraction'")
        if (self.by == "group") != (self.group is not None):
            raise ValueError("'by': \"group\" and a 'group' column go together")
        if self.stratify and self.by not in (None, "random"):
            raise ValueError("'stratify' goes with 'by': \"random\"")
        if self.dataset is not None and (self.stratify or self.group):
            raise ValueError("another data set is used whole: 'stratify' and 'group' go with 'fraction'")
        return self


def own_name(name: str) -> str:
    """A name for a further set that says nothing else in events."""
    if name in RESERVED:
        raise ValueError(f"{name!r} means something else in events; choose another name")
    return name


class Validation(Split):
    """Rows that every epoch is judged by. `also` are further data sets, by the name that their numbers get."""

    also: dict[Annotated[Name, AfterValidator(own_name)], str] = {}


def _as_split(value: Any) -> Any:
    """A bare fraction or data set stands for an object with it."""
    if isinstance(value, float):
        return {"fraction": value}
    return {"dataset": value} if isinstance(value, str) else value


Columns = Annotated[list[str], Tag("list")]
Inputs = Annotated[Columns | Annotated[dict[str, list[str]], Tag("dict")], form("list", "dict")]
Target = Annotated[Annotated[str, Tag("str")] | Annotated[Columns, Field(min_length=1)] | Annotated[dict[str, str], Field(min_length=1), Tag("dict")],
                   form("str", "list", "dict")]
Dataset = Annotated[Annotated[str, Tag("str")] | Annotated[Inline, Tag("dict")], form("str", "dict")]
Preprocessing = Annotated[Annotated[Literal["auto", "none"], Tag("str")] | Annotated[dict[str, AnyPreprocess], Tag("dict")], form("str", "dict")]
BatchSize = Annotated[Annotated[Count, Tag("int")] | Annotated[Literal["full"], Tag("str")], form("int", "str")]


def _as_list(value: Any) -> Any:
    if isinstance(value, str):
        return [value]
    return {name: _as_list(columns) for name, columns in value.items()} if isinstance(value, Mapping) else value


class Data(Spec):
    """Sections 3.1 to 3.3 of the contract: columns, batches, splits."""

    dataset: Dataset
    inputs: Annotated[Inputs | None, BeforeValidator(_as_list)] = None
    target: Target | None = None
    weight: str | None = None
    preprocess: Preprocessing = "auto"
    batch_size: BatchSize = 32
    sampling: Literal["shuffle", "sequential", "with_replacement", "balanced"] = "shuffle"
    steps_per_epoch: Count | None = None
    drop_last: bool = False
    repeat: Count = 1
    augment: list[AnyAugmentation] = []  # type: ignore[valid-type]
    windows: Windows | None = None
    validation: Annotated[Validation | None, BeforeValidator(_as_split)] = None
    test: Annotated[Split | None, BeforeValidator(_as_split)] = None

    @field_validator("validation", "test")
    @classmethod
    def way_of_splitting(cls, split: Split | None, info: ValidationInfo) -> Split | None:
        """Windows are split by time, other rows at random, where nothing is said."""
        if split is None or split.by is not None or split.fraction is None:
            return split
        return split.model_copy(update={"by": "last" if info.data.get("windows") else "random"})

    @property
    def source(self) -> str:
        """The reference under which the tables of a job hold the main data set."""
        return self.dataset if isinstance(self.dataset, str) else "inline"

    @property
    def others(self) -> dict[str, tuple[str, str]]:
        """(data set, its pointer) of each part whose rows come from another data set, by the name of the part."""
        also = self.validation.also if self.validation else {}
        found = {name: (dataset, f"/data/validation/also/{name}") for name, dataset in also.items()}
        for name, split, place in (("valid", self.validation, "validation"), ("test", self.test, "test")):
            if split and split.dataset is not None:
                found[name] = split.dataset, f"/data/{place}/dataset"
        return found
