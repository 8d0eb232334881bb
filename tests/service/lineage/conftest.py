"""One service for all that is told here of models, forks and what they begin with."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.homes import fresh
from tests.serving import Server, serving
from tests.user import User


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(fresh(tmp_path_factory.mktemp("lineage") / "home"), workers=2, threads=2, tidy_seconds=0.2) as server:
        yield server


@pytest.fixture(scope="session")
def user(service: Server) -> User:
    return User(service.url)
