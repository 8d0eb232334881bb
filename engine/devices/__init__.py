"""Where plans run."""

from __future__ import annotations

from engine.devices.cuda import probe
from engine.errors import DeviceError


def choose(device: str) -> str:
    """The device, "cpu" or "cuda", for who asks for "auto", "cpu" or "cuda". Raises DeviceError where a GPU is asked for and none can be used."""
    if device == "cpu":
        return "cpu"
    reason = probe.reason()
    if device == "cuda" and reason:
        raise DeviceError(f"there is no GPU to train on: {reason}")
    return "cpu" if reason else "cuda"
