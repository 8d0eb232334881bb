"""What many tests of the store do first."""

from __future__ import annotations

from typing import Any

from service import artifacts
from service.store import Claim, Store


def queued(store: Store, **more: Any) -> dict[str, Any]:
    return store.add_job({"epochs": 2}, {"parameters": 10}, name="digits", epochs=2, **more)


def claimed(store: Store, owner: str = "here", lease: float = 15, **more: Any) -> Claim:
    queued(store, **more)
    found = store.claim(owner, lease, {"pid": 1, "threads": 1})
    assert found is not None
    return found[0]


def numbers(store: Store, job_id: str) -> list[int]:
    return [event["seq"] for event in store.events(job_id, limit=1000)]


def types(store: Store, job_id: str) -> list[str]:
    return [event["type"] for event in store.events(job_id, limit=1000)]


def newest(store: Store, job_id: str) -> tuple[int, bytes] | None:
    """Step and bytes of the job's newest checkpoint that is whole."""
    found = ((row["step"], artifacts.read_checkpoint(store.home, row)) for row in store.checkpoints(job_id))
    return next(((step, data) for step, data in found if data is not None), None)


def point(step: int, **more: Any) -> dict[str, Any]:
    return {"step": step, "epoch": step // 10, "metrics": {}, "path": f"jobs/x/{step}", "bytes": 1, "sha256": "0", **more}
