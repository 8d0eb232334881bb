"""What a job may become: states and transitions (pure), ids, times, and the plain values of its spec.

    queued     -> running | cancelled | failed            dataset gone, attempts used up
    running    -> succeeded | failed | pausing | cancelling | queued     worker lost, or server drained
    pausing    -> paused | cancelling | succeeded | failed
    paused     -> queued | cancelled
    cancelling -> cancelled | succeeded | failed          it was already done
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, Protocol

Status = Literal["queued", "running", "pausing", "paused", "cancelling", "succeeded", "failed", "cancelled"]

TRANSITIONS: dict[str, tuple[str, ...]] = {
    "queued": ("running", "cancelled", "failed"),
    "running": ("succeeded", "failed", "pausing", "cancelling", "queued"),
    "pausing": ("paused", "cancelling", "succeeded", "failed"),
    "paused": ("queued", "cancelled"),
    "cancelling": ("cancelled", "succeeded", "failed"),
    "succeeded": (),
    "failed": (),
    "cancelled": (),
}
STATES = tuple(TRANSITIONS)
TERMINAL = frozenset(state for state, following in TRANSITIONS.items() if not following)
HELD = frozenset({"running", "pausing", "cancelling"})     # a worker holds the job and its claim may write
LIVE = frozenset(STATES) - TERMINAL
TERMINAL_EVENTS = tuple(f"job.{state}" for state in STATES if state in TERMINAL)
EVENTS = ("job.queued", "job.started", "job.pausing", "job.paused", "job.resumed", "job.requeued", "job.cancelling", *TERMINAL_EVENTS,
          "epoch", "step", "checkpoint", "evaluation", "adjusted", "nonfinite", "stopped_early", "warning")

DEVICES = ("cpu", "cuda")
ANY = "auto"        # a job that either kind of worker may begin; whoever does keeps it, for the sake of its bits

# What a job becomes when its worker lets go of it, by the state it was in.
LET_GO: dict[str, Status] = {"running": "queued", "pausing": "paused", "cancelling": "cancelled"}


class IllegalTransition(ValueError):
    """A change of state that the table does not have."""

    def __init__(self, old: str, new: str):
        super().__init__(f"a {old} job cannot become {new}")
        self.old, self.new = old, new


def awaited(device: str) -> tuple[str, str]:
    """(status_reason, words) for what a queued job waits for.

    >>> awaited("cuda")
    ('waiting_for_device', 'a GPU')
    """
    return ("waiting_for_device", "a GPU") if device == "cuda" else ("waiting_for_worker", "a worker")


def allowed(state: str) -> tuple[str, ...]:
    """The states that may follow `state`."""
    return TRANSITIONS[state]


def transition(old: str, new: str) -> str:
    """`new`, if it may follow `old`; else IllegalTransition."""
    if new not in TRANSITIONS[old]:
        raise IllegalTransition(old, new)
    return new


class EventLike(Protocol):
    """What the store asks of an event; the engine's events have it too."""

    @property
    def type(self) -> str: ...
    @property
    def level(self) -> str: ...
    @property
    def message(self) -> str: ...
    @property
    def data(self) -> Mapping[str, Any]: ...
    @property
    def key(self) -> str | None: ...


@dataclass(frozen=True)
class Event:
    """Something that happened to a job, before it has a number. A `key` is unique per job: a second one is dropped."""

    type: str
    message: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)
    level: str = "info"
    key: str | None = None


@dataclass(frozen=True)
class Claim:
    """The right of one worker to write one job, until the fence rises."""

    job_id: str
    fence: int
    attempt: int
    owner: str


def seconds_now() -> float:
    """Seconds since the epoch; leases are compared with it."""
    return time.time()


def iso(seconds: float) -> str:
    """ISO 8601 in UTC with milliseconds.

    >>> iso(0)
    '1970-01-01T00:00:00.000Z'
    """
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def now() -> str:
    """The present in ISO 8601, UTC, milliseconds."""
    return iso(seconds_now())


def seconds_of(text: str) -> float:
    """Seconds since the epoch of an ISO 8601 time."""
    return datetime.fromisoformat(text).timestamp()


def slack(retain_seconds: float) -> float:
    """Seconds by which a thing may be kept longer than it must: uses within them need not be written."""
    return min(60.0, retain_seconds / 10)


def is_outlived(used_at: str, retain_seconds: float) -> bool:
    """Whether so much time has passed since the last use that was written."""
    return seconds_of(used_at) + retain_seconds + slack(retain_seconds) < seconds_now()


_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"      # Crockford's base 32, as in the ULID specification
_last = 0
_turn = threading.Lock()


def new_id(prefix: str) -> str:
    """`prefix_` and a ULID: 48 bits of milliseconds, 80 random bits. Ids made by one process rise, also when its clock steps back."""
    global _last
    with _turn:
        number = (int(seconds_now() * 1000) << 80) | int.from_bytes(os.urandom(10), "big")
        if number <= _last:
            number = _last + 1 + int.from_bytes(os.urandom(4), "big")
        _last = number
    return f"{prefix}_" + "".join(_ALPHABET[(number >> shift) & 31] for shift in range(125, -1, -5))


def event_id(job_id: str, seq: int) -> str:
    """The id of a job's event: the job's ULID and the event's number."""
    return f"event_{job_id.removeprefix('job_')}_{seq}"


def event_seq(text: str) -> int:
    """The number that `after` or `Last-Event-ID` names: a seq or an event id. ValueError when it is neither."""
    seq = int(text.rpartition("_")[2])
    if seq < 0:
        raise ValueError("an event number is not negative")
    return seq


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """The plain values in a spec by their paths.

    >>> flat({"optimiser": {"kind": "adam"}, "metrics": ["mae"], "name": None})
    {'optimiser.kind': 'adam', 'metrics.0': 'mae'}
    """
    if isinstance(value, Mapping | list):
        inside = value.items() if isinstance(value, Mapping) else enumerate(value)
        return {path: found for key, item in inside for path, found in flat(item, f"{name}.{key}".lstrip(".")).items()}
    return {} if value is None else {name: value}
