"""A receiver of webhooks: a process with a real HTTP server, which writes down what it is sent and answers as it is told to.

    python -m tests.service.receiver FOLDER [CERTIFICATE KEY]

In FOLDER: `port`, as soon as it listens; `received`, a line of JSON for each request; `script`, a line for each answer to give ("500", "slow 20",
"redirect URL", "drip"), used up from the first, then 200.
"""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


class Receiver:
    """The process, seen from a test."""

    def __init__(self, folder: Path, scheme: str = "http"):
        self.folder, self.scheme = folder, scheme

    @property
    def place(self) -> str:
        return f"127.0.0.1:{(self.folder / 'port').read_text()}"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.place}/hook?who=me"

    def answers(self, *words: str) -> None:
        """What it answers next, one after the other."""
        (self.folder / "script").write_text("\n".join(words))

    def received(self) -> list[dict[str, Any]]:
        path = self.folder / "received"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@contextmanager
def receiving(folder: Path, certificate: Path | None = None, key: Path | None = None) -> Iterator[Receiver]:
    """A receiver that runs."""
    folder.mkdir(parents=True, exist_ok=True)
    secured = [str(certificate), str(key)] if certificate else []
    process = subprocess.Popen([sys.executable, "-m", "tests.service.receiver", str(folder), *secured], cwd=ROOT)
    try:
        deadline = time.monotonic() + 60
        while not (folder / "port").exists():
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.02)
        yield Receiver(folder, "https" if certificate else "http")
    finally:
        process.kill()
        process.wait()


class Handler(BaseHTTPRequestHandler):
    folder: Path
    turn = threading.Lock()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        with self.turn:
            word = self._next()
            with open(self.folder / "received", "a") as file:
                file.write(json.dumps({"path": self.path, "headers": {name.lower(): value for name, value in self.headers.items()},
                                       "body": body.decode(), "at": time.time(), "answer": word}) + "\n")
        kind, _, more = word.partition(" ")
        if kind == "slow":
            time.sleep(float(more))
            kind = "200"
        if kind == "drip":          # a byte now and then, never an answer
            for byte in b"HTTP/1.1 200 OK\r\n" * 100:
                self.wfile.write(bytes([byte]))
                time.sleep(0.5)
        self.send_response(307 if kind == "redirect" else int(kind))
        if kind == "redirect":
            self.send_header("Location", more)
        self.end_headers()

    do_GET = do_POST

    def _next(self) -> str:
        script = self.folder / "script"
        words = script.read_text().splitlines() if script.exists() else []
        if not words:
            return "200"
        script.write_text("\n".join(words[1:]))
        return words[0]

    def log_message(self, format: str, *args: object) -> None:
        pass


def main() -> None:
    Handler.folder = Path(sys.argv[1])
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if len(sys.argv) > 2:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(sys.argv[2], sys.argv[3])
        server.socket = context.wrap_socket(server.socket, server_side=True)
    temporary = Handler.folder / "port.new"
    temporary.write_text(str(server.server_address[1]))
    os.replace(temporary, Handler.folder / "port")
    server.serve_forever()


if __name__ == "__main__":
    main()
