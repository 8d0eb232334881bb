"""Callbacks that change a run as it goes on: the optimiser's numbers, what is trained, the parameters themselves.

"At epoch 3" is as epoch 3 begins, "at step 100" after the update of step 100: as soon as a `step` event would show that number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from engine.nn.initialisers import Init
from engine.spec import Spec
from engine.train.callbacks.actions import Action, Change
from engine.train.callbacks.callback import Amount, Callback, Count, Number, Runner, Waiting, callbacks, one_side, side

Factor = Annotated[float, Field(strict=True, gt=0, lt=1)]
Paths = Annotated[list[str], Field(min_length=1), BeforeValidator(lambda v: [v] if isinstance(v, str) else v)]
Values = Annotated[dict[str, Number], Field(min_length=1, description="hyper-parameters by name")]


class ReduceOnPlateauRunner(Waiting):
    remembered = (*Waiting.remembered, "resting")
    resting: int = 0

    def after_epoch(self, values: Mapping[str, float], epoch: int, step: int, elapsed: float) -> Sequence[Action]:
        name = self.scores.watched(self.spec.monitor)
        better = self.better(name, values.get(name, float("nan")), epoch, self.spec.min_delta)
        if self.resting:
            self.resting, self.waited = self.resting - 1, 0
        if better or self.waited < self.spec.patience:
            return ()
        self.resting, self.waited = self.spec.cooldown, 0
        return (Change("reduce_on_plateau", factor=self.spec.factor, floor=self.spec.min_learning_rate),)


@callbacks.add
class ReduceOnPlateau(Callback):
    """Multiplies the learning rate by a factor when a metric has not become better for a number of epochs.

    `cooldown` epochs after that do not count. No rate falls below `min_learning_rate`.
    """

    monitor: str | None = None
    factor: Factor = 0.1
    patience: Count = 5
    min_delta: Amount = 1e-4
    cooldown: Annotated[int, Field(strict=True, ge=0)] = 0
    min_learning_rate: Amount = 0.0
    kind: Literal["reduce_on_plateau"] = "reduce_on_plateau"
    runner: ClassVar[type[Runner]] = ReduceOnPlateauRunner

    def reads(self) -> dict[str, str]:
        return {"monitor": self.monitor} if self.monitor else {}


class Epoch(Spec):
    """An epoch, from 1."""

    epoch: Count


class Moment(Spec):
    """An epoch or a step, from 1."""

    epoch: Count | None = None
    step: Count | None = None

    @model_validator(mode="after")
    def one(self) -> Moment:
        if (self.epoch is None) == (self.step is None):
            raise ValueError("give either 'epoch' or 'step'")
        return self


class Plateau(Spec):
    """So many epochs without anything better than before."""

    patience: Count
    min_delta: Amount = 1e-4


class When(Spec):
    """A metric above or below a value, or the job's `monitor` on a plateau."""

    metric: str | None = None
    above: Number | None = None
    below: Number | None = None
    plateau: Plateau | None = None

    @model_validator(mode="after")
    def one(self) -> When:
        if (self.metric is None) == (self.plateau is None):
            raise ValueError("give either 'metric', with 'above' or 'below', or 'plateau'")
        if self.metric is not None:
            one_side(self.above, self.below)
        elif self.above is not None or self.below is not None:
            raise ValueError("'above' and 'below' go with 'metric'")
        return self


class Once(Runner):
    """Makes its change once, when the time has come."""

    remembered = ("done",)
    done: bool = False

    def before_epoch(self, epoch: int, step: int) -> Sequence[Action]:
        return self._at(self.spec.at.epoch, epoch)

    def _at(self, wanted: int | None, reached: int) -> Sequence[Action]:
        if self.done or wanted is None or reached < wanted:
            return ()
        self.done = True
        return (self.spec.change(),)


class AdjustRunner(Waiting, Once):
    """With `when` metric: each time that the metric comes to that side; with a plateau: after every so many epochs in vain."""

    remembered = (*Waiting.remembered, *Once.remembered)

    def before_epoch(self, epoch: int, step: int) -> Sequence[Action]:
        return self._at(self.spec.at.epoch, epoch) if self.spec.at else ()

    def after_steps(self, values: Mapping[str, float], epoch: int, step: int, elapsed: float) -> Sequence[Action]:
        return self._at(self.spec.at.step, step) if self.spec.at else ()

    def steps_allowed(self, step: int) -> int | None:
        wanted = self.spec.at.step if self.spec.at else None
        return None if self.done or wanted is None else max(0, wanted - step)

    def after_epoch(self, values: Mapping[str, float], epoch: int, step: int, elapsed: float) -> Sequence[Action]:
        when = self.spec.when
        if when is None:
            return ()
        if when.plateau is None:
            before, self.done = self.done, side(values.get(self.scores.full(when.metric), float("nan")), when.above, when.below)
            return (self.spec.change(),) if self.done and not before else ()
        name = self.scores.monitor
        if self.better(name, values.get(name, float("nan")), epoch, when.plateau.min_delta) or self.waited < when.plateau.patience:
            return ()
        self.waited = 0
        return (self.spec.change(),)


@callbacks.add
class Adjust(Callback):
    """Gives the optimiser other hyper-parameters: at an epoch or step, or when a metric says so. Momenta stay."""

    named_only: ClassVar[tuple[str, ...]] = ("kind", "name", "at", "when")
    set: Values
    at: Moment | None = None
    when: When | None = None
    kind: Literal["adjust"] = "adjust"
    runner: ClassVar[type[Runner]] = AdjustRunner

    @model_validator(mode="after")
    def one_time(self) -> Adjust:
        if (self.at is None) == (self.when is None):
            raise ValueError("give either 'at' or 'when'")
        return self

    def reads(self) -> dict[str, str]:
        return {"when/metric": self.when.metric} if self.when and self.when.metric else {}

    def change(self) -> Change:
        return Change("adjust", values=self.set)


class OfPaths(Callback):
    """A callback that changes some parameters, chosen by path patterns, as an epoch begins."""

    paths: Paths
    at: Epoch
    runner: ClassVar[type[Runner]] = Once


@callbacks.add
class Freeze(OfPaths):
    """Trains some parameters no longer; what the optimiser remembers of them is kept."""

    kind: Literal["freeze"] = "freeze"

    def change(self) -> Change:
        return Change("freeze", freeze=tuple(self.paths))


@callbacks.add
class Thaw(OfPaths):
    """Trains some parameters from now on, which `trainable` or `freeze` left out."""

    aliases: ClassVar[tuple[str, ...]] = ("unfreeze",)
    kind: Literal["thaw"] = "thaw"

    def change(self) -> Change:
        return Change("thaw", thaw=tuple(self.paths))


@callbacks.add
class Replace(OfPaths):
    """Gives some parameters new values; the optimiser forgets what it remembered of them."""

    init: Init
    kind: Literal["replace"] = "replace"

    def change(self) -> Change:
        return Change("replace", replace=tuple(self.paths), init=self.init)


def initialiser(init: Any, path: str) -> Any:
    """What `init` says of one parameter: it is one for all, or one for each name ("weight", "bias"); None where it says nothing."""
    return init.get(path.rpartition(".")[2]) if isinstance(init, Mapping) else init
