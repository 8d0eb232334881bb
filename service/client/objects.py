"""The nouns of the contract as typed values. Fields that are not named here (the contract may grow) are attributes all the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

Object = dict[str, Any]
NONFINITE = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}
TERMINAL_EVENTS = ("job.succeeded", "job.failed", "job.cancelled")


class Answer(BaseModel):
    """A value that came over the wire."""

    model_config = ConfigDict(extra="allow", frozen=True)


class Column(Answer):
    name: str
    kind: str
    dtype: str
    shape: list[int]
    missing: int
    classes: list[Any] | None = None


class Dataset(Answer):
    id: str
    name: str
    format: str
    bytes: int
    sha256: str
    rows: int
    columns: list[Column]
    warnings: list[Object]
    created_at: str


class Job(Answer):
    id: str
    name: str | None = None
    status: str
    status_reason: str | None = None
    is_terminal: bool
    spec: Object
    created_at: str
    started_at: str | None = None
    finished_at: str | None = None
    epoch: int
    epochs: int
    step: int
    progress: float = 0.0
    eta_seconds: float | None = None
    queue_position: int | None = None
    metrics: Object = {}
    best: Object | None = None
    evaluation: Object | None = None
    class_names: list[Any] | None = None
    parameters: int | None = None
    attempt: int = 0
    attempts: list[Object] = []
    adjustments: list[Object] = []
    priority: int = 0
    warnings: list[Object] = []
    message: str | None = None
    hint: str | None = None
    error: Object | None = None
    metadata: dict[str, str] = {}

    @property
    def succeeded(self) -> bool:
        return self.status == "succeeded"

    def __repr__(self) -> str:
        """What one wants to know at a prompt; all fields are in `model_dump()`."""
        numbers = "".join(f", {name} {value:.4g}" for name, value in self.metrics.items() if isinstance(value, float))
        return f"<Job {self.id}{f' ({self.name})' if self.name else ''}: {self.status}, epoch {self.epoch} of {self.epochs}{numbers}>"

    __str__ = __repr__


class Token(Answer):
    """`token` is there only in the answer that makes it."""

    id: str
    name: str
    scopes: list[str]
    owner: str
    prefix: str
    token: str | None = None
    created_at: str
    expires_at: str | None = None
    last_used_at: str | None = None
    revoked_at: str | None = None


class Deed(Answer):
    """An entry of the audit: who changed what."""

    id: str
    action: str
    outcome: str
    created_at: str
    token: str = ""
    prefix: str = ""
    address: str = ""
    object_id: str = ""


class Event(Answer):
    id: str
    job_id: str
    seq: int
    type: str
    level: str
    message: str
    data: Object
    created_at: str

    @property
    def is_last(self) -> bool:
        """Whether the job is over with it."""
        return self.type in TERMINAL_EVENTS


class Validation(Answer):
    spec: Object
    layers: list[Object]
    parameters: int
    steps_per_epoch: int
    rows: dict[str, int]
    estimate: Object
    warnings: list[Object]


class Checkpoint(Answer):
    epoch: int
    step: int
    metrics: Object
    bytes: int
    sha256: str
    best: bool
    last: bool


class Prediction(Answer):
    job_id: str
    checkpoint: Object
    outputs: Any = None
    classes: Any = None
    probabilities: Any = None
    class_names: Any = None         # as all four by output name, where there are several
    warnings: list[Object] = []


class Evaluation(Answer):
    rows: int
    loss: float | None = None
    metrics: Object
    confusion_matrix: Object | None = None


def revive(value: Any) -> Any:
    """JSON with its non-finite numbers again: a null `loss` beside `"loss_text": "NaN"` becomes NaN, likewise in arrays."""
    if isinstance(value, list):
        return [revive(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    found = {name: revive(item) for name, item in value.items() if not _is_text(name, item, value)}
    for name in value.keys() - found.keys():
        _put(found, name.removesuffix("_text"), value[name])
    return found


def _is_text(name: str, item: Any, among: Mapping[str, Any]) -> bool:
    """Whether this only says which number a null stands for."""
    plain = name.removesuffix("_text")
    if plain == name or plain not in among:
        return False
    return among[plain] is None and item in NONFINITE if isinstance(item, str) else isinstance(item, Mapping) and isinstance(among[plain], list)


def _put(found: Object, name: str, text: str | Mapping[str, str]) -> None:
    if isinstance(text, str):
        found[name] = NONFINITE[text]
        return
    for place, word in text.items():
        found[name][int(place)] = NONFINITE[word]
