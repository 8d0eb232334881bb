"""The jobs that ship with the service: each fits the data it is for; files named on the command line become its data sets; a text model writes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from engine.data.table import Table, text_column
from engine.train import Job, check
from service.cli.jobs import EXAMPLES, sources
from service.client import Client, Refused
from service.client.placeholders import filled, names
from tests.engine.real_tables import real_table
from tests.serving import Server, command

LINES = ["the quick brown fox", "jumps over the lazy dog"] * 30
WRITER = {
    "model": {"kind": "chain", "layers": [{"kind": "embedding", "units": 8}, {"kind": "dense", "units": "target"}]}, "loss": "logit_cross_entropy",
    "optimiser": {"kind": "adam", "learning_rate": 0.05}, "data": {"dataset": "$text", "windows": {"length": 8}, "validation": {"dataset": "$text"}},
    "epochs": 2}


def images(rows: int) -> Table:
    pixels = np.random.default_rng(rows).integers(0, 256, (rows, 28, 28), np.uint8)
    return Table.from_columns({"image": pixels, "label": np.arange(rows, dtype=np.uint8) % 10})


def data_of(name: str) -> dict[str, Table]:
    """A little of the data that an example is for, by the name it has in the job."""
    if name.startswith("adult"):
        return {part: real_table(f"adult-{part}.csv", header=False, rows=400) for part in ("train", "test")}
    if name.startswith("mnist"):
        return {"train": images(200), "test": images(100)}
    lines = LINES * 4
    return {"text": Table({"text": text_column("text", lines)}, len(lines), "text")}


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_fits_the_data_it_is_for(name: str) -> None:
    raw, tables = json.loads(EXAMPLES[name].read_text()), data_of(name)
    assert names(raw) == list(tables) and raw["name"] == name
    summary = check(Job.model_validate(raw), {f"${part}": table for part, table in tables.items()})
    assert summary.parameters > 1000 and summary.rows["valid"]
    assert {warning["code"] for warning in summary.warnings} <= {"batch_size_reduced", "unseen_category"}


def test_only_data_sets_are_filled_in() -> None:
    job = {"name": "$n", "data": {"dataset": "$a", "target": "$price", "validation": {"fraction": 0.1, "also": {"k": "$b"}}, "test": "$a"}}
    assert names(job) == ["a", "b"]
    assert filled(job, {"a": "ds_1", "b": "ds_2"}) == {
        "name": "$n", "data": {"dataset": "ds_1", "target": "$price", "validation": {"fraction": 0.1, "also": {"k": "ds_2"}}, "test": "ds_1"}}


def test_files_are_told_apart_by_their_names() -> None:
    assert sources(["table.csv"]) == ("table.csv", {})
    assert sources(["train.image=a.gz", "train.label=b.gz", "test=c.csv"]) == (None, {"train": {"image": "a.gz", "label": "b.gz"}, "test": "c.csv"})
    with pytest.raises(ValueError, match="cannot both be"):
        sources(["a.csv", "b.csv"])


def test_a_text_is_uploaded_trained_on_and_gone_on_with(service: Server, tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text(json.dumps(WRITER))
    (tmp_path / "text.txt").write_text("\n".join(LINES))
    with Client(service.url) as client:
        missing = command("submit", tmp_path / "job.json", TRAINYARD_URL=service.url)
        assert missing.returncode == 2 and "--data text=FILE" in missing.stderr
        done = command("submit", tmp_path / "job.json", "--data", f"text={tmp_path / 'text.txt'}", "--json", TRAINYARD_URL=service.url)
        job = json.loads(done.stdout)
        assert job["status"] == "succeeded" and job["spec"]["data"]["windows"]["stride"] == 8
        written = client.generate(job["id"], "the ", length=30, seed=3)
        assert len(written) == 30 and written == client.generate(job["id"], "the ", length=30, seed=3)
        assert set(written) <= set("\n".join(LINES))
        with pytest.raises(Refused, match="does not know"):
            client.generate(job["id"], "Ω")
        assert np.shape(client.predict(job["id"], [{"text": "the quick"}]).outputs)[:2] == (1, 8)
        assert client.evaluate(job["id"], split="validation").rows == len("\n".join(LINES)) // 8
