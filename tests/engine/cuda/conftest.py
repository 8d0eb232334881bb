"""What of the simulator's tests always runs: of each test, and of each op within it, the first case and every third; the others are slow ones.

The simulator's threads take turns in any case. On one processor they are eight times as fast as where two fight for the interpreter.
"""

from __future__ import annotations

import os
from collections import Counter

import pytest

from tests.engine.cuda.simulate import SIMULATING

if SIMULATING:
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[os.getpid() % len(os.sched_getaffinity(0))]})


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not SIMULATING:
        return
    seen = Counter[tuple[str, str]]()
    for item in items:
        given = getattr(getattr(item, "callspec", None), "params", {})
        of = item.nodeid.partition("[")[0], getattr(given.get("op"), "name", "")
        if seen[of] % 3:
            item.add_marker(pytest.mark.slow)
        seen[of] += 1
