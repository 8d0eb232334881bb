"""A home folder with a real store, whose schema is made once and copied; supervisors with their processes; a service for all."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from service.client import Client, Refused
from service.jobs import LIVE
from service.store import Store
from tests.homes import fresh
from tests.postgres import MISSING, Postgres
from tests.service.running import Running
from tests.serving import Server, serving

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)      # or each of the hundreds of processes that tests start compiles all of its modules
gc.set_threshold(50_000)                # what is collected stays: to look through ten thousand tests again and again is a tenth of all time

settings.register_profile("here", deadline=None, suppress_health_check=[HealthCheck.too_slow])      # a busy machine is no failure
settings.load_profile("here")


LONG = ("/reliability/", "/cuda/", "test_ops", "test_onnx", "test_journey", "test_backup", "test_cli", "test_examples", "test_same_bits",
        "test_processes", "test_recovery")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, so that no process is left alone with one at the end; those that compute by turns with those that wait for others."""
    files, places = dict.fromkeys(item.nodeid.partition("::")[0] for item in items), dict[str, int]()
    for computes in (True, False):
        group = [file for file in files if ("/engine/" in file) == computes]
        places |= {file: place for place, file in enumerate(sorted(group, key=lambda file: not any(word in file for word in LONG)))}
    items.sort(key=lambda item: places[item.nodeid.partition("::")[0]])


def pytest_collection_finish() -> None:
    """None of what was collected is looked through again, in this process or, page by page, in those that are forked from it."""
    gc.freeze()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return fresh(tmp_path / "home")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A server, where one can be had."""
    if MISSING:
        pytest.skip(MISSING)
    server = Postgres()
    yield server
    server.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest) -> str:
    """Where the test's stores are: empty for SQLite in `home`."""
    return "" if request.param == "sqlite" else request.getfixturevalue("postgres").fresh()


@pytest.fixture
def open_store(home: Path, store_url: str) -> Iterator[Callable[[], Store]]:
    """Opens the store of the test once more, as another process would."""
    opened: list[Store] = []

    def open_one() -> Store:
        opened.append(Store.at(home, store_url))
        return opened[-1]

    yield open_one
    for store in opened:
        store.close()


@pytest.fixture
def store(open_store: Callable[[], Store]) -> Store:
    """An empty store of each kind that there is; every test of the store runs on all of them."""
    return open_store()


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Starts supervisors; all are gone after the test."""
    started: list[Running] = []

    def start(*arguments: str, **settings: object) -> Running:
        started.append(Running(fresh(tmp_path / "home"), *arguments, **settings))
        return started[-1]

    yield start
    for one in started:
        one.close()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One supervisor with two workers, for the tests that leave it as it was."""
    one = Running(fresh(tmp_path_factory.mktemp("shared") / "home"), workers=2)
    yield one
    one.close()


@pytest.fixture(scope="session")
def shared_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(fresh(tmp_path_factory.mktemp("service") / "home")) as server:
        yield server


@pytest.fixture(scope="module")
def service(shared_service: Server) -> Iterator[Server]:
    """A service with nothing set, for tests that leave it as it is and ask only about what is theirs. No job of theirs lives on after their file."""
    yield shared_service
    with Client(shared_service.url) as client:
        for job in list(client.jobs(status=",".join(LIVE))):
            with suppress(Refused):     # it has ended meanwhile
                client.cancel(job.id)
