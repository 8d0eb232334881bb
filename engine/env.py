"""Every variable that helps to look inside, one row each. All are read once, at import."""

from __future__ import annotations

import os
from pathlib import Path


def _flag(name: str) -> int:
    text = os.environ.get(name, "0").strip()
    return int(text) if text.isdigit() else 0


DEBUG = _flag("TRAINYARD_DEBUG")            # 1: plans made; 2: time per row; 3: rows; 4: kernels' source files
VALIDATE = _flag("TRAINYARD_VALIDATE")      # 1: compare each row with its oracle, name the first that differs
CACHE = Path(os.environ.get("TRAINYARD_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trainyard")   # compiled kernels
