"""The whole service as its users start it, for tests that talk to it from outside."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TextIO
from urllib.parse import urlsplit

from typer.testing import CliRunner

from service.cli import app

ROOT = Path(__file__).parent.parent
READY = "Trainyard is ready at "
PATIENCE = 120.0        # seconds for a service to start
TRAINYARD = [sys.executable, "-m", "service.cli"]


class Server:
    """`trainyard serve` on a home folder and a free port, which it keeps when it is started again. `settings` are variables without the prefix."""

    def __init__(self, home: Path, **settings: object):
        self.home, self.port, self.url = home, "0", ""
        self.environment = {**os.environ, **{f"TRAINYARD_{name.upper()}": str(value) for name, value in settings.items()}}

    def launch(self) -> None:
        """Begin to start."""
        command = [*TRAINYARD, "serve", "--home", str(self.home), "--port", self.port]
        self.process = subprocess.Popen(command, cwd=ROOT, env=self.environment, stdout=subprocess.PIPE, text=True)

    def start(self) -> None:
        """Start, until it can take a job. Where it cannot in time, an AssertionError has what it said; its log is in the test's captured output."""
        self.launch()
        said, lines = list[str](), SimpleQueue[str]()
        threading.Thread(target=_read, args=(self.process.stdout, lines), daemon=True).start()
        until = time.monotonic() + PATIENCE
        while not said or not said[-1].startswith(READY):
            try:
                said.append(lines.get(timeout=max(0.0, until - time.monotonic())))
            except Empty:
                raise AssertionError(f"the service is not ready after {PATIENCE:g} s; it said {said}") from None
            assert said[-1], f"the service ended with {self.process.wait(10)} before it was ready; it said {said[:-1]}"
        self.url = said[-1].removeprefix(READY).strip()
        self.port = self.url.rpartition(":")[2]

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(45) == 0


def _read(stream: TextIO, lines: SimpleQueue[str]) -> None:
    """Hand every line on, and an empty one at the end."""
    with stream:
        for line in stream:
            lines.put(line)
    lines.put("")


@contextmanager
def serving(home: Path, **settings: object) -> Iterator[Server]:
    """A running service, which ends well when it is told to."""
    server = Server(home, **settings)
    try:
        server.start()
        yield server
        server.stop()
    finally:
        server.process.kill()
        server.process.wait()


def trainyard(*arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run one command to its end."""
    return subprocess.run([*TRAINYARD, *map(str, arguments)], cwd=ROOT, env={**os.environ, **variables}, capture_output=True, text=True, timeout=240)


def command(*arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run one command to its end in this process, which has loaded already what each process would load anew. Its faults are raised here."""
    words, interrupt = [str(argument) for argument in arguments], signal.getsignal(signal.SIGINT)
    try:
        done = CliRunner().invoke(app, words, env=variables, catch_exceptions=False, prog_name="trainyard")
    finally:
        signal.signal(signal.SIGINT, interrupt)
    return subprocess.CompletedProcess(words, done.exit_code, done.stdout, done.stderr)


@contextmanager
def cutting(url: str, most: int) -> Iterator[str]:
    """The URL of a proxy that cuts every connection off after `most` bytes of answer."""
    target = urlsplit(url)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        def serve() -> None:
            with suppress(OSError):
                while True:
                    near, _ = listening.accept()
                    threading.Thread(target=_pass_on, args=(near, (target.hostname, target.port), most), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def _pass_on(near: socket.socket, target: tuple[str, int], most: int) -> None:
    """One request to the target, and the beginning of its answer back."""
    with near, socket.create_connection(target) as far, suppress(OSError):
        far.sendall(near.recv(65536))
        while most > 0 and (piece := far.recv(most)):
            near.sendall(piece)
            most -= len(piece)
