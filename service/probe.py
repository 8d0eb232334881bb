"""The search for GPUs: asks the driver, tells what was found for the supervisor that started this process, and ends."""

from __future__ import annotations

import os
from dataclasses import asdict

from engine.devices.cuda import probe
from service.devices import ALL, Devices, tell
from service.settings import Settings
from service.stream import run_folder


def look(wanted: str) -> Devices:
    """The GPUs that this service may use: all, or those whose numbers it is told."""
    if reason := probe.reason():
        return Devices(reason=reason)
    able = [gpu for gpu in probe.devices() if gpu.capability >= probe.LEAST]
    chosen = [gpu for gpu in able if wanted == ALL or str(gpu.index) in {number.strip() for number in wanted.split(",")}]
    if not chosen:
        return Devices(reason=f"none of the GPUs {wanted}, which TRAINYARD_GPUS names, is among those here: {', '.join(str(g.index) for g in able)}")
    return Devices(tuple(asdict(gpu) for gpu in chosen))


def main() -> None:
    settings = Settings()
    tell(run_folder(settings.home), os.getppid(), look(settings.gpus))


if __name__ == "__main__":
    main()
