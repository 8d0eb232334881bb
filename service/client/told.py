"""Webhooks from Python: what was told, the secret, receivers that are left alone."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

from service.client.connection import Connection
from service.client.objects import Answer, Object


class Delivery(Answer):
    """One event on its way to one URL; `id` is the webhook-id of every try."""

    id: str
    job_id: str
    type: str
    seq: int
    url: str
    status: str
    tries: list[Object]
    next_at: str | None = None
    finished_at: str | None = None


class Told:
    """The calls about webhooks."""

    connection: Connection

    def deliveries(self, job_id: str) -> Iterator[Delivery]:
        """What a job's webhooks told, to whom, and what came of each try; newest first."""
        after: dict[str, str] = {}
        while True:
            page = self.connection.json("GET", f"/v1/jobs/{job_id}/webhooks", params={**after, "limit": "100"})
            yield from map(Delivery.model_validate, page["data"])
            if not page["has_more"]:
                return
            after = {"after": page["last_id"]}

    def webhook_targets(self) -> list[Object]:
        """Receivers that fail, and those that are told nothing more."""
        return self.connection.json("GET", "/v1/webhooks")["data"]

    def enable_webhook(self, url: str) -> None:
        """Tell a receiver again that was told nothing more."""
        self.connection.json("POST", "/v1/webhooks/enable", json={"url": url}, headers={"Idempotency-Key": str(uuid.uuid4())})

    def webhook_secret(self) -> str:
        """What your webhooks are signed with."""
        return self.connection.json("GET", "/v1/webhooks/secret")["secret"]

    def rotate_webhook_secret(self, overlap_seconds: float = 86400.0) -> str:
        """A new secret; the one before it goes on signing beside it for so long."""
        asked = {"overlap_seconds": overlap_seconds}
        return self.connection.json("POST", "/v1/webhooks/secret", json=asked, headers={"Idempotency-Key": str(uuid.uuid4())})["secret"]
