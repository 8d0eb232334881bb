"""scipy.special, loaded when one of its functions is first called: it takes 24 MB, and training needs none of it."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any


def __getattr__(name: str) -> Callable[..., Any]:
    if name.startswith("__"):
        raise AttributeError(name)
    return lambda *arguments, **options: getattr(import_module("scipy.special"), name)(*arguments, **options)
