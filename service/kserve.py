"""Predictions by the KServe V2 protocol (Open Inference Protocol): tensors in, tensors out, as JSON or, by its binary extension, as bytes.

The inputs of a model are its columns as they were uploaded, each a tensor of one value a row: numbers of any type, BYTES for categories, texts and
times. A model of several columns of numbers also takes them side by side, by the name of its input. Outputs are those of a prediction.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from engine.data.fitted import FittedColumn
from engine.data.table import MOST_AXES
from engine.errors import Problem, SpecError, nearest
from engine.train.trained.predict import Predictor
from service.notation import LENGTH, Json, as_object, closed, dumps, parse
from service.rows import check_count

DTYPES = {"BOOL": "bool", "UINT8": "uint8", "UINT16": "uint16", "UINT32": "uint32", "UINT64": "uint64", "INT8": "int8", "INT16": "int16",
          "INT32": "int32", "INT64": "int64", "FP16": "float16", "FP32": "float32", "FP64": "float64"}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass
class Inferred:
    """The bytes of an answer, their type and their headers."""

    body: bytes
    media_type: str
    headers: dict[str, str] = field(default_factory=dict)


# ---------------------------------------------------------------- what a model takes and gives

def describe(model: Predictor) -> Json:
    """`inputs` and `outputs` of the model's metadata."""
    columns = {column.name: column for column in model.fitted.columns}
    inputs = [{"name": name, "datatype": _type_of(column), "shape": [-1, *(column.shape if column.kind == "tensor" else ())]}
              for name, column in columns.items()]
    outputs: list[Json] = []
    for key, node in model.bound(1).results.items():
        kind, name = key.split("/")
        outputs.append({"name": _called(kind, name), "datatype": NAMES[node.dtype], "shape": [-1, *node.shape[1:]]})
        if kind == "probabilities":
            names = _classes(model)[name]
            outputs[-1]["parameters"] = {"class_names": [str(value) for value in names]}
            outputs.append({"name": _called("classes", name), "datatype": _class_type(names), "shape": [-1, *node.shape[1:-1]]})
    return {"inputs": inputs, "outputs": outputs}


def _type_of(column: FittedColumn) -> str:
    if column.kind == "tensor":
        return "FP32"
    return "FP64" if column.kind == "number" and column.classes is None else "INT64" if _class_type(column.classes or ("",)) == "INT64" else "BYTES"


def _class_type(names: Sequence[Any]) -> str:
    types = {type(value) for value in names}
    return "BOOL" if types == {bool} else "INT64" if types == {int} else "FP64" if types <= {int, float} else "BYTES"


def _called(kind: str, name: str) -> str:
    return kind if name == "output" else f"{kind}.{name}"


def _classes(model: Predictor) -> dict[str, tuple[Any, ...]]:
    return {objective.name: objective.target.classes or () for objective in model.objectives if objective.target}


# ---------------------------------------------------------------- one inference

def infer(model: Predictor, facts: Json, body: bytes, length: int, most: int) -> Inferred:
    """The answer to one request. `facts` are its model_name and model_version, `length` is that of the JSON before binary tensors, else 0."""
    raw = closed(as_object(parse(body[:length] if length else body)), ("id", "parameters", "inputs", "outputs", "model_name", "model_version"))
    for name in ("id", "model_name", "model_version"):
        if not isinstance(raw.get(name), str | None):
            raise _wrong(f"/{name}", "invalid_value", f"{name} is a text")
    tensors = read_inputs(raw.get("inputs"), body[length:] if length else b"")
    given, place = _data(model, tensors, most)
    try:
        answer = model.predict(**given)
    except SpecError as error:
        raise SpecError([Problem(f"/inputs{place}", p.code, p.detail, p.suggestion) for p in error.problems]) from None
    found = _outputs(model, answer)
    wanted = _wanted(raw, list(found))
    made = [_written(name, found[name], binary) for name, binary in wanted.items()]
    head = {**facts, **({"id": raw["id"]} if raw.get("id") is not None else {}), "outputs": [tensor for tensor, _ in made]}
    text, tails = dumps(head), b"".join(tail for _, tail in made)
    if not tails:
        return Inferred(text, "application/json")
    return Inferred(text + tails, "application/octet-stream", {LENGTH: str(len(text))})


