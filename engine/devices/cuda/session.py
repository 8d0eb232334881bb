"""A program at work on a GPU: its arena is there, and the host has a copy of what Python asks for."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np

from engine import env
from engine.devices import session
from engine.devices.cpu.machine import Crew
from engine.devices.cpu.machine import arena as host_arena
from engine.devices.cuda import feed, gates, steps
from engine.devices.cuda.blas import open_blas
from engine.devices.cuda.machine import Library, Table
from engine.devices.cuda.runtime import Room, Runtime, open_gpu
from engine.plan.memory import align
from engine.plan.program import Phase, Program
from engine.plan.slab import Slab, Slot

Region = tuple[int, int]
"""Where some bytes of the arena begin and end."""


class Session(session.Session):
    """What a run has changed is copied to the host when Python asks for it; what Python was given is copied back before the next run.

    `memory` has room for all bytes of the arena, but the host pays only for those that it looks at.
    """

    def __init__(self, program: Program, *, seed: int = 0, threads: int = 1, runtime: Runtime | None = None, library: Library | None = None):
        self._regions = list(regions(program))
        self._there: set[Region] = set()        # what is newer on the GPU
        self._here: set[Region] = set()         # what Python may have changed
        super().__init__(program, host_arena(program.nbytes), seed)
        self.crew = Crew(threads)
        self.runtime = runtime or open_gpu()
        self._room = Room(self.runtime)
        area = align(program.nbytes)
        self.resident = feed.fits(self.runtime, program.outside, area)
        feeder = None if self.resident else feed.Gatherer(self.runtime, program, self.control, area)
        self._at = self._room.take(area + gates.NBYTES + (feeder.nbytes if feeder else 0))
        if runtime is None and (blas := open_blas(self.runtime.arch, self._room.take)):
            library = blas.plan
        self._loop = self._ready(area, library, feeder)
        self._begun = False

    def _ready(self, area: int, library: Library | None, feeder: feed.Gatherer | None) -> steps.Loop:
        """The loop for all phases."""
        runtime, program, phases = self.runtime, self.program, self.program.phases.values()
        addresses = feed.copied(self._room, program.outside) if self.resident else {}
        kinds = [steps.step_plans(phase, last, area, feeder and feeder.launch(phase, last)) for phase in phases for last in (False, True)]
        self.table = Table(runtime, self._room, [plan for kind in kinds for plan in kind], self._at, addresses, library, area + gates.GO)
        found = iter(self.table.launches)
        each = iter([steps.Recorded([launch for _ in kind for launch in next(found)]) for kind in kinds])
        if feeder:
            feeder.open(self._at)
        return steps.Loop(runtime, self._at, area, self.control, {name: (next(each), next(each)) for name in program.phases}, feeder)

    def look(self) -> None:
        """TRAINYARD_DEBUG=1 prints the size of each plan, 2 or more the launches of each kind of step as well. TRAINYARD_VALIDATE=1 compares each row
        with its oracle.
        """
        for name, kinds in self._loop.steps.items() if env.DEBUG else ():
            phase, sizes = self.program.phases[name], [len(kind.launches) for kind in kinds]
            print(f"{name}: {phase.steps} steps of {phase.batch} rows, {sizes[0]} launches a step, {sizes[1]} for the last, "
                  f"arena of {self.program.nbytes:,} bytes on the GPU", file=sys.stderr)
            for launch in kinds[0].launches if env.DEBUG >= 2 else ():
                what = "library" if launch.call else f"{launch.blocks} x {launch.threads}"
                print(f"  {launch.row.kernel}.{launch.row.dtype} {launch.row.size} {what}  {launch.row.label}", file=sys.stderr)

        for phase in self.program.phases.values() if env.VALIDATE else ():
            if phase.full_steps:
                self._push()
                self._loop.validate(phase, self.memory.copy())

    # ---------------------------------------------------------------- runs

    def run(self, phase: Phase, steps: int, factors: np.ndarray, series: np.ndarray) -> int:
        self._push()
        self._there |= self._changed_by(phase)
        return self._loop.run(phase, steps, np.ascontiguousarray(factors, np.float64), series, self.crew.stop_word)

    def _push(self) -> None:
        """Let the GPU have what Python may have changed; at first everything that lasts."""
        for start, end in sorted(self._here) if self._begun else [(0, self.program.cursor)]:
            self.runtime.write(self._at + start, self.memory[start:end])
        self._begun = True
        self._here.clear()

    def _changed_by(self, phase: Phase) -> set[Region]:
        """What a run of a phase may change, beside the control block, which is brought home at once."""
        if phase.training:
            return set(self._regions)
        return self._touched(self.program.sums[phase.name], self.program.rows[phase.name]) | {self._regions[-1]}

    # ---------------------------------------------------------------- what Python sees

    def lend(self, *spans: Slab | Slot) -> None:
        regions = self._touched(*spans)
        self._fetch(regions & self._there)
        self._here |= regions - {self._regions[-1]}

    def renew(self, *spans: Slab | Slot) -> None:
        regions = self._touched(*spans)
        self._there -= regions
        self._here |= regions

    def _touched(self, *spans: Slab | Slot) -> set[Region]:
        wanted = [(span.offset, span.offset + span.nbytes) for span in spans]
        return {(start, end) for start, end in self._regions if any(first < end and start < last for first, last in wanted)}

    def _fetch(self, regions: set[Region]) -> None:
        for start, end in sorted(regions):
            self.runtime.read(self._at + start, self.memory[start:end])
        self._there -= regions

    @property
    def arena(self) -> np.ndarray:
        """All bytes of the program, as they are now, to be read."""
        if self._begun:
            self._fetch(set(self._there))
            self._fetch({(self.program.cursor, len(self.memory))})
        return self.memory


def regions(program: Program) -> Iterator[Region]:
    """The parts of the arena that are copied as a whole, in their order; the bytes of batches are the last."""
    kept: list[Slab | Slot] = [program.parameters, program.buffers, program.gradients, *program.state.values()]
    for slabs in (program.sums, program.rows):
        kept += slabs.values()
    if (update := program.update) is not None:
        kept.append(Slot(update.scalars_at, (update.nbytes,), "uint8"))
    yield from sorted((slab.offset, slab.offset + slab.nbytes) for slab in kept if slab.nbytes)
    yield program.cursor, max([program.cursor, *(plan.base for phase in program.phases.values() for plan in phase.plans[1::5])])
