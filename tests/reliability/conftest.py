"""What the proofs share: besides the homes and supervisors of all tests, a way to say what was shown."""

from __future__ import annotations

from collections.abc import Callable

import pytest


@pytest.fixture
def shown(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Call it with what the test has shown, in a few words with numbers: `python -m tests.reliability` prints them."""
    return lambda said: record_property("shown", said)
