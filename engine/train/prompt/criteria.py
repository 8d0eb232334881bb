"""Criteria for stopping early, as EarlyStopping.jl has them (Prechelt, 1998): each is told one loss after the other and says whether to stop.

    stop = Patience(5) + InvalidValue() + TimeLimit(600)     # whichever comes first
    stop(loss)                                               # a loss of rows that are not trained on; a callback's event means its loss
    stop(loss, training=True)                                # one of training, which PQ and InvalidValue look at
"""

from __future__ import annotations

import math
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

from engine.train.prompt.trigger import Trigger


class Criterion(Trigger):
    """Said with `+`, criteria are one that stops when any of them does."""

    def __call__(self, loss: Any, training: bool = False) -> bool:
        value = float(getattr(loss, "loss", loss))
        return self.look_at_training(value) if training else self.look(value)

    @abstractmethod
    def look(self, loss: float) -> bool:
        """Whether to stop after this loss."""

    def look_at_training(self, loss: float) -> bool:
        return False

    def __add__(self, other: Criterion) -> Criterion:
        return _Any(self, other)

    def __repr__(self) -> str:
        given = {name: value for name, value in vars(self).items() if name not in self.remembered and not callable(value)}
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in given.items())})"


def _positive(**given: float) -> None:
    for name, value in given.items():
        if not value > 0:
            raise ValueError(f"{name} is more than 0, found {value!r}")


class Never(Criterion):
    """Does not stop."""

    def look(self, loss: float) -> bool:
        return False


class InvalidValue(Criterion):
    """Stops once a loss, of training too, is NaN or infinite."""

    remembered = ("found",)

    def __init__(self) -> None:
        self.found = False

    def look(self, loss: float) -> bool:
        self.found = self.found or not math.isfinite(loss)
        return self.found

    look_at_training = look


class Threshold(Criterion):
    """Stops once a loss is below `value`."""

    def __init__(self, value: float = 0.0):
        self.value = value

    def look(self, loss: float) -> bool:
        return loss < self.value


class TimeLimit(Criterion):
    """Stops `seconds` after the first loss; time between `state` and `restore` does not count."""

    remembered = ("spent",)

    def __init__(self, seconds: float = 1800.0, *, clock: Callable[[], float] = time.monotonic):
        _positive(seconds=seconds)
        self.seconds, self.clock = seconds, clock
        self.spent, self._last = 0.0, math.nan

    def look(self, loss: float) -> bool:
        now = self.clock()
        self.spent, self._last = self.spent + (0.0 if math.isnan(self._last) else now - self._last), now
        return self.spent > self.seconds

    look_at_training = look


class NumberLimit(Criterion):
    """Stops at the `n`-th loss."""

    remembered = ("count",)

    def __init__(self, n: int = 100):
        _positive(n=n)
        self.n, self.count = n, 0

    def look(self, loss: float) -> bool:
        self.count += 1
        return self.count >= self.n


class NumberSinceBest(Criterion):
    """Stops at the `n`-th loss after the smallest one."""

    remembered = ("best", "count")

    def __init__(self, n: int = 6):
        _positive(n=n)
        self.n, self.best, self.count = n, math.inf, 0

    def look(self, loss: float) -> bool:
        self.best, self.count = (loss, 0) if loss < self.best else (self.best, self.count + 1)
        return self.count >= self.n


class Patience(Criterion):
    """Stops after `n` losses in a row that are each larger than the one before: Prechelt's UP."""

    remembered = ("last", "count")

    def __init__(self, n: int = 5):
        _positive(n=n)
        self.n, self.last, self.count = n, math.inf, 0

    def look(self, loss: float) -> bool:
        self.count = self.count + 1 if loss > self.last else 0
        self.last = loss
        return self.count >= self.n


class GL(Criterion):
    """Stops once the generalisation loss, 100 (E / |E_best| - 1), is more than `alpha`."""

    remembered = ("best",)

    def __init__(self, alpha: float = 2.0):
        _positive(alpha=alpha)
        self.alpha, self.best = alpha, math.inf

    def look(self, loss: float) -> bool:
        return self.generalisation_loss(loss) > self.alpha

    def generalisation_loss(self, loss: float) -> float:
        self.best = min(self.best, loss)
        return 100 * (loss / abs(self.best) - 1) if self.best else math.inf if loss > 0 else 0.0


class PQ(GL):
    """Stops once the generalisation loss is more than `alpha` times the progress of the last `k` training losses, 1000 (mean / smallest - 1), or that
    progress is at most `tol`.
    """

    remembered = ("best", "training")

    def __init__(self, alpha: float = 0.75, k: int = 5, tol: float = 2.0**-52):
        super().__init__(alpha)
        _positive(k=k - 1, tol=tol)
        self.k, self.tol = k, tol
        self.training: list[float] = []

    def look_at_training(self, loss: float) -> bool:
        self.training = [*self.training, loss][-self.k:]
        return False

    def look(self, loss: float) -> bool:
        loss = self.generalisation_loss(loss)
        if len(self.training) < self.k:
            return False
        progress = 1000 * (sum(self.training) / self.k / min(self.training) - 1)
        return not progress > self.tol or loss / progress > self.alpha


class Warmup(Criterion):
    """Shows `criterion` no loss before the `n`-th is over."""

    def __init__(self, criterion: Criterion, n: int = 1):
        _positive(n=n)
        self.criterion, self.n, self.count = criterion, n, 0

    def look(self, loss: float) -> bool:
        return self._shown(self.criterion.look, loss)

    def look_at_training(self, loss: float) -> bool:
        return self._shown(self.criterion.look_at_training, loss)

    def _shown(self, look: Callable[[float], bool], loss: float) -> bool:
        self.count += 1
        return self.count > self.n and look(loss)

    def state(self) -> dict[str, Any]:
        return {"count": self.count, "criterion": self.criterion.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.count = state["count"]
        self.criterion.restore(state["criterion"])


class _Any(Criterion):
    def __init__(self, *criteria: Criterion):
        self.criteria = [part for one in criteria for part in (one.criteria if isinstance(one, _Any) else [one])]

    def look(self, loss: float) -> bool:
        return True in [criterion.look(loss) for criterion in self.criteria]     # all of them see it

    def look_at_training(self, loss: float) -> bool:
        return True in [criterion.look_at_training(loss) for criterion in self.criteria]

    def state(self) -> dict[str, Any]:
        return {"criteria": [criterion.state() for criterion in self.criteria]}

    def restore(self, state: Mapping[str, Any]) -> None:
        for criterion, known in zip(self.criteria, state["criteria"], strict=True):
            criterion.restore(known)

    def __repr__(self) -> str:
        return " + ".join(map(repr, self.criteria))
