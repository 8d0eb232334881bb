"""What decides when, and remembers: its memory can be saved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Trigger:
    """`state()` is a dict of JSON values and `restore(state)` takes it back; `remembered` are the attributes that it consists of."""

    remembered: tuple[str, ...] = ()

    def state(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.remembered}

    def restore(self, state: Mapping[str, Any]) -> None:
        for name in self.remembered:
            setattr(self, name, state[name])
