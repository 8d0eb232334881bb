"""What a job begins with that another one made, and the name that its own model gets."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints, Tag, model_validator

from engine.spec import Spec
from engine.train.job_data import form

NAME = re.compile(r"(?!job_)[a-z0-9][a-z0-9._-]{0,127}")
NAMES = "a name has at most 128 small letters, digits, dots, lines and underscores, begins with a letter or digit, and not with job_"
Epoch = Annotated[int, Field(strict=True, ge=0)]
Which = Annotated[Annotated[Literal["last", "best"], Tag("str")] | Annotated[Epoch, Tag("int")], form("str", "int")]


def model_name(name: str) -> str:
    """A name that a model may have. ValueError for any other."""
    if NAME.fullmatch(name) is None:
        raise ValueError(NAMES)
    return name


class Initial(Spec):
    """Parameters to start from: another job's at one of its checkpoints, or those of an uploaded safetensors file. `paths` are patterns that choose
    among the new model's parameters and buffers (all); each needs a namesake of its shape.
    """

    job: str | None = None
    checkpoint: Which = "best"
    paths: list[str] | None = None
    dataset: str | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Initial:
        if (self.job is None) == (self.dataset is None):
            raise ValueError("give either 'job' or 'dataset'")
        if self.dataset is not None and "checkpoint" in self.model_fields_set and self.checkpoint != "best":
            raise ValueError("a file has no checkpoints: 'checkpoint' goes with 'job'")
        return self


class When(Spec):
    """A condition on a metric of the model that is published, named as in `epoch` events."""

    metric: str
    above: Annotated[float, Field(strict=True)] | None = None
    below: Annotated[float, Field(strict=True)] | None = None

    @model_validator(mode="after")
    def _one_bound(self) -> When:
        if (self.above is None) == (self.below is None):
            raise ValueError("give either 'above' or 'below'")
        return self

    def holds(self, value: float) -> bool:
        """Whether a value is beyond the bound; NaN is not."""
        return value > self.above if self.above is not None else value < (self.below if self.below is not None else value)

    def __str__(self) -> str:
        return f"above {self.above:g}" if self.above is not None else f"below {self.below:g}"


class Publish(Spec):
    """The name that answers with this job's model from the moment it succeeds, `when` a metric is good enough."""

    name: Annotated[str, StringConstraints(max_length=256), AfterValidator(model_name)]
    when: When | None = None
    checkpoint: Literal["last", "best"] = "last"
