"""Errors as a client sees them (RFC 9457), and the named places where a test may make the process die.

    ServiceError             one 4xx or 5xx answer: status, code, detail, the list of problems, headers
    └── StorageFull          507: the disk took no more; nothing of the refused write is visible
    StaleFence               not an answer: the writer's claim on a job is over, so nothing was written
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the supervisor imports this module and must stay free of the engine
    from engine.errors import Problem

TITLES = {
    "malformed_json": "The body is not JSON",
    "invalid_request": "The request cannot be answered as written",
    "invalid_spec": "The job cannot be run as written",
    "unauthorised": "A token is needed",
    "insufficient_scope": "The token may not do this",
    "quota_exceeded": "The share of this token is used up",
    "last_admin": "A token with the scope admin is needed",
    "request_timeout": "The request took too long",
    "forbidden": "This is not allowed here",
    "not_found": "There is no such thing",
    "method_not_allowed": "This path does not take this method",
    "not_acceptable": "The answer has no such form",
    "conflict": "The state of the thing does not allow this",
    "precondition_failed": "It has changed meanwhile",
    "in_use": "It is still in use",
    "no_checkpoint": "There is no checkpoint yet",
    "idempotency_running": "The first request with this key is still running",
    "idempotency_mismatch": "This key was used with another request",
    "too_large": "The request is too large",
    "range_not_satisfiable": "The file has no such part",
    "unsupported_media_type": "This kind of content is not read",
    "overloaded": "Too many requests at once",
    "shutting_down": "The service is stopping",
    "unavailable": "The service cannot do this just now",
    "storage_full": "The disk is full",
    "dataset_missing": "The dataset is no longer there",
    "dataset_damaged": "The dataset is damaged",
    "checkpoint_corrupt": "The checkpoint is damaged",
    "internal": "Something went wrong on our side",
}


class ServiceError(Exception):
    """One answer in the error shape of every 4xx and 5xx."""

    def __init__(self, status: int, code: str, detail: str, errors: Iterable[Problem] = (), headers: Mapping[str, str] | None = None, **more: Any):
        super().__init__(detail)
        self.status, self.code, self.detail = status, code, detail
        self.errors, self.headers, self.more = list(errors), dict(headers or {}), more

    def as_dict(self, instance: str) -> dict[str, Any]:
        """The body of `application/problem+json`; `instance` is the path that was asked."""
        body: dict[str, Any] = {"type": f"/docs/errors#{self.code}", "title": TITLES.get(self.code, self.code.replace("_", " ").capitalize()),
                                "status": self.status, "detail": self.detail, "instance": instance, "code": self.code, **self.more}
        if self.errors:
            body["errors"] = [problem.as_dict() for problem in self.errors]
        return body


class StorageFull(ServiceError):
    """The disk took no more."""

    def __init__(self, detail: str = "the disk is full: free some space, then send the request again"):
        super().__init__(507, "storage_full", detail)


class StaleFence(Exception):
    """The job was claimed again, ended or removed since this claim: the writer has no say in it any more."""

    def __init__(self, job_id: str, fence: int):
        super().__init__(f"claim {fence} on {job_id} is over")
        self.job_id, self.fence = job_id, fence


def invalid_spec(problems: Iterable[Problem]) -> ServiceError:
    """422 with every problem of the spec at once."""
    found = list(problems)
    return ServiceError(422, "invalid_spec", "1 error" if len(found) == 1 else f"{len(found)} errors", found)


def invalid_request(detail: str, problems: Iterable[Problem] = (), status: int = 422) -> ServiceError:
    """422 (or another 4xx) for a request that is wrong outside a job spec."""
    return ServiceError(status, "invalid_request", detail, problems)


def not_found(what: str, name: str) -> ServiceError:
    """404: `what` is the noun ("job", "dataset"), `name` what was asked for."""
    return ServiceError(404, "not_found", f"there is no {what} {name}")


def conflict(detail: str, code: str = "conflict", retry: bool = False, **more: Any) -> ServiceError:
    """409; unless `retry`, the client is told that sending it again cannot help."""
    return ServiceError(409, code, detail, headers={} if retry else {"x-should-retry": "false"}, **more)


def too_large(detail: str) -> ServiceError:
    return ServiceError(413, "too_large", detail)


def unavailable(detail: str, seconds: int = 1, code: str = "unavailable") -> ServiceError:
    """503 with `Retry-After`."""
    return ServiceError(503, code, detail, headers={"Retry-After": str(seconds)})


def overloaded(detail: str, seconds: int = 1) -> ServiceError:
    """429 with `Retry-After`."""
    return ServiceError(429, "overloaded", detail, headers={"Retry-After": str(seconds)})


_hits: dict[str, int] = {}


def crash_point(name: str, failing: Exception | None = None) -> None:
    """Die here, as by a power cut, or fail in the given way, when `TRAINYARD_CRASH_POINT` is `name` or `name:N` (the N-th pass, from 1)."""
    wanted = os.environ.get("TRAINYARD_CRASH_POINT")
    if not wanted:
        return
    place, _, hit = wanted.partition(":")
    if place == name:
        _hits[name] = _hits.get(name, 0) + 1
        if _hits[name] == int(hit or 1):
            if failing is not None:
                raise failing
            os._exit(CRASHED)


CRASHED = 86    # the exit status of a process that died at a crash point
