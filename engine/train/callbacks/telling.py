"""The callback that tells others. The engine only knows that there is one: whoever runs the job sends, and no run waits for it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, StringConstraints

from engine.train.callbacks.callback import Amount, Callback, callbacks

ENDS = ["job.succeeded", "job.failed", "job.cancelled"]
Types = Annotated[list[Annotated[str, StringConstraints(min_length=1, max_length=64)]], Field(min_length=1, max_length=32),
                  BeforeValidator(lambda found: [found] if isinstance(found, str) else found)]


@callbacks.add
class Webhook(Callback):
    """Tells a URL of the job's events, signed as Standard Webhooks has it; it never holds up the training.

    `events` are types of events, by default those that end a job. Of each type but these one is told in `min_seconds` at most.
    """

    url: Annotated[str, StringConstraints(min_length=1, max_length=2000)]
    events: Types = ENDS
    min_seconds: Amount = 0.0
    kind: Literal["webhook"] = "webhook"
