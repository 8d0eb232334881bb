"""Models as ONNX: every layer and every op against our own values, in onnxruntime; float64, where that one has no kernel, by ONNX's own machine."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx.reference import ReferenceEvaluator
from pydantic import TypeAdapter

import engine  # noqa: F401  binds what computes values
from engine.core import OPS, Node, apply, leaf
from engine.errors import SpecError
from engine.export.onnx.document import file_of
from engine.export.onnx.table import ABSENT, TABLE
from engine.graph import interpret
from engine.nn import AnyLayer, trace
from engine.nn.layer import layers
from tests.engine.test_layers import SAMPLES

OURS_ALONE: dict[str, str] = {}      # layers that are not exported, with the reason

MORE: list[tuple[dict[str, Any], tuple[int, ...]]] = [
    ({"kind": "conv", "filters": 6, "kernel_size": [3], "stride": 2, "padding": "same", "dilation": 2, "flip_kernel": True}, (11, 4)),
    ({"kind": "conv", "filters": 2, "kernel_size": [2, 3, 1], "padding": [1, 0, 2, 1, 0, 0], "bias": False}, (4, 5, 3, 2)),
    ({"kind": "conv", "filters": 6, "kernel_size": 3, "groups": 3, "activation": "gelu"}, (6, 7, 3)),
    ({"kind": "conv_transpose", "filters": 3, "kernel_size": 3, "stride": 2, "padding": "same"}, (4, 3, 2)),
    ({"kind": "conv_transpose", "filters": 4, "kernel_size": [2], "stride": 3, "padding": "same", "groups": 2}, (5, 4)),
    ({"kind": "conv_transpose", "filters": 2, "kernel_size": 3, "dilation": 2, "padding": 1}, (3, 4, 3)),
    ({"kind": "max_pool", "pool_size": 3, "stride": 2, "padding": "same"}, (7, 6, 2)),
    ({"kind": "mean_pool", "pool_size": [2, 2, 3], "padding": 1}, (5, 4, 3, 2)),
    ({"kind": "adaptive_max_pool", "output_size": [3]}, (8, 2)),
    *(({"kind": "pad", "amount": [1, 2], "mode": mode}, (5, 3)) for mode in ("constant", "repeat", "reflect", "symmetric", "circular")),
    ({"kind": "pad", "amount": 1, "value": 2.5}, (3, 4, 2)),
    ({"kind": "upsample", "scale": 2}, (3, 4, 2)), ({"kind": "upsample", "scale": [2.5], "mode": "linear"}, (4, 2)),
    ({"kind": "pixel_shuffle", "factor": 3}, (2, 9),),
    *(({"kind": kind, "units": 3, "return_sequences": True, "bidirectional": True}, (4, 2)) for kind in ("rnn", "lstm", "gru", "gru_v3")),
    ({"kind": "rnn", "units": 3, "activation": "relu", "bias": False}, (4, 2)), ({"kind": "rnn", "units": 3, "activation": "softsign"}, (4, 2)),
    ({"kind": "chain", "layers": [{"kind": "embedding", "vocabulary": 7, "units": 3}, {"kind": "gru", "units": 4, "return_sequences": True},
                                  {"kind": "lstm", "units": 2}]}, (5,)),
    ({"kind": "multi_head_attention", "heads": 2}, (3, 4)), ({"kind": "embedding", "vocabulary": 5, "units": 2, "padding_index": 1}, (2, 3)),
    *(({"kind": "embedding_bag", "vocabulary": 5, "units": 2, "reduction": r, "padding_index": 0}, (4,)) for r in ("mean", "sum", "max")),
    ({"kind": "batch_norm"}, (4, 5, 3)), ({"kind": "instance_norm", "momentum": 0.1}, (4, 3)), ({"kind": "instance_norm"}, (2, 4, 3)),
    ({"kind": "group_norm", "groups": 2, "activation": "relu"}, (3, 2, 4)), ({"kind": "layer_norm", "affine": False}, (5,)),
    ({"kind": "weight_norm", "layer": {"kind": "conv", "filters": 2, "kernel_size": 3}}, (5, 5, 2)),
    ({"kind": "lambda", "formula": "softmax(x) + logsumexp(x, axis=-1, keepdims=True) * mean(x)"}, (4,)),
    ({"kind": "lambda", "formula": "x - max(x, axis=0, keepdims=True)"}, (3,)),
    ({"kind": "lambda", "formula": "where(x > 0, x ** 3, flip(x, axis=0))"}, (3, 2)),
    ({"kind": "skip_connection", "layer": {"kind": "dense", "units": 3}, "connection": "concat"}, (3,)),
    *(({"kind": "parallel", "layers": [{"kind": "dense", "units": 3}, "flatten"], "connection": way}, (3,))
      for way in ("add", "multiply", "mean", "max")),
    ({"kind": "chain", "layers": [{"kind": "reshape", "shape": [4, 2]}, {"kind": "dense", "units": 3}, "flatten"]}, (8,)),
]


def model_of(fields: dict[str, Any], takes: tuple[int, ...], dtype: str) -> Any:
    """The layer's model with numbers in all its buffers and biases, too."""
    model = TypeAdapter(AnyLayer).validate_python(fields).build(takes, seed=3, dtype=dtype)
    rng = np.random.default_rng(1)
    model.assign({path: rng.uniform(0.3, 1.2, value.shape) for path, value in {**model.parameters, **model.buffers}.items() if not value.any() or
                  path.endswith(("variance", "mean"))})
    return model


