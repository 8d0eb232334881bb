"""Servers for the tests of the API: one for all, one with small limits, more on demand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from running import Running, free_port, start

from tests.homes import fresh


@pytest.fixture(scope="session")
def start_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Running]]:
    """Starts servers: on an empty home, or on the `home` that is given."""
    started: list[Running] = []

    def start_one(home: Path | None = None, port: int = 0, **variables: str) -> Running:
        started.append(start(home or fresh(tmp_path_factory.mktemp("home")), port or free_port(), **variables))
        return started[-1]

    yield start_one
    for one in started:
        one.http.close()
        one.process.kill()
        one.process.wait()


@pytest.fixture(scope="session")
def server(start_server: Callable[..., Running]) -> Running:
    return start_server()


@pytest.fixture(scope="session")
def limited(start_server: Callable[..., Running]) -> Running:
    """One that takes small uploads and one stream at a time."""
    return start_server(TRAINYARD_MAX_UPLOAD_BYTES="2000", TRAINYARD_MAX_STREAMS="1")


@pytest.fixture
def http(server: Running) -> httpx.Client:
    return server.http
