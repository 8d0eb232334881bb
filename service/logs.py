"""What the processes say of themselves: lines on stderr, plain, or JSON for machines. Who reads them slowly, or not at all, holds up nobody.

    log = logs.of("worker")
    with logs.about(job_id=…):
        log.info("attempt %d begins", 1, extra=logs.fields(from_step=0))

A line has what is being done in its thread: `request_id`, `job_id`.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar, Token
from types import MappingProxyType
from typing import Any

from service.jobs import iso
from service.settings import Settings

ROOT = "trainyard"
MOST_WAITING = 10_000       # lines; further ones are counted and dropped
LAST_SECONDS = 1.0          # for what is left to be written when the process ends
_about: ContextVar[Mapping[str, str]] = ContextVar("about", default=MappingProxyType({}))


def of(name: str) -> logging.Logger:
    """The logger of a part of the service."""
    return logging.getLogger(f"{ROOT}.{name}")


@contextmanager
def about(**fields: str) -> Iterator[None]:
    """What is said inside the block is about these: `request_id`, `job_id`."""
    before = begin(**fields)
    try:
        yield
    finally:
        end(before)


def begin(**fields: str) -> Token[Mapping[str, str]]:
    """`about` without a block: `end` takes what this gave."""
    return _about.set({**_about.get(), **fields})


def end(before: Token[Mapping[str, str]]) -> None:
    _about.reset(before)


def current(name: str) -> str:
    """The id that is being worked on here; "" where there is none."""
    return _about.get().get(name, "")


def fields(**more: Any) -> dict[str, Any]:
    """Further fields of a line, as the `extra` of a call."""
    return {"fields": more}


def install(settings: Settings, role: str) -> None:
    """From here on this process logs as the settings say. `role`: which of the service's processes it is."""
    json_lines = settings.log_format == "json"
    handler = Patient(Lines(role) if json_lines else Plain(role))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger(ROOT).setLevel((settings.log_level or ("info" if json_lines else "warning")).upper())
    logging.captureWarnings(True)
    if json_lines:
        sys.excepthook = lambda kind, error, trace: of(role).critical("ended by an exception", exc_info=(kind, error, trace))
    atexit.register(handler.end)


class Plain(logging.Formatter):
    """`supervisor: what happened`."""

    def __init__(self, role: str):
        super().__init__()
        self.prefix = role if role in ("supervisor", "courier") else f"{role} {os.getpid()}"

    def format(self, record: logging.LogRecord) -> str:
        more = {**_about.get(), **getattr(record, "fields", {})}
        said = " ".join(f"{name}={value}" for name, value in more.items() if value not in ("", None))
        text = f"{self.prefix}: {record.getMessage()}" + (f"  [{said}]" if said else "")
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


class Lines(logging.Formatter):
    """One JSON object a line."""

    def __init__(self, role: str):
        super().__init__()
        self.role = role

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {"time": iso(record.created), "level": record.levelname.lower(), "role": self.role, "pid": record.process,
                                "logger": record.name, "message": record.getMessage(), **_about.get(), **getattr(record, "fields", {})}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps({name: value for name, value in line.items() if value not in ("", None)}, ensure_ascii=False, default=str)


class Patient(logging.Handler):
    """Hands lines to a thread that writes them: the caller never waits for a full pipe."""

    def __init__(self, formatter: logging.Formatter):
        super().__init__()
        self.setFormatter(formatter)
        self._waiting: deque[str] = deque()
        self._news, self._idle = threading.Event(), threading.Event()
        self._dropped = 0
        self._idle.set()
        threading.Thread(target=self._work, name="logs", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        if len(self._waiting) >= MOST_WAITING:
            self._dropped += 1
            return
        try:
            self._waiting.append(self.format(record))
        except Exception:
            self.handleError(record)
        self._idle.clear()
        self._news.set()

    def _work(self) -> None:
        while True:
            self._news.wait()
            self._news.clear()
            while self._waiting:
                line = self._waiting.popleft()
                dropped, self._dropped = self._dropped, 0
                try:
                    sys.stderr.write(line + "\n" + (f"{dropped} lines were not written\n" if dropped else ""))
                    sys.stderr.flush()
                except (OSError, ValueError):       # nobody reads any more
                    self._waiting.clear()
            self._idle.set()

    def end(self) -> None:
        """Give what is left a moment to be written."""
        deadline = time.monotonic() + LAST_SECONDS
        while self._waiting and time.monotonic() < deadline:
            time.sleep(0.005)
        self._idle.wait(max(0.0, deadline - time.monotonic()))
