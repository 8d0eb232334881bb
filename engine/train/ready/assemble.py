"""The session of a job: the arena of its program, with initial values."""

from __future__ import annotations

from engine.devices.cpu.session import Session as OnCpu
from engine.devices.cuda.session import Session as OnGpu
from engine.devices.session import Session
from engine.plan.program import Program
from engine.train.ready.build import Built


def assemble(built: Built, program: Program, threads: int) -> Session:
    """A session on the program's device that is ready for the first step. Raises DeviceError where the device is not there, or too small."""
    kind = OnGpu if program.device == "cuda" else OnCpu
    session = kind(program, seed=built.job.seed, threads=threads)
    for targets, values in ((session.parameters, built.parameters), (session.buffers, built.buffers)):
        for path, array in targets.items():
            array[...] = values[path]
    assert program.update is not None
    program.update.fill_state(session.state, built.parameters)
    session.look()
    return session
