"""Many kernels are made by several processes, few are left to who loads them."""

from __future__ import annotations

import os
import subprocess
from typing import Any

import pytest

from engine.devices.cuda import build, prepare


class Started:
    """A process that was asked for and does nothing."""

    commands: list[list[str]] = []

    def __init__(self, command: list[str], **options: Any):
        Started.commands.append(command)

    def wait(self) -> int:
        return 0


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The command lines of processes, where four processors are there and kernels whose names begin with x are not made yet."""
    Started.commands = []
    monkeypatch.setattr(subprocess, "Popen", Started)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(build, "is_built", lambda name, dtype, arch: not name.startswith("x"))
    return Started.commands


def test_many_missing_kernels_are_shared(started: list[list[str]]) -> None:
    kernels = [(f"x{k}", dtype) for k in range(12) for dtype in ("float32", "float64")] + [("there", "float32")]
    prepare.prepare(kernels, 86)
    shares = [command[command.index(prepare.COMMAND) + 1:command.index("--arch")] for command in started]
    dtypes = [command[-1] for command in started]
    assert sorted((name, dtype) for share, dtype in zip(shares, dtypes, strict=True) for name in share) == sorted(kernels)[1:]
    assert len(started) == 8 and all("86" in command for command in started)


def test_few_missing_kernels_are_left(started: list[list[str]]) -> None:
    prepare.prepare([(f"x{k}", "float32") for k in range(11)] + [(f"y{k}", "float32") for k in range(100)], 90)
    assert not started
