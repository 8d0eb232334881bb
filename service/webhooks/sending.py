"""One POST: no redirect is followed, no proxy asked, of the answer only its status is read, and it all takes so many seconds at most."""

from __future__ import annotations

import re
import socket
import ssl
import time
from collections.abc import Mapping
from functools import cache

from service.webhooks.addresses import PORTS, NotAllowed, Target, check_peer

MOST_HEAD = 65536
STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})(?: [^\r\n]*)?\r?\n")
FINAL = 200             # what is below tells that the answer is still to come


class NoAnswer(Exception):
    """What came instead of an answer, in words."""


def post(target: Target, headers: Mapping[str, str], body: bytes, seconds: float) -> int:
    """The status that the receiver answers with. NoAnswer where it does not, NotAllowed where it is not to be asked."""
    deadline = time.monotonic() + seconds
    try:
        with _connected(target, deadline) as stream:
            stream.settimeout(_left(deadline))
            stream.sendall(_request(target, headers, body))
            return _status(stream, deadline)
    except TimeoutError:
        raise NoAnswer(f"no answer within {seconds:g} seconds") from None
    except ssl.SSLError as error:
        raise NoAnswer(f"TLS failed: {getattr(error, 'verify_message', '') or error.reason or error}") from None
    except OSError as error:
        raise NoAnswer(f"cannot connect: {error.strerror or error}") from None


def _connected(target: Target, deadline: float) -> socket.socket:
    """A connection to the first address of the host that takes one. What it is connected to is looked at before a byte is sent."""
    failure: Exception = NoAnswer(f"{target.host} has no address")
    for family, kind, protocol, _, address in socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM):
        made = socket.socket(family, kind, protocol)
        try:
            check_peer(str(address[0]), target)
            made.settimeout(_left(deadline))
            made.connect(address)
            check_peer(made.getpeername()[0], target)
            return _tls().wrap_socket(made, server_hostname=target.host) if target.scheme == "https" else made
        except (OSError, NotAllowed) as error:
            made.close()
            if isinstance(error, TimeoutError | ssl.SSLError):
                raise
            failure = error
    raise failure


@cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _request(target: Target, headers: Mapping[str, str], body: bytes) -> bytes:
    host = f"[{target.host}]" if ":" in target.host else target.host
    place = host if target.port == PORTS[target.scheme] else f"{host}:{target.port}"
    lines = {"Host": place, "Content-Length": str(len(body)), "Connection": "close", **headers}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"POST {target.path} HTTP/1.1\r\n{head}\r\n".encode("ascii") + body


def _status(stream: socket.socket, deadline: float) -> int:
    """The status of the final answer; the rest of it is not read."""
    head = b""
    while True:
        while found := STATUS.match(head):
            if int(found[1]) >= FINAL:
                return int(found[1])
            if b"\r\n\r\n" not in head:
                break
            head = head.partition(b"\r\n\r\n")[2]
        if len(head) > MOST_HEAD or (b"\n" in head and not STATUS.match(head)):
            raise NoAnswer("the answer is not HTTP")
        stream.settimeout(_left(deadline))
        piece = stream.recv(4096)
        if not piece:
            raise NoAnswer("the receiver closed the connection without an answer")
        head += piece
