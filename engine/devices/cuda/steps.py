"""The loop of training on a GPU: what `engine/devices/cpu/loop.py` does, as launches.

The host knows beforehand which batch comes when; what it cannot know is a step's verdict. So every launch of a step is behind a gate of the control
area, which kernels on the GPU set (see `gates`): a step that is to stop the run shuts the gates of all steps behind it. Whole steps are recorded as
graphs, several full steps in one; whatever changes from step to step is in the memory of the GPU, so that one graph serves every step. Between two
graphs the host looks at the counters and at the stop word.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Protocol

import numpy as np

from engine.core import Launch
from engine.devices.cpu.validate import compare
from engine.devices.cuda.gates import FACTORS, GO, METRICS, MOST, SERIES, UPDATE
from engine.devices.cuda.machine import Bound
from engine.devices.cuda.runtime import Graph, Runtime
from engine.plan import control
from engine.plan.plan import Plan, lay
from engine.plan.program import Phase

LONGEST = 0.02                  # seconds that a graph may take: the stop word is not looked at meanwhile
MOST_LAUNCHES = 2048            # of a graph
GROWTH = 8                      # a graph is no more than so many times as long as the longest that was timed


def step_plans(phase: Phase, last: bool, area: int, batch: Launch | None) -> list[tuple[Plan, int]]:
    """The plans of one step, each with the offset of its gate; `batch` brings the batch in the first one's stead, where the GPU does not gather."""
    gather, compute, guard, update, metrics = phase.plans[5:] if last else phase.plans[:5]
    end = lay([Launch("end_step", "float32", (area, area + SERIES, int(phase.training)), 1)])
    first = gather if batch is None else lay([batch])
    if not phase.training:
        return [(first, area + GO), (compute, area + GO), (metrics, area + GO), (end, area + GO)]
    decide = lay([Launch("decide_step", "float32", (area, area + FACTORS), 1)])
    return [(first, area + GO), (compute, area + GO), (guard, area + GO), (decide, area + GO), (update, area + UPDATE),
            (metrics, area + METRICS), (end, area + GO)]


class Feeder(Protocol):
    """Gathers batches on the host, while the GPU computes. `most` are made at once."""

    most: int

    def begin(self) -> None:
        """Forget what was made; the next batch is for the first step of a stretch."""
        ...

    def make(self, phase: Phase, last: bool, ahead: int, count: int) -> None:
        """Make `count` batches of one kind, the first of them so many batches behind the control block's, and send them on their way."""
        ...

    def hand_over(self) -> None:
        """Whatever is launched from now on finds all that was made."""
        ...


