"""How much of a promise is tried: a short form that always runs, and the full one, which runs with `-m slow` or `python -m tests.reliability`."""

from __future__ import annotations

from typing import Any

import pytest


def short_or_full(name: str, short: Any, full: Any) -> pytest.MarkDecorator:
    """Run the test twice, with `name` of either size; the full form takes as long as it takes."""
    long = [pytest.mark.slow, pytest.mark.timeout(0)]
    return pytest.mark.parametrize(name, [pytest.param(short, id="short"), pytest.param(full, id="full", marks=long)])
