"""Changes from outside while a run goes on. Each has the step after which it takes effect, so that a resumed run makes it again there."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.train.callbacks.actions import Change


@dataclass(frozen=True)
class Adjustment:
    """`changes` as a client writes them (hyper-parameters by name, `epochs`, `freeze`, `thaw`), after step `step`."""

    step: int
    changes: Mapping[str, Any]


class Live:
    """Changes in the order in which they were asked for, numbered from 1. `add` may be called from any thread."""

    def __init__(self, given: Sequence[Adjustment], read: Callable[[Mapping[str, Any]], Change]):
        """`read` checks a change. Raises SpecError as it does."""
        self.read = read
        self.items = [(item.step, read(item.changes)) for item in given]
        self.made = 0               # how many have been made
        self.ahead = 0              # the furthest step at which the loop has come back, or will
        self._lock = threading.Lock()

    def add(self, changes: Mapping[str, Any], after: int) -> int:
        """Take up a change; returns the step after which it takes effect: the next at which the loop comes back, not before `after`."""
        change = self.read(changes)
        with self._lock:
            step = max([self.ahead, after, *(step for step, _ in self.items[-1:])])
            self.items.append((step, change))
            return step

    def due(self, step: int) -> Iterator[tuple[int, Change]]:
        """The changes, with their numbers, whose time has come. What is asked for after the last of them waits for another step: a resumed run makes
        all changes of a step together, too."""
        while True:
            with self._lock:
                if self.made == len(self.items) or self.items[self.made][0] > step:
                    self.ahead = max(self.ahead, step + 1)
                    return
                self.made += 1
            yield self.made, self.items[self.made - 1][1]

    def leave(self, step: int, steps: int) -> int:
        """The loop goes on from `step` for `steps` steps, or fewer if a change is due before. Returns how many; none where one is due now."""
        with self._lock:
            waiting = [when - step for when, _ in self.items[self.made:self.made + 1]]
            steps = max(0, min([steps, *waiting]))
            self.ahead = max(self.ahead, step + steps)      # also after a rollback: what was done until there is done again as it was
            return steps