@dataclass
class Recorded:
    """The launches of one step, and graphs of 1, 2, 4, ... such steps."""

    launches: Sequence[Bound]
    graphs: dict[int, Graph] = field(default_factory=dict)
    seconds: float = 0.0        # of a step, as last timed
    longest: int = 0            # steps that were run at once so far

    def fitting(self, most: int) -> int:
        """How many of the next `most` steps to run at once."""
        quick = int(LONGEST / self.seconds) if self.seconds else 1
        return 1 << max(1, min(most, GROWTH * self.longest, MOST_LAUNCHES // len(self.launches), quick)).bit_length() - 1

    def run(self, runtime: Runtime, steps: int) -> None:
        """Let the GPU begin with so many steps. The very first is launched as it is: what is made at first use is made then, and is in no graph."""
        if not self.longest:
            self._enqueue(runtime, 1)
        else:
            if steps not in self.graphs:
                self.graphs[steps] = runtime.capture(lambda: self._enqueue(runtime, steps))
            self.graphs[steps].launch()

    def _enqueue(self, runtime: Runtime, steps: int) -> None:
        for _ in range(steps):
            for launch in self.launches:
                launch.enqueue(runtime)


class Loop:
    """Runs the steps of phases. `memory` is the control block as the host sees it, `arena` and `area` where the GPU has its arena and the control
    area in it. `steps` are those of a full and of a last batch, by phase.
    """

    def __init__(self, runtime: Runtime, arena: int, area: int, memory: np.ndarray, steps: Mapping[str, Sequence[Recorded]], feeder: Feeder | None):
        self.runtime, self.arena, self.area, self.memory, self.steps, self.feeder = runtime, arena, area, memory, steps, feeder
        self.whole = memory[:64].view(np.int64)
        self.fed: tuple[bool, int] | None = None        # for which steps batches were made: whether last ones, how many

    def run(self, phase: Phase, steps: int, factors: np.ndarray, series: np.ndarray, stop_word: np.ndarray) -> int:
        """Run up to `steps` steps from where the control block stands; how many were finished. `factors` and `series` as for the CPU's."""
        done = 0
        while done < steps and not stop_word[0]:
            count = min(MOST, steps - done)
            finished = self._stretch(phase, count, factors[done:], series[done:], stop_word)
            done += finished
            if finished < count:
                break
        return done

    def _stretch(self, phase: Phase, count: int, factors: np.ndarray, series: np.ndarray, stop_word: np.ndarray) -> int:
        self._begin(phase, count, factors)
        done = 0
        while done < count and not stop_word[0]:
            position = self._position
            begun = self._go(phase, count - done)
            done += self._position - position
            if self._position - position < begun:
                break
        if phase.training and done:
            found = np.zeros((done, 2))
            self.runtime.read(self.arena + self.area + SERIES, found)
            series[:done] = found
        return done

    @property
    def _position(self) -> int:
        return int(self.whole[control.POSITION // 8])

    def _begin(self, phase: Phase, count: int, factors: np.ndarray) -> None:
        """Give the GPU the control block and the factors, and open the way."""
        area = np.zeros(FACTORS // 8 + count, np.int64)
        area[GO // 8] = 1
        if phase.training:
            area[FACTORS // 8:] = factors[:count].view(np.int64)
        self.runtime.write(self.arena + self.area, area)
        self.runtime.write(self.arena, self.memory)
        if self.feeder:
            self.feeder.begin()
            self._feed(phase, 0, count)

    def validate(self, phase: Phase, copy: np.ndarray) -> int:
        """Compare each value of a full batch with its oracle; how many agreed. `copy` is the arena as it is now. DeviceError as from `compare`."""
        self._begin(phase, 1, np.ones(1))
        if self.feeder:
            self.feeder.hand_over()
        compute, launches = phase.plans[1], self.steps[phase.name][0].launches
        computing = {id(row) for row in compute.rows}
        for launch in takewhile(lambda launch: id(launch.row) not in computing, launches):
            launch.enqueue(self.runtime)
        self.runtime.read(self.arena, copy)
        named = {id(launch.row): launch for launch in launches}

        def run(number: int) -> None:
            if launch := named.get(id(compute.rows[number])):
                launch.enqueue(self.runtime)
                self.runtime.read(self.arena, copy)

        return compare(compute, copy, run)

    def _portion(self, phase: Phase, position: int, left: int) -> tuple[bool, int]:
        """Of which kind the steps from a position on are, and how many of them to run at once where so many are left."""
        last = position >= phase.full_steps
        most = left if last else min(left, phase.full_steps - position)
        return last, self.steps[phase.name][int(last)].fitting(min(most, self.feeder.most) if self.feeder else most)

    def _feed(self, phase: Phase, ahead: int, left: int) -> None:
        """Have the batches made for what is run so many steps later, where `left` steps are left then."""
        self.fed = None
        if self.feeder and left:
            self.fed = self._portion(phase, self._position + ahead, left)
            self.feeder.make(phase, self.fed[0], ahead, self.fed[1])

    def _go(self, phase: Phase, left: int) -> int:
        """Run some of the `left` next steps, which are of one kind; how many were begun."""
        last, begun = self.fed or self._portion(phase, self._position, left)
        recorded = self.steps[phase.name][int(last)]
        known, start = begun in recorded.graphs, time.perf_counter()
        if self.feeder:
            self.feeder.hand_over()
        recorded.run(self.runtime, begun)
        self._feed(phase, begun, left - begun)
        self.runtime.wait(f"{begun} steps of {phase.name!r}")
        if known or not recorded.seconds:       # a graph that had to be recorded first tells nothing
            recorded.seconds = (time.perf_counter() - start) / begun
        recorded.longest = max(recorded.longest, begun)
        self.runtime.read(self.arena, self.memory)
        return begun
