"""What one token may have of the service at once. The service's own token, and everybody where none is needed, may have all of it."""

from __future__ import annotations

from typing import Any

from service.errors import ServiceError
from service.routes.api import Api
from service.store.asking import OWN, Asker, current


def quota(policy: str, detail: str, seconds: int) -> ServiceError:
    """429 for a token whose share is used up."""
    return ServiceError(429, "quota_exceeded", detail, headers={"Retry-After": str(seconds)}, **violated(policy))


def violated(policy: str) -> dict[str, Any]:
    """The field of a problem that names a policy, as the draft of RateLimit fields has it."""
    return {"violated-policies": [policy]}


def sharer() -> Asker | None:
    """Who asks, if there are shares for it."""
    asker = current()
    return asker if asker is not None and asker.owner != OWN else None


def check_jobs(api: Api) -> None:
    """429 while too many jobs of this token wait; 413 when it stores too much. Call it in the transaction that has queued one more."""
    asker, most = sharer(), api.settings.max_queued_per_token
    if asker is None:
        return
    if api.store.waiting(asker.owner) > most:
        raise quota("queued", f"{most:,} jobs of this token wait already: send this one again later", 10)
    check_storage(api)


def check_storage(api: Api) -> None:
    """413 when a token stores more than its share. Call it in the transaction that has stored more."""
    asker, most = sharer(), api.settings.max_storage_bytes_per_token
    if asker is not None and api.store.stored_bytes(asker.owner) > most:
        raise ServiceError(413, "quota_exceeded", f"data and checkpoints of this token would take more than {most:,} bytes: remove some",
                           headers={"x-should-retry": "false"}, **violated("storage"))


def check_uploads(api: Api) -> None:
    """429 while too many uploads in parts of this token are on their way."""
    asker, most = sharer(), api.settings.max_uploads_per_token
    if asker is not None and api.store.pending_uploads(asker.owner) >= most:
        raise quota("uploads", f"{most:,} uploads in parts of this token are on their way: complete or delete some", 60)


def check_streams(api: Api) -> None:
    """429 while too many streams of this token are open."""
    asker, most = sharer(), api.settings.max_streams_per_token
    if asker is not None and len(api.sending.get(asker.token, ())) >= most:
        raise quota("streams", f"{most:,} event streams of this token are open: close some, or ask for a list with wait=60", 5)