def _data(model: Predictor, tensors: Mapping[str, np.ndarray], most: int) -> tuple[dict[str, Any], str]:
    """Arguments of a prediction: by columns, or by the names of the model's inputs."""
    columns = {column.name: column for column in model.fitted.columns}
    counts = {len(values) for values in tensors.values()}
    if len(counts) != 1:
        raise _wrong("/inputs", "shape_mismatch", f"all inputs have as many rows; these have {', '.join(map(str, sorted(counts))) or 'none'}")
    check_count(counts.pop(), most)
    if not set(tensors) & set(columns) and set(tensors) <= {item.name for item in model.fitted.inputs}:
        return {"inputs": {name: values.tolist() if values.dtype == object else values for name, values in tensors.items()}}, ""
    known = {*columns, *model.fitted.known}
    if unknown := [name for name in tensors if name not in known]:
        raise SpecError([Problem("/inputs", "unknown_input", f"the model has no input {name!r}; it has {', '.join(columns)}", nearest(name, columns))
                         for name in unknown])
    if all(name in columns and columns[name].kind == "tensor" for name in tensors):
        return {"columns": dict(tensors)}, ""
    cells = {name: (values.reshape(len(values)) if values.size == len(values) and not (name in columns and columns[name].kind == "tensor")
                    else values).tolist() for name, values in tensors.items()}
    return {"rows": [dict(zip(cells, row, strict=True)) for row in zip(*cells.values(), strict=True)]}, ""


def _outputs(model: Predictor, answer: Json) -> dict[str, tuple[np.ndarray, str]]:
    """Arrays and types by output name."""
    found: dict[str, tuple[np.ndarray, str]] = {}
    several = isinstance(answer["outputs"], Mapping)
    for objective in model.objectives:
        for kind in ("outputs", "probabilities", "classes"):
            values = (answer.get(kind, {}).get(objective.name) if several else answer.get(kind))
            if values is None:
                continue
            if kind == "classes":
                datatype = _class_type(_classes(model)[objective.name])
                array = np.array(values, object if datatype == "BYTES" else DTYPES[datatype])
            else:
                datatype = NAMES[model.job.dtype]
                array = np.array(values, model.job.dtype)
            found[_called(kind, objective.name)] = array, datatype
    return found


def _wanted(raw: Json, known: Sequence[str]) -> dict[str, bool]:
    """The outputs that are asked for, all if none are, and whether each is sent in binary."""
    usually = _flag(raw, "", "binary_data_output", False)
    if not isinstance(outputs := raw.get("outputs"), list | None):
        raise _wrong("/outputs", "invalid_value", "outputs is a list of objects with a name each")
    found: dict[str, bool] = {}
    for place, output in enumerate(outputs or [{"name": name} for name in known]):
        name = closed(as_object(output), ("name", "parameters")).get("name")
        if not isinstance(name, str) or name not in known:
            detail = f"the model has no output {str(name)[:80]!r}; it has {', '.join(known)}"
            raise SpecError([Problem(f"/outputs/{place}/name", "unknown_output", detail, nearest(str(name), known))])
        found[name] = _flag(output, f"/outputs/{place}", "binary_data", usually)
    return found


def _flag(raw: Json, pointer: str, name: str, usually: bool) -> bool:
    found = _parameters(raw, pointer).get(name, usually)
    if not isinstance(found, bool):
        raise _wrong(f"{pointer}/parameters/{name}", "invalid_value", f"{name} is true or false")
    return found


def _parameters(raw: Json, pointer: str) -> Json:
    found = raw.get("parameters")
    if not isinstance(found, dict | None):
        raise _wrong(f"{pointer}/parameters", "invalid_value", "parameters is an object")
    return found or {}


# ---------------------------------------------------------------- tensors

def read_inputs(inputs: Any, tail: bytes) -> dict[str, np.ndarray]:
    """Arrays by name; texts are an array of objects. Binary tensors lie in `tail`, one after the other."""
    if not isinstance(inputs, list) or not inputs:
        raise _wrong("/inputs", "invalid_value", "inputs is a list of tensors, each with name, datatype, shape and data")
    found, at = dict[str, np.ndarray](), 0
    for place, tensor in enumerate(inputs):
        pointer = f"/inputs/{place}"
        closed(as_object(tensor), ("name", "shape", "datatype", "parameters", "data"))
        name, shape, datatype = tensor.get("name"), tensor.get("shape"), tensor.get("datatype")
        if not isinstance(name, str) or name in found:
            raise _wrong(f"{pointer}/name", "invalid_value", "every input has a name of its own")
        if not isinstance(datatype, str) or datatype not in (*DTYPES, "BYTES"):
            raise SpecError([Problem(f"{pointer}/datatype", "unknown_datatype", f"there is no datatype {str(datatype)[:40]!r}; there are BYTES, "
                                     f"{', '.join(DTYPES)}", nearest(str(datatype), ["BYTES", *DTYPES]))])
        if not isinstance(shape, list) or not 0 < len(shape) <= MOST_AXES or any(type(n) is not int or n < 1 for n in shape):
            raise _wrong(f"{pointer}/shape", "invalid_value", f"a shape is a list of 1 to {MOST_AXES} lengths, the rows first, none of them 0")
        size = _parameters(tensor, pointer).get("binary_data_size")
        if size is None:
            found[name] = _of_json(tensor.get("data"), datatype, shape, pointer)
            continue
        if type(size) is not int or not 0 <= size <= len(tail) - at:
            raise _wrong(f"{pointer}/parameters/binary_data_size", "invalid_value", f"there are {len(tail) - at} bytes left, not {size}")
        found[name] = _of_bytes(tail[at:at + size], datatype, shape, pointer)
        at += size
    return found


