"""Many kernels made at once: by processes side by side, each its share, into the cache from which they are then loaded."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Collection
from importlib import import_module
from typing import Any

COMMAND = "engine.devices.cuda.build"       # run as a program, too: so it is imported only when it is used
SHARE = 6           # kernels worth a process: it takes as long to start as to make some of them
MOST_PROCESSES = 8


def prepare(kernels: Collection[tuple[str, str]], arch: int) -> None:
    """Make those (name, number type) that are not in the cache, where they are many; what this leaves is made when it is loaded."""
    build: Any = import_module(COMMAND)
    missing = sorted(kind for kind in kernels if not build.is_built(*kind, arch))
    several = min(MOST_PROCESSES, os.cpu_count() or 1, len(missing) // SHARE)
    if several < 2:
        return
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    started = []
    for dtype in {dtype for _, dtype in missing}:
        names = [name for name, its in missing if its == dtype]
        for share in filter(None, (names[k::several] for k in range(several))):
            command = [sys.executable, "-m", COMMAND, *share, "--arch", str(arch), "--dtype", dtype]
            started.append(subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                            stderr=subprocess.DEVNULL))
    for process in started:
        process.wait()
