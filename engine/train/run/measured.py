"""Values that are measured when somebody asks for one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property


class Measured(Mapping[str, float]):
    """What `measure()` gives, called once at most."""

    def __init__(self, measure: Callable[[], Mapping[str, float]]):
        self.measure = measure

    @cached_property
    def found(self) -> Mapping[str, float]:
        return self.measure()

    def __getitem__(self, name: str) -> float:
        return self.found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.found)

    def __len__(self) -> int:
        return len(self.found)
