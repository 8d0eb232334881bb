"""predict, download."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from service.cli.session import DEFAULT_URL, AsJson, Token, Url, connect, warn
from service.client import Prediction

Model = Annotated[str, typer.Argument(metavar="ID", help="id of a job, or the name of a model")]
Checkpoint = Annotated[str | None, typer.Option(help="last, best, or the number of an epoch; by default last, or what the name says")]


class Form(StrEnum):
    table = "table"
    csv = "csv"
    json = "json"


class FileForm(StrEnum):
    safetensors = "safetensors"
    npz = "npz"
    onnx = "onnx"


def predict(model: Model,
            source: Annotated[str, typer.Argument(metavar="FILE", help="CSV, JSON rows, NDJSON or .npy; or a dataset: ds_… or sample:…")],
            checkpoint: Checkpoint = None,
            format: Annotated[Form, typer.Option(help="table: class and probability, or outputs; csv: all there is, as it comes; json")] = Form.table,
            as_json: AsJson = False, url: Url = DEFAULT_URL, token: Token = "") -> None:
    as_json = as_json or format is Form.json
    with connect(url, token) as client:
        if format is Form.csv and not as_json:
            for piece in client.predict_csv(model, **given(source), checkpoint=checkpoint):
                sys.stdout.buffer.write(piece)
            return
        found = client.predict(model, **given(source), checkpoint=checkpoint)
    warn(found.warnings)
    if as_json:
        print(found.model_dump_json(exclude_unset=True))
    else:
        csv.writer(sys.stdout, lineterminator="\n").writerows(table(found))


def given(source: str) -> dict[str, Any]:
    """The data of a file as an argument of `Client.predict`."""
    path = Path(source)
    if source.startswith(("ds_", "sample:")):
        return {"dataset": source}
    if path.suffix == ".npy":
        return {"inputs": np.load(path, allow_pickle=False)}
    if path.suffix in (".ndjson", ".jsonl"):
        return {"rows": [json.loads(line) for line in path.read_text().splitlines() if line.strip()]}
    if path.suffix == ".json":
        found = json.loads(path.read_text())
        return found if isinstance(found, dict) else {"rows": found}
    return {"csv": path.read_text()}


def table(found: Prediction) -> Iterator[list[Any]]:
    """A header and a line for each row: the class and its probability, or the outputs."""
    outputs = {"": found.outputs} if not isinstance(found.outputs, dict) else found.outputs
    if found.classes is not None and not isinstance(found.classes, dict):
        yield ["class", "probability"]
        yield from ([name, max(row)] for name, row in zip(found.classes, found.probabilities, strict=True))
        return
    columns = {name: np.asarray(values).reshape(len(values), -1) for name, values in outputs.items()}
    yield [f"{name or 'output'}{f'_{i}' if values.shape[1] > 1 else ''}" for name, values in columns.items() for i in range(values.shape[1])]
    yield from np.concatenate(list(columns.values()), axis=1).tolist()


def download(model: Model, to: Annotated[Path | None, typer.Argument(metavar="PATH", help="a file or a folder; by default here")] = None,
             format: Annotated[FileForm, typer.Option(help="onnx runs in other programs")] = FileForm.safetensors,
             checkpoint: Checkpoint = None, url: Url = DEFAULT_URL, token: Token = "") -> None:
    with connect(url, token) as client:
        print(client.download(model, to, format=format.value, checkpoint=checkpoint))
