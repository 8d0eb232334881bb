"""What looks like a password or a key in a job: it would stand in the store, in answers and in models for everybody who may see the job."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from service.routes.render import Json

NAMES = re.compile(r"passw(or)?d|passphrase|secret|credential|private.?key|(api|access|auth|client|session).?(key|token)"
                   r"|^(token|authorization|bearer)$", re.IGNORECASE)
FORMS = re.compile(r"(AKIA|ASIA)[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{36}|github_pat_\w{22}|glpat-[\w-]{20}|xox[abprs]-[\w-]{10}|hf_\w{30}"
                   r"|sk-[A-Za-z0-9_-]{20}|AIza[\w-]{35}|whsec_[\w+/=]{20}|ty_[\w-]{40}|eyJ[\w-]{10,}\.eyJ[\w-]{10,}\."
                   r"|-----BEGIN [A-Z ]*PRIVATE KEY|://[^/\s:@]+:[^/\s:@]+@")
LONGEST = 4096          # of a text that is looked at
MOST = 10


def warnings(raw: Json) -> list[Json]:
    """A warning for each text of a posted job, besides its data, that looks like a secret. The text itself is not repeated."""
    found = []
    for pointer, name, text in _texts({key: value for key, value in raw.items() if key != "data"}, "", ""):
        if (NAMES.search(name[:LONGEST]) and text.strip()) or FORMS.search(text[:LONGEST]):
            detail = "this looks like a password or a key: whoever may see the job, or its model, sees it; remove it and change it where it is valid"
            found.append({"pointer": pointer, "code": "looks_secret", "detail": detail})
    return found[:MOST]


def _texts(value: Any, pointer: str, name: str) -> Iterator[tuple[str, str, str]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _texts(item, f"{pointer}/{key.replace('~', '~0').replace('/', '~1')}", key)
    elif isinstance(value, list):
        for place, item in enumerate(value):
            yield from _texts(item, f"{pointer}/{place}", name)
    elif isinstance(value, str):
        yield pointer, name, value
