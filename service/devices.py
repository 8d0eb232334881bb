"""The GPUs of this machine: looked for once, in a process of its own, and told to everybody in the run folder, as `devices.<pid of the supervisor>`;
and in the store, for who is on another machine.

Only the workers that a GPU is given to ever touch one: from all other processes GPUs are hidden.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from service import child
from service.settings import Settings

NONE, ALL = "none", "all"
MOST_SECONDS = 60.0         # for a driver to answer
NODES = tuple(map(Path, ("/dev/nvidiactl", "/dev/dxg", "/dev/nvhost-gpu", "/dev/nvgpu")))      # one is there wherever a GPU is: Linux, WSL, Jetson
NO_GPU = "this machine has no NVIDIA GPU"
NOT_SERVED = "no service runs here that has looked for GPUs"
VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Devices:
    """`gpus`: index, name, capability and memory of each that a worker is given; `reason`: why there is none, and what to do."""

    gpus: tuple[dict[str, Any], ...] = ()
    reason: str = ""


def told(folder: Path) -> Devices:
    """What the living supervisors of a home have found, by its run folder."""
    found = []
    for path in sorted(folder.glob("devices.*")):
        with suppress(OSError, ValueError):         # just made, or just removed
            if Path("/proc", path.suffix[1:]).exists():
                found.append(json.loads(path.read_text()))
    gpus = tuple(gpu for one in found for gpu in one["gpus"])
    return Devices(gpus, "" if gpus else next((one["reason"] for one in found), NOT_SERVED))


def anywhere(folder: Path, gpus: Sequence[dict[str, Any]]) -> Devices:
    """The GPUs that the store knows of, here and elsewhere; before it knows of any, those of the run folder, or why it has none."""
    return Devices(tuple(gpus)) if gpus else told(folder)


def tell(folder: Path, pid: int, devices: Devices) -> None:
    """Say what the supervisor of that number has."""
    path = folder / f"devices.{pid}"
    temporary = folder / f"found.{pid}"
    temporary.write_text(json.dumps(asdict(devices)))
    os.replace(temporary, path)


class Search:
    """The search of a supervisor, beside everything else that starts. `found` is None until it is over."""

    def __init__(self, settings: Settings, folder: Path):
        self.folder = folder
        self.found: Devices | None = None
        self.process: subprocess.Popen[bytes] | None = None
        self.began = time.monotonic()
        self.path = folder / f"devices.{os.getpid()}"
        self.path.unlink(missing_ok=True)           # left by a dead process that had this pid
        if settings.gpus == NONE or settings.workers == 0:
            self._end(Devices(reason="this service is told to use none" if settings.workers else "no worker runs here"))
        elif settings.gpus == ALL and not any(node.exists() for node in NODES):
            self._end(Devices(reason=NO_GPU))
        else:
            self.process = child.start("service.probe", settings, gpus=None)

    def look(self) -> bool:
        """Whether it has just ended."""
        if self.process is None:
            return False
        code = self.process.poll()
        if code is None and time.monotonic() - self.began < MOST_SECONDS:
            return False
        if code is None:
            self.process.kill()
        self.process = None
        try:
            self._end(Devices(**json.loads(self.path.read_text())))
        except (OSError, ValueError):
            why = f"ended with status {code}" if code is not None else f"did not answer for {MOST_SECONDS:g} seconds"
            self._end(Devices(reason=f"the search for GPUs {why}: see what nvidia-smi says"))
        return True

    def _end(self, found: Devices) -> None:
        self.found = found
        tell(self.folder, os.getpid(), found)


def names(gpus: tuple[dict[str, Any], ...]) -> list[str]:
    """What CUDA_VISIBLE_DEVICES is for a worker of each: their numbers, or what they are called among those that this service was shown."""
    shown = [name.strip() for name in os.environ.get(VISIBLE, "").split(",") if name.strip()]
    return [shown[gpu["index"]] if shown else str(gpu["index"]) for gpu in gpus]