def graph(model: Any, x: Node) -> Node:
    known = {path: leaf(value.shape, value.dtype.name, name=path, value=value) for path, value in {**model.parameters, **model.buffers}.items()}
    return trace(model.layer, x, training=False, dtype=model.dtype, parameters=known).output


def written(model: Any, takes: tuple[int, ...]) -> bytes:
    def make(rows: int) -> tuple[dict[str, Node], dict[str, Node]]:
        x = leaf((rows, *takes), model.dtype, name="x")
        return {"x": x}, {"y": graph(model, x)}

    return file_of(make)


def by_us(model: Any, x: np.ndarray) -> np.ndarray:
    """By the reference machine, in float64."""
    return interpret.run([graph(model, leaf(x.shape, x.dtype.name, value=x))])[0].astype(x.dtype)


def answers(data: bytes, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What onnxruntime says; ONNX's own machine where there is no kernel for float64."""
    onnx.checker.check_model(onnx.load_from_string(data), full_check=True)
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    try:
        session = onnxruntime.InferenceSession(data, options)
        return dict(zip([o.name for o in session.get_outputs()], session.run(None, feeds), strict=True))
    except Exception as error:
        if "NOT_IMPLEMENTED" not in str(error) or not any(x.dtype == np.float64 for x in feeds.values()):
            raise
        machine = ReferenceEvaluator(onnx.load_from_string(data))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                return dict(zip(machine.output_names, machine.run(None, feeds), strict=True))
            except ValueError as trouble:
                pytest.skip(f"onnxruntime has no such kernel for float64, and ONNX's own machine fails: {trouble}")


def close(found: np.ndarray, expected: np.ndarray) -> None:
    expected = np.asarray(expected)
    assert found.shape == expected.shape and found.dtype == expected.dtype
    scale = max(1e-3, float(np.nanmax(np.abs(expected), initial=0.0, where=np.isfinite(expected))))
    np.testing.assert_allclose(found, expected, rtol=1e-5 if found.dtype == np.float32 else 1e-7, atol=1e-6 * scale)


EVERY = [*(({"kind": kind, **fields}, takes) for kind, (fields, takes, _) in SAMPLES.items() if kind not in OURS_ALONE), *MORE]


def test_every_layer_is_exported_or_listed() -> None:
    assert {fields["kind"] for fields, _ in EVERY} | set(OURS_ALONE) == set(layers.members)
    assert not {fields["kind"] for fields, _ in EVERY} & set(OURS_ALONE)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("fields, takes", EVERY, ids=lambda value: value["kind"] if isinstance(value, dict) else str(list(value)))
def test_a_layer_says_the_same_in_onnxruntime(fields: dict[str, Any], takes: tuple[int, ...], dtype: str) -> None:
    model = model_of(fields, takes, dtype)
    data = written(model, takes)
    assert data == written(model, takes)
    for rows in (1, 5):
        x = np.random.default_rng(rows).integers(0, 4, (rows, *takes)).astype(dtype) - (0 if "embedding" in str(fields) else np.array(1.3, dtype))
        close(answers(data, {"x": x})["y"], by_us(model, x))


STRANGERS = {("gather", "outside"), ("softmax_cross_entropy", "unknown classes")}       # numbers of nothing, for which ours give NaN


def op_cases() -> list[Any]:
    """All but those with dropout, empty ones, and those of numbers that stand for nothing."""
    return [pytest.param(name, case, id=f"{name}: {case.name}") for name, op in OPS.items() if op.public and name not in ABSENT for case in op.cases
            if all(x.shape and x.shape[0] for x in case.inputs) and not case.attrs.get("rate") and (name, case.name) not in STRANGERS]


def test_the_table_is_of_ops_that_there_are() -> None:
    assert set(TABLE) | set(ABSENT) <= set(OPS) and not set(TABLE) & set(ABSENT)


@pytest.mark.parametrize("name, case", op_cases())
def test_an_op_says_the_same_in_onnxruntime(name: str, case: Any) -> None:
    """Every case of the registry, its arrays as they are: none of their axes is a batch."""
    rng = np.random.default_rng(0)
    arrays = [sample.array(rng, "float32") for sample in case.inputs]

    def graph(values: list[np.ndarray | None]) -> tuple[dict[str, Node], Node]:
        nodes = {f"x{k}": leaf(x.shape, x.dtype.name, value=value) for k, (x, value) in enumerate(zip(arrays, values, strict=True))}
        return nodes, apply(name, *nodes.values(), **case.attrs)

    expected = interpret.run([graph(list(arrays))[1]])[0]
    given = len(arrays) if name != "conv" else 1       # the others are weights
    nodes, node = graph([x if k >= given else None for k, x in enumerate(arrays)])
    data = file_of(lambda rows: (dict(list(nodes.items())[:given]), {"y": node}))
    close(answers(data, {f"x{k}": x for k, x in enumerate(arrays[:given])})["y"], expected.astype(node.dtype))


def test_what_has_no_form_names_its_layer() -> None:
    layer = TypeAdapter(AnyLayer).validate_python({"kind": "chain", "layers": [
        {"kind": "dense", "units": 4}, {"kind": "lambda", "name": "odd", "formula": "matmul(x, scatter_add(argmax(x, axis=1), x, rows=4))"}]})
    with pytest.raises(SpecError, match=r"the layer layers.odd \(lambda\) cannot be written as ONNX: it uses scatter_add"):
        written(layer.build((3,)), (3,))


@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru", "gru_v3"])
def test_rows_that_end_earlier_keep_their_state(kind: str) -> None:
    model = model_of({"kind": kind, "units": 3, "return_sequences": True, "bidirectional": True}, (5, 2), "float32")

    def outputs(x: Node, lengths: Node) -> Node:
        known = {path: leaf(value.shape, value.dtype.name, name=path, value=value) for path, value in model.parameters.items()}
        return trace(model.layer, [x, lengths], training=False, parameters=known).output

    def make(rows: int) -> tuple[dict[str, Node], dict[str, Node]]:
        given = {"x": leaf((rows, 5, 2), "float32"), "lengths": leaf((rows,), "int64")}
        return given, {"y": outputs(*given.values())}

    x, lengths = np.random.default_rng(2).normal(size=(4, 5, 2)).astype(np.float32), np.array([5, 1, 3, 4])
    expected = interpret.run([outputs(leaf(x.shape, "float32", value=x), leaf((4,), "int64", value=lengths))])[0].astype(np.float32)
    close(answers(file_of(make), {"x": x, "lengths": lengths})["y"], expected)


def test_a_long_sequence_is_unrolled_where_onnx_has_no_such_cell() -> None:
    model = model_of({"kind": "rnn", "units": 2, "activation": "softsign"}, (400, 2), "float32")
    x = np.random.default_rng(2).normal(size=(2, 400, 2)).astype(np.float32)
    close(answers(written(model, (400, 2)), {"x": x})["y"], by_us(model, x))
