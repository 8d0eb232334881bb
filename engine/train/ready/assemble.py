"""The session of a job: the arena of its program, with initial values."""

from __future__ import annotations

from engine.devices.cpu.session import Session
from engine.plan.program import Program
from engine.train.ready.build import Built


def assemble(built: Built, program: Program, threads: int) -> Session:
    """A session that is ready for the first step."""
    session = Session(program, seed=built.job.seed, threads=threads)
    for targets, values in ((session.parameters, built.parameters), (session.buffers, built.buffers)):
        for path, array in targets.items():
            array[...] = values[path]
    assert program.update is not None
    program.update.fill_state({name: slab.view(session.arena) for name, slab in program.state.items()}, built.parameters)
    session.look()
    return session
