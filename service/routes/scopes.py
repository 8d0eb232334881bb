"""What a token needs to be allowed, decided before any route: also for calls that are added later."""

from __future__ import annotations

import re

SAFE = ("GET", "HEAD", "OPTIONS")
ADMIN = re.compile(r"/v1/(tokens|audit)(/.*)?|/metrics")
ASKING = re.compile(r"/v[12]/.*/(predict|evaluate|generate|gradients|infer)|/v1/gradients")      # POSTs that change nothing
OPEN = re.compile(r"/|/healthz|/readyz|/openapi\.json|/favicon\.ico|/docs(/.*)?|/v2/health/(live|ready)")     # they tell no secrets
SECRET = "/v1/webhooks/secret"                                                                  # it lets one speak in our name
UPLOADS = re.compile(r"/v1/(datasets|uploads)(/.*)?")                                            # bodies that may be large, or compressed


def scope_of(method: str, path: str) -> str:
    """read, submit or admin: the least scope that this call needs."""
    if ADMIN.fullmatch(path):
        return "admin"
    if path == SECRET:
        return "submit"
    return "read" if method in SAFE or (method == "POST" and ASKING.fullmatch(path)) else "submit"


def is_open(method: str, path: str) -> bool:
    """Whether anybody may ask, without a token."""
    return method in SAFE and OPEN.fullmatch(path) is not None
