"""Functions that can be traced once and run without Python: what they read, and whether they do anything beside returning a result."""

from __future__ import annotations

import dis
from collections.abc import Hashable, Iterator
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

from engine.core import Op

# Names and instructions by which a function may change or show something beside its result, or give another result each time.
EFFECTS = {"print", "append", "extend", "add", "update", "insert", "pop", "write", "next", "input", "setattr", "log", "info", "debug", "warning",
           "random", "rand", "randn", "randint", "integers", "choice", "shuffle", "permutation", "normal", "standard_normal", "uniform",
           "default_rng", "time", "perf_counter", "monotonic", "now"}
STORES = ("STORE_GLOBAL", "STORE_DEREF", "STORE_ATTR", "STORE_SUBSCR", "YIELD_VALUE", "IMPORT_NAME")


def captured_by(f: FunctionType) -> Hashable | None:
    """What the function reads beside its arguments, where all of it is numbers, texts or the engine's own: what cannot change in place."""
    names = [name for name in f.__code__.co_names if name in f.__globals__]
    values = [cell.cell_contents for cell in f.__closure__ or ()] + [f.__globals__[name] for name in names] + list(f.__defaults__ or ())
    plain = all(value is None or isinstance(value, int | float | str) or _ours(value) for value in values)
    nested = any(isinstance(constant, CodeType) for constant in f.__code__.co_consts)
    return tuple(value if isinstance(value, int | float | str) else id(value) for value in values) if plain and not nested else None


def _ours(value: Any) -> bool:
    name = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None) or ""
    return name.split(".")[0] in ("engine", "numpy") and not isinstance(value, np.ndarray)


def is_quiet(f: FunctionType, seen: frozenset[FunctionType] = frozenset()) -> bool:
    """Whether nothing in the function's code, or in that of people's functions it calls, looks like an effect or a draw of random numbers."""
    codes = list(_codes(f.__code__))
    if any(_acts(code, f.__globals__) for code in codes):
        return False
    read = [f.__globals__.get(name) for code in codes for name in code.co_names] + [cell.cell_contents for cell in f.__closure__ or ()]
    functions = [value.__func__ if isinstance(value, MethodType) else value for value in read]
    called = {g for g in functions if isinstance(g, FunctionType) and not _ours(g)}
    return all(is_quiet(g, seen | {f}) for g in called - seen - {f})


def _acts(code: CodeType, names: dict[str, Any]) -> bool:
    """Whether the code stores something outside, or calls by a name of EFFECTS what is not one of numpy's or the engine's functions (np.log)."""
    before: Any = None
    for step in dis.get_instructions(code):
        if step.opname in STORES:
            return True
        if step.opname.startswith("LOAD") and step.argval in EFFECTS and step.opname != "LOAD_CONST":
            module = names.get(before.argval) if before is not None and before.opname == "LOAD_GLOBAL" else None
            held = names if step.opname == "LOAD_GLOBAL" else vars(module) if isinstance(module, ModuleType) else {}
            found = held.get(step.argval)
            if not isinstance(found, Op | np.ufunc):
                return True
        before = step
    return False


def _codes(code: CodeType) -> Iterator[CodeType]:
    """A function's code, and that of the functions and comprehensions written inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)
