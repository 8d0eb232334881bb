"""What decides when: throttle, patience, early_stopping, plateau. Each is called like the function it is made of; its memory can be saved. Beside
them the criteria for stopping of criteria.py.

`trigger.state()` is a dict of JSON values and `trigger.restore(state)` takes it back, so that a run goes on as if it had not been stopped.
As a callback of `train`, a trigger that returns True ends the run.
"""

from __future__ import annotations

import math
import operator
import time
from collections.abc import Callable
from typing import Any

from engine.train.prompt.criteria import GL, PQ, InvalidValue, Never, NumberLimit, NumberSinceBest, Patience, Threshold, TimeLimit, Warmup
from engine.train.prompt.trigger import Trigger

__all__ = ["GL", "PQ", "InvalidValue", "Never", "NumberLimit", "NumberSinceBest", "Patience", "Threshold", "TimeLimit", "Warmup", "before_update",
           "each_epoch", "early_stopping", "patience", "plateau", "throttle"]


class throttle(Trigger):
    """Call `f` at most once every `timeout` seconds; calls in between return the last result.

    leading    the first call of each interval is made
    trailing   the last suppressed call is made by `flush` (`train` does so at its end), or when the next interval begins without `leading`
    """

    remembered = ("result",)

    def __init__(self, f: Callable[..., Any], timeout: float, leading: bool = True, trailing: bool = False, *,
                 clock: Callable[[], float] = time.monotonic):
        self.f, self.timeout, self.leading, self.trailing, self.clock = f, timeout, leading, trailing, clock
        self.result: Any = None
        self._since = -math.inf
        self._later: tuple[tuple[Any, ...], dict[str, Any]] | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        now = self.clock()
        if now - self._since < self.timeout:
            if self.trailing:
                self._later = (args, kwargs)
        elif self.leading:
            self._since, self._later = now, None
            self.result = self.f(*args, **kwargs)
        else:
            self.flush()
            self._since, self._later = now, (args, kwargs)
        return self.result

    def flush(self) -> Any:
        """Make the last suppressed call, if there is one."""
        if self._later is not None:
            (args, kwargs), self._later = self._later, None
            self.result = self.f(*args, **kwargs)
        return self.result


class patience(Trigger):
    """True once `predicate(...)` was true `wait` times in a row."""

    remembered = ("count",)

    def __init__(self, predicate: Callable[..., bool], wait: int):
        self.predicate, self.wait = predicate, wait
        self.count = 0

    def __call__(self, *args: Any, **kwargs: Any) -> bool:
        self.count = self.count + 1 if self.predicate(*args, **kwargs) else 0
        return self.count >= self.wait


class early_stopping(Trigger):
    """True once the score `f(...)` was worse than the best one `delay` times in a row.

    A score is worse where `distance(best, score) < min_dist`; an equal one counts as an improvement at 0, as in Flux. Scores are to fall;
    for one that is to rise: `distance=lambda best, score: score - best, init_score=-inf`.
    """

    remembered = ("best", "count")

    def __init__(self, f: Callable[..., float], delay: int, distance: Callable[[float, float], float] = operator.sub, init_score: float = math.inf,
                 min_dist: float = 0.0):
        self.f, self.delay, self.distance, self.min_dist = f, delay, distance, min_dist
        self.best, self.count = init_score, 0

    def __call__(self, *args: Any, **kwargs: Any) -> bool:
        score = float(self.f(*args, **kwargs))
        gain = self.distance(self.best, score)
        self.best = self.best if gain < 0 else score
        self.count = self.count + 1 if gain < self.min_dist else 0
        return self.count >= self.delay


class plateau(Trigger):
    """True once the score `f(...)` changed by less than `min_dist` from one call to the next, `width` times in a row."""

    remembered = ("last", "count")

    def __init__(self, f: Callable[..., float], width: int, distance: Callable[[float, float], float] = operator.sub, init_score: float = math.inf,
                 min_dist: float = 1e-6):
        self.f, self.width, self.distance, self.min_dist = f, width, distance, min_dist
        self.last, self.count = init_score, 0

    def __call__(self, *args: Any, **kwargs: Any) -> bool:
        score = float(self.f(*args, **kwargs))
        self.count = self.count + 1 if abs(self.distance(self.last, score)) < self.min_dist else 0
        self.last = score
        return self.count >= self.width


class each_epoch:
    """A callback that is called once at the end of each epoch, with the mean loss, instead of after each step."""

    at = "epoch"

    def __init__(self, callback: Callable[[Any], Any]):
        self.callback = callback

    def __call__(self, event: Any) -> Any:
        return self.callback(event)


class before_update(each_epoch):
    """A callback that is called with loss and gradient before the update, which it leaves out by raising SkipUpdate."""

    at = "update"
