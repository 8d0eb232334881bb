"""The webhooks of a job that is posted: where they go, and what they want to hear of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from engine.errors import Problem, nearest
from service.webhooks.addresses import NotAllowed, target_of

MOST = 16           # webhooks of one job


def problems(callbacks: Iterable[Any], allow: str, types: Sequence[str]) -> list[Problem]:
    """What is wrong with the webhooks among a job's callbacks; `types` are the events that there are."""
    hooks = [(place, hook) for place, hook in enumerate(callbacks) if hook.kind == "webhook"]
    found = [Problem(f"/callbacks/{place}", "out_of_range", f"a job has at most {MOST} webhooks") for place, _ in hooks[MOST:]]
    for place, hook in hooks[:MOST]:
        try:
            target_of(hook.url, allow)
        except NotAllowed as error:
            found.append(Problem(f"/callbacks/{place}/url", "url_not_allowed", str(error)))
        found += [Problem(f"/callbacks/{place}/events/{number}", "unknown_event_type", f"there is no event type {name!r}", nearest(name, types))
                  for number, name in enumerate(hook.events) if name not in types]
    return found
