"""Arrow's types and values as those of columns."""

from __future__ import annotations

import math
from importlib import import_module
from typing import Any

import numpy as np
import pyarrow as pa

from engine.data.table import KEPT
from service.datasets.limits import DatasetError
from service.datasets.quick import Texts

pc: Any = import_module("pyarrow.compute")
EXACT = 2.0**53


def bare(kind: pa.DataType) -> pa.DataType:
    """The type of the values, without what wraps them."""
    if isinstance(kind, pa.BaseExtensionType) and not isinstance(kind, pa.FixedShapeTensorType):
        kind = kind.storage_type
    return kind


def is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def is_number(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind) or pa.types.is_time(kind)
            or pa.types.is_duration(kind) or pa.types.is_null(kind))


def is_date(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_timestamp(kind) or pa.types.is_date(kind)


def tensor_shape(kind: pa.DataType) -> tuple[tuple[int, ...], pa.DataType] | None:
    """(shape of a row, type of its numbers) of fixed-size lists; None for other types."""
    if isinstance(kind, pa.FixedShapeTensorType):
        plain = kind.permutation is None or list(kind.permutation) == sorted(kind.permutation)
        return (tuple(kind.shape), kind.value_type) if plain and kept(kind.value_type) is not None else None
    shape: list[int] = []
    while pa.types.is_fixed_size_list(kind):
        shape.append(kind.list_size)
        kind = kind.value_type
    good = shape and min(shape) > 0 and len(shape) < 8 and kept(kind) is not None
    return (tuple(shape), kind) if good else None


def kept(kind: pa.DataType) -> np.dtype | None:
    """The type that numbers of tensors are kept as."""
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        return None
    found = np.dtype(kind.to_pandas_dtype())
    return np.dtype(KEPT[f"{found.kind}{found.itemsize}"])


def width_of(kind: pa.DataType) -> int:
    """Bytes of a row as it is kept, at least."""
    found = tensor_shape(kind)
    return 8 if found is None else max(1, math.prod(found[0]) * (kept(found[1]) or np.dtype(np.float64)).itemsize)


# ---------------------------------------------------------------- values

def as_texts(values: pa.Array) -> Texts:
    """Values as a CSV file would write them, null where missing."""
    if isinstance(values, pa.ExtensionArray):
        values = values.storage
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if pa.types.is_floating(values.type):
        values = pc.if_else(pc.is_finite(values), values, pa.scalar(None, values.type))
    return Texts(pc.cast(values, pa.string()), cut=False)


def numbers(name: str, values: pa.Array) -> tuple[np.ndarray, bool]:
    """(float64 [rows], NaN where missing or infinite, dates and times in seconds; whether whole numbers had to be rounded)."""
    if isinstance(values, pa.ExtensionArray):
        values = values.storage
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    kind, parts = values.type, 1.0
    if pa.types.is_null(kind):
        return np.full(len(values), np.nan), False
    if pa.types.is_date32(kind):
        values = pc.cast(pc.cast(values, pa.timestamp("s")), pa.int64())
    elif pa.types.is_date64(kind) or pa.types.is_timestamp(kind) or pa.types.is_time(kind) or pa.types.is_duration(kind):
        unit = "ms" if pa.types.is_date64(kind) else kind.unit
        values, parts = pc.cast(values, pa.int32() if kind.bit_width == 32 else pa.int64()), {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}[unit]
    absent = values.is_null().to_numpy(zero_copy_only=False)
    wide = False
    if pa.types.is_integer(values.type) and parts == 1.0 and values.type.bit_width == 64:
        low, high = (value or 0 for value in pc.min_max(values).as_py().values())
        wide = max(abs(low), abs(high)) > EXACT
    found = pc.fill_null(pc.cast(values, pa.float64(), safe=False), 0.0).to_numpy(zero_copy_only=False) / parts
    found = np.where(absent | np.isinf(found), np.nan, found)
    if is_date(kind) and np.any((found < -62_135_596_800) | (found >= 253_402_300_800)):
        raise DatasetError("out_of_range", f"column {name!r} has a date outside the years 1 to 9999 of UTC", column=name)
    return found, wide


def tensors(name: str, values: pa.Array, shape: tuple[int, ...], kind: pa.DataType, before: int) -> np.ndarray:
    """[rows, *shape]; a missing list, or number, is NaN, which only floats have. `before`: rows before these."""
    rows, absent = len(values), values.is_null().to_numpy(zero_copy_only=False)
    values = values.storage if isinstance(values, pa.ExtensionArray) else values
    while pa.types.is_fixed_size_list(values.type):
        size = values.type.list_size
        values = values.values[values.offset * size:(values.offset + len(values)) * size]
    if values.null_count and not pa.types.is_floating(kind):
        row = before + pc.index(values.is_null(), True).as_py() // math.prod(shape)
        detail = f"column {name!r}, row {row}: a value is missing, and arrays of whole numbers have no gaps"
        raise DatasetError("missing_values", detail, row=row, column=name)
    flat = pc.fill_null(values, math.nan) if values.null_count else values
    found = np.asarray(flat.to_numpy(zero_copy_only=False)).reshape(rows, *shape)
    if found.dtype == np.uint64 and found.size and int(found.max()) >= 2**63:
        raise DatasetError("out_of_range", f"column {name!r} has integers beyond 2**63", column=name)
    if absent.any():
        found = np.where(absent.reshape(rows, *(1 for _ in shape)), np.nan, found)
    return found