def _of_json(data: Any, datatype: str, shape: list[int], pointer: str) -> np.ndarray:
    """Nested or flat, row-major."""
    if not isinstance(data, list):
        raise _wrong(f"{pointer}/data", "invalid_value", "data is a list")
    values = list(_flat(data))
    if len(values) != prod(shape):
        raise _wrong(f"{pointer}/data", "shape_mismatch", f"the shape {shape} has {prod(shape)} numbers, the data {len(values)}")
    if datatype == "BYTES":
        if wrong := [value for value in values if not isinstance(value, str | None)]:
            raise _wrong(f"{pointer}/data", "invalid_value", f"BYTES are texts, found {str(wrong[0])[:40]!r}")
        return _texts(values, shape)
    if any(not isinstance(value, bool if datatype == "BOOL" else int | float) or (isinstance(value, bool) and datatype != "BOOL")
           for value in values if value is not None):
        raise _wrong(f"{pointer}/data", "invalid_value", f"{datatype} has {'true and false' if datatype == 'BOOL' else 'numbers'} only")
    if None in values:      # missing
        return _texts(values, shape)
    try:
        if np.dtype(DTYPES[datatype]).kind in "iu":
            values = [_whole(value) for value in values]
        with np.errstate(over="raise"):
            return np.array(values, DTYPES[datatype]).reshape(shape)
    except (ValueError, OverflowError, FloatingPointError):
        raise _wrong(f"{pointer}/data", "out_of_range", f"a number does not fit {datatype}") from None


def _whole(value: float) -> int:
    """2.0 is a whole number; ValueError for 2.5."""
    if value != (found := int(value)):
        raise ValueError
    return found


def _flat(data: list[Any]) -> Iterator[Any]:
    for item in data:
        if isinstance(item, list):
            yield from _flat(item)
        else:
            yield item


def _texts(values: Sequence[Any], shape: list[int]) -> np.ndarray:
    found = np.empty(len(values), object)
    found[:] = values
    return found.reshape(shape)


def _of_bytes(raw: bytes, datatype: str, shape: list[int], pointer: str) -> np.ndarray:
    if datatype == "BYTES":
        values, at = [], 0
        while at + 4 <= len(raw):
            size, = struct.unpack_from("<I", raw, at)
            values.append(raw[at + 4:at + 4 + size].decode("utf-8", "replace"))
            at += 4 + size
        if at != len(raw) or len(values) != prod(shape):
            raise _wrong(f"{pointer}/shape", "shape_mismatch", f"the shape {shape} has {prod(shape)} texts, the bytes have {len(values)}")
        return _texts(values, shape)
    dtype = np.dtype(DTYPES[datatype]).newbyteorder("<")
    if len(raw) != prod(shape) * dtype.itemsize:
        raise _wrong(f"{pointer}/shape", "shape_mismatch", f"{datatype} of shape {shape} has {prod(shape) * dtype.itemsize} bytes, found {len(raw)}")
    found = np.frombuffer(raw, dtype).reshape(shape).astype(DTYPES[datatype])
    if found.dtype.kind == "f" and not np.isfinite(found).all():
        raise _wrong(f"{pointer}/data", "not_finite", "NaN and infinities are no data")
    return found


def _written(name: str, output: tuple[np.ndarray, str], binary: bool) -> tuple[Json, bytes]:
    array, datatype = output
    head: Json = {"name": name, "datatype": datatype, "shape": list(array.shape)}
    if not binary:
        return {**head, "data": array.ravel().tolist()}, b""
    if datatype == "BYTES":
        texts = [str(value).encode() for value in array.ravel()]
        raw = b"".join(struct.pack("<I", len(text)) + text for text in texts)
    else:
        raw = array.astype(array.dtype.newbyteorder("<")).tobytes()
    return {**head, "parameters": {"binary_data_size": len(raw)}}, raw


def _wrong(pointer: str, code: str, detail: str) -> SpecError:
    return SpecError([Problem(pointer, code, detail)])


