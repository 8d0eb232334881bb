"""How a supervisor's children live: a process each, spawned through this module, that dies with its parent.

    python -m service.child PARENT_PID service.worker

The kernel kills the child as soon as its parent is gone, whatever either of them does, so no trainer outlives the one that renews its lease.
"""

from __future__ import annotations

import ctypes
import gc
import os
import runpy
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from pathlib import Path

from service.settings import Settings

PR_SET_PDEATHSIG = 1
LISTENING = "TRAINYARD_LISTENING"       # number of the API's listening socket, made by the supervisor, so that no client is refused in a restart
GATE = "TRAINYARD_GATE"                 # number of a pipe: the child loads its program, and begins when a byte comes
GPU = "TRAINYARD_GPU"                   # set for the worker of a GPU: its number
DEVICE_LOST = 87                        # the exit status of a worker whose GPU failed under it: no later job can use its context
OWNER = "TRAINYARD_OWNER"               # the name under which a worker claims and its supervisor renews
ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OPENBLAS", "OMP", "MKL", "NUMBA")}     # the engine cuts work itself: same bits, less memory


def start(module: str, settings: Settings, *, inherit: Sequence[int] = (), complaints: int | None = None,
          gpus: str | None = "", **variables: str) -> subprocess.Popen[bytes]:
    """Spawn `python -m module` as a child; `complaints`: where its stderr goes; `gpus`: those that it sees, by
    default none (None: those that this process sees). Call it from the main thread: a child dies with the thread that
    made it."""
    environment = {**os.environ, **described(settings), **ONE_THREAD, "MALLOC_ARENA_MAX": "2", **variables}
    if gpus is not None:
        environment["CUDA_VISIBLE_DEVICES"] = gpus
    command = [sys.executable, "-m", "service.child", str(os.getpid()), module]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=complaints, env=environment, pass_fds=inherit, process_group=0, cwd=_root())


def complaint(module: str, settings: Settings) -> str:
    """Run a child to its end; what it had to say where it failed, "" where it did not. What it took of memory is free again."""
    process = start(module, settings, complaints=subprocess.PIPE)
    said = process.communicate()[1].decode(errors="replace").strip()
    return "" if process.returncode == 0 else said or f"{module} ended with status {process.returncode}"


def _root() -> Path:
    """Where `import service` finds this program, wherever the parent was started."""
    return Path(__file__).parent.parent


def described(settings: Settings) -> dict[str, str]:
    """The settings as environment variables, so that a child has exactly those of its parent."""
    return {f"TRAINYARD_{name.upper()}": str(value) for name, value in settings.model_dump().items()}


def name_of(role: str) -> str:
    """A name for this process that no other has, ever: "serve:HOST-NAMESPACE:PID:START"."""
    return f"{role}:{_host()}:{os.getpid()}:{_started(os.getpid())}"


def is_dead(owner: str, sole: bool) -> bool:
    """Whether the process called `owner` is surely gone.

    One on this machine is looked up by pid and start time; of `serve` there is one per home, so who is the `sole` one knows that others are gone.
    """
    role, _, rest = owner.partition(":")
    host, _, process = rest.rpartition(":")[0].rpartition(":")
    if role == "serve" and sole:
        return owner != name_of("serve")
    return host == _host() and process.isdigit() and _started(int(process)) != rest.rpartition(":")[2]


@cache
def _host() -> str:
    return f"{socket.gethostname()}-{os.stat('/proc/self/ns/pid').st_ino}"


def _started(pid: int) -> str:
    """When a process started, in clock ticks since boot; "" when there is none."""
    try:
        return Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def load_numba() -> None:
    """Load what kernels need, in 16 MB less: numba imports all of scipy.linalg to see whether it can offer `np.cov`, which no kernel calls."""
    hidden = sys.modules.setdefault("scipy.linalg", None)  # type: ignore[arg-type]
    import_module("numba.np.arraymath")
    if hidden is None:
        del sys.modules["scipy.linalg"]


def main() -> None:
    """Tie this process to its parent, then become the module."""
    parent, module = int(sys.argv[1]), sys.argv[2]
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:      # it died before the kernel knew
        sys.exit(0)
    sys.argv = [module]
    gc.disable()        # what is loaded stays: to look at it again and again is a tenth of the time that it takes
    begin = getattr(import_module(module), "main", None)
    gc.freeze()
    gc.enable()
    gate = os.environ.pop(GATE, "")
    if gate and not os.read(int(gate), 1):      # the supervisor cannot serve
        sys.exit(0)
    if begin is not None:
        sys.exit(begin())
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
