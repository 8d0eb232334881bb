"""How often something happened in the last minute, by name."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from dataclasses import dataclass

SECONDS = 60
KEPT = 10_000


@dataclass
class Share:
    """What is left of one name's share, and in how many seconds it is whole again."""

    most: int
    left: int
    seconds: int

    @property
    def spent(self) -> bool:
        return self.left < 0

    def headers(self, policy: str) -> dict[str, str]:
        """RateLimit fields (draft-ietf-httpapi-ratelimit-headers)."""
        return {"RateLimit-Policy": f'"{policy}";q={self.most};w={SECONDS}', "RateLimit": f'"{policy}";r={max(self.left, 0)};t={self.seconds}'}


class Windows:
    """Counts in windows of a minute, which begin with the first event of a name. Names used longest ago are forgotten."""

    def __init__(self):
        self._counts: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def look(self, name: str, most: int, more: int = 0) -> Share:
        """The share of a name, after counting `more`."""
        now = time.monotonic()
        began, count = self._counts.get(name, (now, 0))
        if now - began >= SECONDS:
            began, count = now, 0
        if more:
            self._counts[name] = began, count + more
            self._counts.move_to_end(name)
            while len(self._counts) > KEPT:
                self._counts.popitem(last=False)
        return Share(most, most - count - more, math.ceil(SECONDS - (now - began)))
