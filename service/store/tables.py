"""The tables. Times are ISO 8601 text, leases seconds since the epoch, JSON is text that may hold NaN and Infinity."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    TypeDecorator,
)

from service.jobs import STATES
from service.store.asking import owner

SCHEMA = "0003"     # the newest migration; a store that is at another one is not opened


class Json(TypeDecorator[Any]):
    """A JSON value as text. Non-finite numbers survive (Python's `NaN`, `Infinity`); numpy scalars become numbers."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> str | None:
        return None if value is None else json.dumps(value, separators=(",", ":"), ensure_ascii=False, default=lambda scalar: scalar.item())

    def process_result_value(self, value: Any, dialect: Any) -> Any:
        return None if value is None else json.loads(value)


metadata = MetaData()       # on SQLite; to name PostgreSQL's conditions of indices beside the migrations' would load its dialect everywhere


def _table(name: str, *parts: Any) -> Table:
    return Table(name, metadata, *parts)


def _owner() -> Column[str]:
    """Whose a row is: filled in by itself with who asks (`asking`)."""
    return Column("owner", Text, nullable=False, default=owner, server_default="")


datasets = _table(
    "datasets",
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("format", Text, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("sha256", Text, nullable=False, index=True),         # names the folder; datasets of equal content share it
    Column("rows", Integer, nullable=False),
    Column("columns", Json, nullable=False),
    Column("warnings", Json, nullable=False),
    Column("job_id", Text),                                     # the job whose spec brought it inline, removed with it
    Column("retain_seconds", Float),
    Column("used_at", Text, nullable=False),
    Column("created_at", Text, nullable=False),
    _owner(),
)
Index("datasets_owner", datasets.c.owner, datasets.c.id)

jobs = _table(
    "jobs",
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("status_reason", Text),
    Column("priority", Integer, nullable=False),
    *(Column(name, Json, nullable=False) for name in ("spec", "summary", "metadata")),
    Column("parent", Text),
    Column("origin", Json),                                     # the file of another job, or of a user, that it begins with
    # who holds it
    Column("device", Text, nullable=False, server_default="auto"),      # what trains it: cpu, cuda, or auto until the first claim
    Column("attempt", Integer, nullable=False),                 # counts claims
    Column("fence", Integer, nullable=False),                   # rises at each claim; older writers are refused
    Column("losses", Integer, nullable=False),                  # workers lost in a row without a new checkpoint
    Column("max_attempts", Integer, nullable=False),
    Column("lease_owner", Text),
    Column("lease_expires_at", Float),
    Column("worker", Json),                                     # {"pid", "threads"} while a worker holds it
    Column("stop_requested_at", Text),                          # when a cancel or pause was asked of a running job
    # how far it is
    Column("seq", Integer, nullable=False),                     # number of its last event
    Column("version", Integer, nullable=False),                 # rises at every write; the ETag
    Column("epoch", Integer, nullable=False),
    Column("epochs", Integer, nullable=False),
    Column("step", Integer, nullable=False),
    Column("progress", Float, nullable=False),
    Column("eta_seconds", Float),
    Column("elapsed_seconds", Float, nullable=False),           # of training, over all attempts
    # how it went
    Column("metrics", Json, nullable=False),
    Column("best", Json),
    Column("evaluation", Json),
    *(Column(name, Text) for name in ("message", "hint")),
    Column("error", Json),
    Column("warnings", Json, nullable=False),
    Column("retain_seconds", Float),
    Column("used_at", Text),
    Column("created_at", Text, nullable=False),
    Column("started_at", Text),
    Column("finished_at", Text),
    Column("webhooks", Json),                                   # the spec's, for the outbox; null where there is none
    Column("traceparent", Text),                                # of the request that made it, where requests are traced
    _owner(),
    CheckConstraint(f"status IN {STATES}", name="jobs_status"),
    CheckConstraint("(lease_owner IS NOT NULL) = (status IN ('running', 'pausing', 'cancelling'))", name="jobs_held"),
)
Index("jobs_queue", jobs.c.status, jobs.c.owner, jobs.c.priority.desc(), jobs.c.id, jobs.c.device)
Index("jobs_owned", jobs.c.owner, jobs.c.id)
Index("jobs_listed", jobs.c.status, jobs.c.id)
Index("jobs_served", jobs.c.owner, jobs.c.started_at)          # whose turn it is
Index("jobs_lease", jobs.c.lease_expires_at)
Index("jobs_owner", jobs.c.lease_owner, sqlite_where=jobs.c.lease_owner.isnot(None))

job_metadata = _table(      # the index of jobs.metadata
    "job_metadata",
    Column("job_id", Text, ForeignKey("jobs.id"), primary_key=True),
    Column("key", Text, primary_key=True),
    Column("value", Text, nullable=False),
)
Index("job_metadata_pair", job_metadata.c.key, job_metadata.c.value, job_metadata.c.job_id)

job_datasets = _table(      # which datasets a job reads
    "job_datasets",
    Column("job_id", Text, ForeignKey("jobs.id"), primary_key=True),
    Column("dataset_id", Text, primary_key=True, index=True),
)

attempts = _table(
    "attempts",
    Column("job_id", Text, ForeignKey("jobs.id"), primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("fence", Integer, nullable=False),
    Column("owner", Text, nullable=False),
    Column("started_at", Text, nullable=False),
    Column("ended_at", Text),
    Column("ended_by", Text),
    Column("from_step", Integer, nullable=False),
    Column("to_step", Integer),
)

events = _table(
    "events",
    Column("job_id", Text, ForeignKey("jobs.id"), primary_key=True),
    Column("seq", Integer, primary_key=True),
    Column("type", Text, nullable=False),
    Column("level", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("data", Json, nullable=False),
    Column("key", Text),
    Column("fence", Integer, nullable=False),
    Column("created_at", Text, nullable=False),
)
Index("events_key", events.c.job_id, events.c.key, unique=True, sqlite_where=events.c.key.isnot(None))

blocks = _table(            # curves: 1,024 pairs of float64 (step, value) a row, only the last row of a series may hold fewer
    "blocks",
    Column("job_id", Text, ForeignKey("jobs.id"), primary_key=True),
    Column("series", Text, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("count", Integer, nullable=False),
    Column("first_step", Float, nullable=False),
    Column("last_step", Float, nullable=False),
    Column("minimum", Float),                                   # null means NaN
    Column("minimum_step", Float, nullable=False),
    Column("maximum", Float),
    Column("maximum_step", Float, nullable=False),
    Column("data", LargeBinary, nullable=False),
)

checkpoints = _table(
    "checkpoints",
    Column("job_id", Text, ForeignKey("jobs.id"), primary_key=True),
    Column("step", Integer, primary_key=True),
    Column("epoch", Integer, nullable=False),
    Column("metrics", Json, nullable=False),
    Column("path", Text, nullable=False),                       # below the home folder
    Column("bytes", BigInteger, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("best", Boolean, nullable=False),
    Column("last", Boolean, nullable=False),
    Column("kept", Boolean, nullable=False),
    Column("fence", Integer, nullable=False),
    Column("created_at", Text, nullable=False),
)

adjustments = _table(       # live changes; `step` is null until the run has taken the change up
    "adjustments",
    Column("job_id", Text, ForeignKey("jobs.id"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("changes", Json, nullable=False),
    Column("epoch", Integer),
    Column("step", Integer),
    Column("created_at", Text, nullable=False),
)

idempotency = _table(
    "idempotency",
    Column("key", Text, primary_key=True),
    Column("route", Text, nullable=False),
    Column("body_hash", Text, nullable=False),
    Column("status", Integer),
    Column("body", Json),
    Column("headers", Json),
    Column("created_at", Text, nullable=False),
    Column("expires_at", Float, nullable=False, index=True),
)

models = _table(            # names given to models; the newest row of a name answers
    "models",
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False, index=True),
    Column("job_id", Text, ForeignKey("jobs.id"), nullable=False, index=True),
    Column("checkpoint", Text, nullable=False),
    Column("created_at", Text, nullable=False),
    _owner(),
)

tokens = _table(            # who may ask; of a token only the hash is kept
    "tokens",
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("scope", Text, nullable=False),
    Column("prefix", Text, nullable=False),                     # how the token begins, for people to tell it by
    Column("sha256", Text, nullable=False, unique=True),
    Column("created_at", Text, nullable=False),
    Column("expires_at", Text),
    Column("last_used_at", Text),                               # coarse
    Column("revoked_at", Text),
    Column("owner", Text, nullable=False),                      # whose jobs, datasets and models it sees
)

audit = _table(             # who changed what
    "audit",
    Column("id", Text, primary_key=True),
    Column("token", Text, nullable=False),
    Column("prefix", Text, nullable=False),
    Column("address", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("object", Text, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("created_at", Text, nullable=False),
)

deliveries = _table(        # the outbox of webhooks; what still waits outlives its job
    "webhook_deliveries",
    Column("id", Text, primary_key=True),                       # the webhook-id
    Column("job_id", Text, nullable=False, index=True),
    *(Column(name, Text, nullable=False) for name in ("type", "url", "host", "body", "status", "created_at")),
    *(Column(name, Integer, nullable=False) for name in ("seq", "place")),         # of the event, and which of the job's webhooks
    Column("tries", Json, nullable=False),
    Column("next_at", Float),                                   # null when it is over
    *(Column(name, Text) for name in ("claimed_by", "finished_at")),
    _owner(),
)
Index("webhook_deliveries_due", deliveries.c.next_at, sqlite_where=deliveries.c.next_at.isnot(None))

targets = _table(           # receivers of webhooks that fail, or are not to be told any more
    "webhook_targets",
    *(Column(name, Text, primary_key=True) for name in ("owner", "url")),
    *(Column(name, Text) for name in ("failing_since", "disabled_at", "reason")),
)

uploads = _table(           # data that comes in parts; kept until it is complete, given up, or nothing came for a day
    "uploads",
    Column("id", Text, primary_key=True),
    *(Column(name, Text, nullable=False) for name in ("name", "media_type", "status", "created_at")),
    *(Column("bytes", BigInteger), Column("options", Json, nullable=False)),        # bytes in all, where that was said
    *(Column("dataset_id", Text), Column("expires_at", Float, nullable=False, index=True)),
    _owner(),
)

upload_parts = _table(
    "upload_parts",
    Column("upload_id", Text, ForeignKey("uploads.id"), primary_key=True),
    *(Column("number", Integer, primary_key=True, autoincrement=False), Column("bytes", BigInteger, nullable=False)),
    *(Column(name, Text, nullable=False) for name in ("sha256", "file", "created_at")),
)

settings = _table(          # small facts of this installation, such as the hash of the token
    "settings",
    Column("name", Text, primary_key=True),
    Column("value", Json, nullable=False),
)

JOB_PARTS = (events, blocks, checkpoints, attempts, adjustments, job_datasets, job_metadata)      # rows that go with their job
