"""A trained model as the bytes of an ONNX file: the same bytes for the same model."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

from engine.core import LEAF, Node
from engine.data.fitted import Fitted, FittedColumn
from engine.errors import Problem, SpecError
from engine.export.onnx.elementwise import TYPES
from engine.export.onnx.table import row_of
from engine.export.onnx.writer import Step, Unwritable, Writer
from engine.graph.walk import order
from engine.train.ready.network import OUTPUT
from engine.train.trained.predict import Predictor

OPSET, IR_VERSION = 18, 8
MOST_BYTES = 2**31 - 2**20      # of a protobuf message
BATCHES = (1_000_003, 1_000_033, 1_000_037, 1_000_039)      # primes
MOST_NAMES = 4096

Nodes = Mapping[str, Node]
Make = Callable[[int], tuple[Nodes, Nodes]]
"""Rows of a batch -> (inputs by name, outputs by name)."""


def export(model: Predictor, facts: Mapping[str, Any]) -> bytes:
    """The model from its inputs after preprocessing to `outputs` in the target's units and, for classes, `probabilities`; of several outputs
    `outputs.NAME`. `facts` and what the inputs mean are in its metadata. Raises SpecError where a layer has no ONNX form.
    """
    def make(rows: int) -> tuple[Nodes, Nodes]:
        bound = model.bound(rows)
        return bound.batch, {name.removesuffix(f"/{OUTPUT}").replace("/", "."): node for name, node in bound.results.items()}

    inputs = meaning(model.fitted)
    text = {"trainyard": dict(facts), "inputs": inputs, **({"class_names": facts["class_names"]} if facts.get("class_names") else {})}
    return file_of(make, {name: json.dumps(value, ensure_ascii=False, sort_keys=True) for name, value in text.items()}, inputs)


def meaning(fitted: Fitted) -> dict[str, list[str]]:
    """What the numbers along the last axis of each input are, in order; an array of numbers is named once."""
    found: dict[str, list[str]] = {}
    for item in fitted.inputs:
        found[item.leaf] = [name for column in item.columns for name in _features(column)][:MOST_NAMES]
        found |= {column.leaf: [f"class number of {column.name}"] for column in item.embeddings}
    return {name: names for name, names in found.items() if names}


def _features(column: FittedColumn) -> list[str]:
    match column.encoding:
        case "embedding":
            return []
        case "one_hot":
            names = [f"{column.name}={value}" for value in column.classes or ()]
        case "datetime":
            names = [f"{column.name}.{part}" for part in column.parts]
        case _:
            names = [column.name]
    return [*names, f"{column.name} is missing"] if column.indicator else names


def file_of(make: Make, text: Mapping[str, str] | None = None, inputs: Mapping[str, Sequence[str]] | None = None) -> bytes:
    """An ONNX file of the graph that `make` makes, whose first axes are a batch of any length. `text` is its metadata."""
    batch = _batch(make)
    given, results = make(batch)
    writer = Writer(row_of, given, batch)
    try:
        made = {name: writer.put("Identity", writer.make(node), name=name) for name, node in results.items()}
    except Unwritable as error:
        raise SpecError([Problem("", "no_onnx_form", f"{_place(error.node, results.values())} cannot be written as ONNX: {error.reason}; take "
                                 "the form safetensors or npz")]) from None
    if sum(array.nbytes for array in writer.arrays.values()) > MOST_BYTES:
        raise SpecError([Problem("", "no_onnx_form", "an ONNX file holds at most 2 GB, and this model has more; take the form safetensors")])
    return _bytes(writer, given, {name: results[name] for name in made}, text or {}, inputs or {})


def _batch(make: Make) -> int:
    """A prime that no length in the graph is a multiple of."""
    lengths = {n for node in order(make(1)[1].values(), lambda n: n.op is LEAF) for n in node.shape if n}
    return next(prime for prime in BATCHES if not any(n % prime == 0 for n in lengths))


def _place(node: Node, results: Any) -> str:
    """The layer whose value a node goes into."""
    nodes = order(results, lambda n: n.op is LEAF)
    reached = {node, *(n for n in nodes if n.op is node.op and n.shape == node.shape)}
    for n in nodes:
        if n in reached or any(x in reached for x in n.inputs):
            reached.add(n)
            if n.name:
                return f"the layer {n.name}"
    return "the model"


# ---------------------------------------------------------------- by the onnx package

def _bytes(writer: Writer, inputs: Nodes, outputs: Nodes, text: Mapping[str, str], about: Mapping[str, Sequence[str]]) -> bytes:
    helper, numpy_helper = import_module("onnx.helper"), import_module("onnx.numpy_helper")

    def told(name: str, node: Node) -> Any:
        doc = ", ".join(about.get(name, ()))
        shape = ["batch" if n == writer.batch else None if writer.open(n) else n for n in node.shape]
        return helper.make_tensor_value_info(name, TYPES[node.dtype], shape, doc_string=doc[:4096])

    def step(k: int, found: Step) -> Any:
        made = helper.make_node(found.op, found.inputs, found.outputs, name=f"{found.op}_{k}")
        made.attribute.extend(helper.make_attribute(name, value) for name, value in sorted(found.attrs.items()))
        return made

    graph = helper.make_graph(
        [step(k, found) for k, found in enumerate(writer.steps)], "trainyard", [told(name, node) for name, node in inputs.items()],
        [told(name, node) for name, node in outputs.items()], [numpy_helper.from_array(value, name) for name, value in writer.arrays.items()])
    made = helper.make_model(graph, producer_name="trainyard", opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    helper.set_model_props(made, dict(text))
    return made.SerializeToString(deterministic=True)
