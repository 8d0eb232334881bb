"""Signatures that tell a receiver who sent a webhook, and that nobody changed it or sent it again."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Sequence

PREFIX = "whsec_"


def headers(message_id: str, seconds: int, body: bytes, secrets: Sequence[str]) -> dict[str, str]:
    """The three headers of a message sent at this time; a signature for each secret."""
    return {"webhook-id": message_id, "webhook-timestamp": str(seconds),
            "webhook-signature": " ".join(signature(message_id, seconds, body, secret) for secret in secrets)}


def signature(message_id: str, seconds: int, body: bytes, secret: str) -> str:
    """`v1,` and the HMAC-SHA256 of id, time and body, in base64.

    >>> signature("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}', "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    'v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE='
    """
    key = base64.b64decode(secret.removeprefix(PREFIX))
    digest = hmac.new(key, f"{message_id}.{seconds}.".encode() + body, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"
