"""What can go wrong between a client and the service.

    ClientError
    ├── Refused          the service answered 4xx: the request is at fault, and `problems` say where
    ├── Failed           the service answered 5xx: it cannot do this now
    └── Unreachable      nobody answered
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, where (a JSON Pointer into the request), and the nearest known name."""

    pointer: str
    code: str
    detail: str
    suggestion: str | None = None

    def __str__(self) -> str:
        hint = f" (did you mean {self.suggestion}?)" if self.suggestion else ""
        return f"{self.pointer}{': ' if self.pointer else ''}{self.detail}{hint}"


class ClientError(Exception):
    """The service did not do what it was asked to."""


class Unreachable(ClientError):
    """Nobody answers at the service's address."""


class Answered(ClientError):
    """An answer in the error shape (RFC 9457). Its text has all problems, one a line."""

    def __init__(self, status: int, body: dict[str, Any]):
        self.status = status
        self.code = str(body.get("code", ""))
        self.title = str(body.get("title", ""))
        self.detail = str(body.get("detail", ""))
        self.problems: Sequence[Problem] = [Problem(item.get("pointer", ""), item.get("code", ""), item.get("detail", ""), item.get("suggestion"))
                                            for item in body.get("errors", ())]
        super().__init__("\n".join([f"{self.title or status}: {self.detail}", *(f"  {problem}" for problem in self.problems)]))


class Refused(Answered):
    """4xx: the request is at fault."""


class Failed(Answered):
    """5xx: the service cannot do this now, or not yet."""
