"""What goes over the wire, for the OpenAPI document: answers are made from rows, these models only describe them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel

from service.jobs import Status

Object = dict[str, Any]


class ProblemItem(BaseModel):
    """One thing that is wrong, where (JSON Pointer into the request), and the nearest known name."""

    pointer: str
    code: str
    detail: str
    suggestion: str | None = None


class Problem(BaseModel):
    """Every 4xx and 5xx (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    request_id: str | None = None
    errors: list[ProblemItem] | None = None


class Page(BaseModel):
    object: Literal["list"]
    has_more: bool
    first_id: str | None = None
    last_id: str | None = None


class Warned(BaseModel):
    code: str
    detail: str
    pointer: str | None = None
    column: str | None = None


class DatasetColumn(BaseModel):
    name: str
    kind: Literal["number", "boolean", "category", "datetime", "text", "tensor"]
    dtype: str
    shape: list[int]
    missing: int
    unique: int | None = None
    min: float | None = None
    max: float | None = None
    mean: float | None = None
    std: float | None = None
    classes: list[Any] | None = None


class Dataset(BaseModel):
    id: str
    object: Literal["dataset"]
    name: str
    format: str
    bytes: int
    sha256: str
    rows: int
    columns: list[DatasetColumn]
    warnings: list[Warned]
    created_at: str


class DatasetList(Page):
    data: list[Dataset]


class Rows(BaseModel):
    object: Literal["list"]
    data: list[Object]
    has_more: bool
    offset: int
    rows: int


class Attempt(BaseModel):
    attempt: int
    started_at: str
    ended_at: str | None = None
    ended_by: str | None = None
    from_step: int
    to_step: int | None = None


class Adjustment(BaseModel):
    """A live change; without `step` the run has not taken it up yet."""

    number: int
    changes: Object
    epoch: int | None = None
    step: int | None = None
    created_at: str


class Job(BaseModel):
    id: str
    object: Literal["job"]
    name: str | None
    status: Status
    status_reason: str | None = None
    is_terminal: bool
    spec: Object
    created_at: str
    started_at: str | None = None
    finished_at: str | None = None
    epoch: int
    epochs: int
    step: int
    progress: float
    eta_seconds: float | None = None
    queue_position: int | None = None
    metrics: Object
    best: Object | None = None
    evaluation: Object | None = None
    class_names: list[Any] | None = None
    parameters: int | None = None
    device: str
    attempt: int
    worker: Object | None = None
    attempts: list[Attempt]
    adjustments: list[Adjustment] | None = None
    priority: int
    parent: str | None = None
    warnings: list[Object]
    message: str | None = None
    hint: str | None = None
    error: Object | None = None
    metadata: dict[str, str]


class JobList(Page):
    data: list[Job]


class Validation(BaseModel):
    object: Literal["job.validation"]
    spec: Object
    layers: list[Object]
    parameters: int
    steps_per_epoch: int
    rows: dict[str, int]
    estimate: Object
    warnings: list[Object]


class Event(BaseModel):
    object: Literal["job.event"]
    id: str
    job_id: str
    seq: int
    type: str
    level: Literal["info", "warn", "error"]
    message: str
    data: Object
    created_at: str


class EventList(Page):
    data: list[Event]


class Metrics(BaseModel):
    object: Literal["metrics"]
    job_id: str
    by: Literal["epoch", "step"]
    thinned: bool
    columns: Object


class Checkpoint(BaseModel):
    object: Literal["checkpoint"]
    epoch: int
    step: int
    metrics: Object
    bytes: int
    sha256: str
    best: bool
    last: bool
    created_at: str


class CheckpointList(BaseModel):
    object: Literal["list"]
    data: list[Checkpoint]
    has_more: bool


class Prediction(BaseModel):
    object: Literal["prediction"]
    job_id: str
    model: str | None = None
    checkpoint: Object
    outputs: Any = None
    classes: Any = None
    probabilities: Any = None
    class_names: Any = None
    warnings: list[Object]


class Answering(BaseModel):
    """What a name answered with, and since when."""

    job: str
    checkpoint: str
    created_at: str


class Model(Answering):
    id: str
    object: Literal["model"]
    name: str
    history: list[Answering] | None = None


class ModelList(Page):
    data: list[Model]


class Generation(BaseModel):
    object: Literal["generation"]
    job_id: str
    model: str | None = None
    checkpoint: Object
    text: str


class Evaluation(BaseModel):
    object: Literal["evaluation"]
    job_id: str | None = None
    model: str | None = None
    rows: int
    loss: float | None = None
    metrics: Object


class Token(BaseModel):
    id: str
    object: Literal["token"]
    name: str
    scopes: list[Literal["read", "submit", "admin"]]
    owner: str
    prefix: str
    token: str | None = None
    created_at: str
    expires_at: str | None = None
    last_used_at: str | None = None
    revoked_at: str | None = None


class TokenList(Page):
    data: list[Token]


class Deed(BaseModel):
    """Who changed what, or was refused."""

    id: str
    object: Literal["audit"]
    action: str
    outcome: str
    created_at: str
    token: str | None = None
    prefix: str | None = None
    address: str | None = None
    object_id: str | None = None


class AuditList(Page):
    data: list[Deed]


class Gradients(BaseModel):
    value: float | None = None
    gradients: Object
    norms: Object


def json_body(schema: Object, others: Mapping[str, Object] = {}, required: bool = True) -> Object:
    """OpenAPI of a JSON request body; `others` are further media types."""
    return {"requestBody": {"required": required, "content": {"application/json": {"schema": schema}, **others}}}
