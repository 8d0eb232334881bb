"""Trained models as ONNX, whole: what onnxruntime makes of a batch is what we make of it, whatever the columns, inputs and outputs of the job."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import engine  # noqa: F401  binds what computes values
from engine.data.encode import gather
from engine.data.table import Table, text_column
from engine.export.onnx.document import export
from engine.train.trained.predict import Predictor
from tests.engine.test_predict import trained

RNG = np.random.default_rng(5)
ROWS = [{"age": float(k % 17), "town": f"t{k % 40}", "sex": "fm"[k % 2], "when": f"2024-0{k % 9 + 1}-11", "price": 3.0 * (k % 7),
         "label": "abc"[k % 3]} for k in range(120)]
TABLE = Table.from_rows(ROWS)
IMAGES = Table.from_columns({"image": RNG.normal(size=(20, 8, 8, 3)).tolist(), "label": (np.arange(20) % 2).tolist()})
HOURS = Table.from_rows([{"at": float(k), "load": float(np.sin(k / 3)), "heat": float(k % 5)} for k in range(90)])
DENSE = {"kind": "dense", "units": 5, "activation": "tanh"}


def spec(layers: list[Any], loss: Any, data: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"model": {"kind": "chain", "layers": layers}, "loss": loss, "optimiser": "adam", "data": {"dataset": "ds", **data}, **more}


TARGET = {"kind": "dense", "units": "target"}
JOBS: dict[str, tuple[dict[str, Any], Table]] = {
    "a table with embedded, one-hot and dated columns": (spec([DENSE, TARGET], "logit_cross_entropy", {
        "target": "label", "preprocess": {"town": {"kind": "embedding", "units": 3}}}), TABLE),
    "numbers in their own units": (spec([DENSE, TARGET], "mse", {"target": "price", "inputs": ["age", "sex"]}), TABLE),
    "two numbers in their own units": (spec([DENSE, TARGET], "mse", {"target": ["price", "age"], "inputs": ["sex", "when"]}, dtype="float64"), TABLE),
    "one unit and two classes": (spec([DENSE, {"kind": "dense", "units": 1}], "logit_binary_cross_entropy", {
        "target": "sex", "inputs": ["age"]}), TABLE),
    "probabilities by the model itself": (spec([DENSE, {**TARGET, "activation": "softmax"}], "cross_entropy", {
        "target": "label", "inputs": ["age", "price"]}), TABLE),
    "named inputs and outputs": (spec([
        {"kind": "parallel", "connection": "concat", "layers": {"who": DENSE, "paid": {"kind": "batch_norm"}}},
        {"kind": "parallel", "connection": "separate", "layers": {"price": {"kind": "dense", "units": 1}, "label": {"kind": "dense", "units": 3}}}],
        {"kind": "weighted", "losses": {"price": "mse", "label": "logit_cross_entropy"}},
        {"inputs": {"who": ["age", "sex"], "paid": ["when"]}, "target": {"price": "price", "label": "label"}}, metrics={"label": ["accuracy"]}),
        TABLE),
    "images": (spec([{"kind": "conv", "filters": 4, "kernel_size": 3, "activation": "relu"}, {"kind": "max_pool", "pool_size": 2}, {
        "kind": "batch_norm"}, "flatten", {"kind": "dropout", "rate": 0.5}, TARGET], "logit_cross_entropy", {"target": "label"}), IMAGES),
    "windows": (spec([{"kind": "gru", "units": 6}, TARGET], "mse", {
        "inputs": ["load", "heat"], "target": "load", "windows": {"length": 12, "horizon": 3, "order": "at"}}), HOURS),
}


def batch_of(model: Predictor, table: Table, rows: int) -> dict[str, np.ndarray]:
    index, order = np.arange(rows, dtype=np.int64), None
    return gather(model.fitted.input_feeds(table.columns, order), index, model._inputs)


@pytest.mark.parametrize("name", JOBS)
def test_a_trained_model_says_the_same_in_onnxruntime(name: str) -> None:
    raw, table = JOBS[name]
    model = trained(raw, table)
    data = export(model, {"spec": raw, "class_names": ["x"]})
    assert data == export(model, {"class_names": ["x"], "spec": raw})
    made = onnx.load_from_string(data)
    onnx.checker.check_model(made, full_check=True)
    session = onnxruntime.InferenceSession(data)
    for rows in (1, 7):
        batch = batch_of(model, table, rows)
        assert {item.name for item in session.get_inputs()} == set(batch)
        expected = model.bound(rows).run(batch)
        found = dict(zip([item.name for item in session.get_outputs()], session.run(None, batch), strict=True))
        names = {key: key.removesuffix("/output").replace("/", ".") for key in expected}
        assert set(found) == set(names.values())
        for key, value in expected.items():
            np.testing.assert_allclose(found[names[key]], value, rtol=1e-5, atol=1e-6 * max(1.0, float(np.abs(value).max())))
    told = {item.key: json.loads(item.value) for item in made.metadata_props}
    assert told["trainyard"]["spec"] == raw
    for item in session.get_inputs():
        if len(item.shape) == 2:
            assert len(told["inputs"][item.name]) == item.shape[1]


def test_a_text_model_is_a_graph_of_characters() -> None:
    text = Table({"text": text_column("text", ["abcab"] * 20)}, 20, "text")
    model = trained(spec([{"kind": "embedding", "units": 4}, {"kind": "lstm", "units": 5, "return_sequences": True}, TARGET], "logit_cross_entropy",
                         {"windows": {"length": 8}}), text)
    session = onnxruntime.InferenceSession(export(model, {}))
    x = np.arange(16, dtype=np.int32).reshape(2, 8) % 3
    np.testing.assert_allclose(session.run(["probabilities"], {"x": x})[0][0], model.following(x[0]), rtol=1e-5)
