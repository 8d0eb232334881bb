"""What comes before a supervisor: its home and its address are taken, and its first children load their programs while it loads its own.

They wait at a gate until the supervisor has brought the store to the newest schema and put the home in order; where it cannot, they end.
"""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from service import child, logs, tally
from service.errors import ServiceError
from service.settings import Settings

API, WORKER = "service.app", "service.worker"
Process = subprocess.Popen[bytes]


class CannotServe(Exception):
    """The service cannot start: another one owns the home, or the address is taken."""


@dataclass
class Ahead:
    """What a supervisor finds: its own name, its listening socket where it has an API, and the children that wait for it."""

    settings: Settings
    owner: str
    listening: socket.socket | None
    gate: tuple[int, int] = field(default_factory=os.pipe)
    waiting: list[Process] = field(default_factory=list)

    def load(self) -> None:
        """Let the first children load their programs: the API, and all workers."""
        if self.listening is not None:
            self._load(API, of_api(self.listening))
        for number in range(self.settings.workers):
            self._load(WORKER, of_worker(self.owner, number))

    def _load(self, module: str, how: dict[str, Any]) -> None:
        at_gate = {**how, "inherit": (*how.get("inherit", ()), self.gate[0]), child.GATE: str(self.gate[0])}
        self.waiting.append(child.start(module, self.settings, **at_gate))

    @property
    def api(self) -> Process | None:
        return self.waiting[0] if self.listening is not None else None

    @property
    def workers(self) -> list[Process]:
        return self.waiting[self.listening is not None:]

    def open(self) -> None:
        """Let them begin."""
        os.write(self.gate[1], b"." * len(self.waiting))
        self.waiting = []

    def close(self) -> None:
        """Whoever still waits ends."""
        for end in self.gate:
            os.close(end)
        for process in self.waiting:
            process.kill()
            process.wait()


def of_api(listening: socket.socket) -> dict[str, Any]:
    """How the API's process is started."""
    return {"inherit": (listening.fileno(),), child.LISTENING: str(listening.fileno())}


def of_worker(owner: str, number: int, gpu: str = "") -> dict[str, Any]:
    """How a worker's process is started; `gpu` is what CUDA calls the one that it has."""
    return {"gpus": gpu, child.OWNER: owner, child.GPU: gpu, tally.SLOT: f"{os.getpid()}.{number}"}


def run(settings: Settings, with_api: bool) -> int:
    """Run a supervisor until it is told to end. Returns the exit status."""
    try:
        settings.home.mkdir(parents=True, exist_ok=True)
        logs.install(settings, "supervisor")
        with _sole_owner(settings.home) if with_api else nullcontext(), _loading(settings, with_api) as ahead:
            return import_module("service.supervisor").Supervisor(ahead).run()
    except (CannotServe, ServiceError) as error:
        print(f"trainyard: {error}", file=sys.stderr)
        return 1


@contextmanager
def _loading(settings: Settings, with_api: bool) -> Iterator[Ahead]:
    listening = _listen(settings) if with_api else None
    if listening is not None:
        settings = settings.model_copy(update={"port": listening.getsockname()[1]})
    ahead = Ahead(settings, child.name_of("serve" if with_api else "worker"), listening)
    try:
        ahead.load()
        yield ahead
    finally:
        with suppress(OSError):
            ahead.close()


@contextmanager
def _sole_owner(home: Path) -> Iterator[None]:
    """Hold the home's lock file; the kernel lets go of it when this process dies."""
    with open(home / "serve.lock", "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            pid = file.read().strip()
            raise CannotServe(f"a service (pid {pid}) already runs on {home}: stop it, or give another --home") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _listen(settings: Settings) -> socket.socket:
    """The API's socket, made before anything else: a taken port is known at once, and a client waits while the API starts again."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((settings.host, settings.port))
        made.listen(2048)
    except OSError as error:
        made.close()
        raise CannotServe(f"cannot listen on {settings.host}:{settings.port}: {error.strerror}") from None
    return made
