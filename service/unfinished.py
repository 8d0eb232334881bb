"""Folders and files that a process is making: their names tell which process, so that whoever comes later knows what nobody will finish."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

MARK = ".new-"


def prefix() -> str:
    """How the name begins of what this process is making."""
    return f"{MARK}{os.getpid()}-{_started(os.getpid())}-"


def sweep(folder: Path) -> list[str]:
    """Remove from a folder what processes were making that are gone. Returns the names."""
    left = [path for path in folder.glob(MARK + "*") if not _lives(path.name)]
    for path in left:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return [path.name for path in left]


def _lives(name: str) -> bool:
    pid, _, rest = name.removeprefix(MARK).partition("-")
    return pid.isdigit() and rest.partition("-")[0] == _started(int(pid)) != ""


def _started(pid: int) -> str:
    """When a process started, in clock ticks since boot; "" when there is none."""
    try:
        return Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""
