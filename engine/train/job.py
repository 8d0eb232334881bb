"""The job: one frozen value that says everything about a run. Equal jobs on one machine give equal numbers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BeforeValidator, Field, StringConstraints, Tag, field_validator
from pydantic_core import PydanticCustomError

from engine.nn.layers import AnyLayer
from engine.nn.losses import losses
from engine.nn.metrics import metrics
from engine.optim.chain import Optimiser
from engine.spec import Family, Spec
from engine.train.callbacks import callbacks
from engine.train.expression import Expression  # noqa: F401  one of the losses
from engine.train.job_data import Count, Data, Positive, form
from engine.train.lineage import Initial, Publish

objectives = Family("loss", losses.foreign)
objectives.members.update(losses.members)
AnyLoss = losses.union()


@objectives.add
class Weighted(Spec):
    """The sum of a loss for each output of the model, by its name; `weights` are 1 where they are left out."""

    losses: Annotated[dict[str, AnyLoss], Field(min_length=1)]  # type: ignore[valid-type]
    weights: dict[str, Annotated[float, Field(strict=True, ge=0)]] = {}
    kind: Literal["weighted"] = "weighted"

    @field_validator("weights")
    @classmethod
    def _known(cls, weights: dict[str, float], info: Any) -> dict[str, float]:
        for name in weights:
            if name not in info.data.get("losses", weights):
                raise ValueError(f"there is no loss for an output {name!r}")
        return weights


AnyMetric = metrics.union()
AnyObjective = objectives.union()
AnyCallback = callbacks.union()
Metrics = Annotated[Annotated[list[AnyMetric], Tag("list")] | Annotated[dict[str, list[AnyMetric]], Tag("dict")], form("list", "dict")]
Text = Annotated[str, StringConstraints(max_length=512)]
Key = Annotated[str, StringConstraints(min_length=1, max_length=64)]
LABELS = ("name", "metadata", "priority", "max_attempts", "retain_seconds")        # fields that have no part in what is computed


class Limits(Spec):
    """What ends a job badly: seconds of training over all attempts, updates, and bytes of memory."""

    max_seconds: Positive = 86400.0
    max_steps: Count | None = None
    max_memory_bytes: Count | None = None


class Job(Spec):
    """Everything about a run: model, loss, optimiser and data, and how long and how it is watched.

    `precision` rounds what goes into the matrix products of the model on a GPU, which is faster there: those of dense layers, of what goes into
    recurrent and attention layers, and of convolutions of single points, and their gradients. tf32 keeps 10 bits of the fraction, bf16 7. Sums, the
    parameters that the optimiser keeps and everything else stay in float32: so do other convolutions, attention's scores and the steps of recurrent
    layers, whose kernels multiply in float32 as fast as in less. Both have float32's range of exponents, so small gradients are not lost and no loss
    needs scaling.
    """

    model: AnyLayer  # type: ignore[valid-type]
    loss: AnyObjective  # type: ignore[valid-type]
    optimiser: Optimiser = Field(validation_alias=AliasChoices("optimiser", "optimizer"))
    data: Data
    epochs: Count = 10
    seed: Annotated[int, Field(strict=True, ge=0, lt=2**63)] = 0
    metrics: Metrics | None = None
    monitor: str | None = None
    evaluate_train: bool = False
    callbacks: list[AnyCallback] = []  # type: ignore[valid-type]
    trainable: Annotated[list[str] | None, BeforeValidator(lambda v: [v] if isinstance(v, str) else v)] = None
    initial: Initial | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["float32", "float64"] = "float32"
    precision: Literal["full", "tf32", "bf16"] = "full"
    limits: Limits = Limits()
    priority: Annotated[int, Field(strict=True, ge=-100, le=100)] = 0
    max_attempts: Annotated[int, Field(strict=True, ge=1, le=100)] = 3
    metadata: Annotated[dict[Key, Text], Field(max_length=16)] = {}
    retain_seconds: Positive | None = None
    publish: Publish | None = None
    name: Annotated[str, StringConstraints(max_length=256)] | None = None

    @field_validator("callbacks")
    @classmethod
    def _one_nonfinite(cls, found: list[Any]) -> list[Any]:
        if sum(callback.kind == "on_nonfinite" for callback in found) > 1:
            raise ValueError("only one callback can say what happens on_nonfinite")
        return found

    @field_validator("precision")
    @classmethod
    def _on_a_gpu(cls, precision: str, info: Any) -> str:
        if precision != "full" and info.data.get("device", "cuda") != "cuda":
            raise PydanticCustomError("no_rounding", "operands are rounded on a GPU only: say \"device\": \"cuda\" too, or leave 'precision' out",
                                      {"code": "invalid_value"})
        if precision != "full" and info.data.get("dtype", "float32") != "float32":
            raise PydanticCustomError("no_rounding", "float64 is not rounded: leave 'precision' or 'dtype' out", {"code": "invalid_value"})
        return precision

    def references(self) -> list[str]:
        """The data sets that the job reads, by reference; inline data is not among them."""
        found = [self.data.dataset, *(dataset for dataset, _ in self.data.others.values())]
        return list(dict.fromkeys(name for name in found if isinstance(name, str)))

    def spec(self) -> dict[str, Any]:
        """The job as JSON, every default shown."""
        return self.model_dump(mode="json", exclude_none=True)
