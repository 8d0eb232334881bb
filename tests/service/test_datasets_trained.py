"""From a file to a prediction: images in a zip, Parquet, and tables larger than memory should be, through the whole service."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from service.client import Client
from tests.homes import fresh
from tests.service.uploads import zipped
from tests.serving import Server, serving

MB = 10**6


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(fresh(tmp_path_factory.mktemp("trained") / "home"), workers=1) as running:
        yield running


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_images_are_trained_on_and_predicted(server: Server, tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    shades = {f"{'dark' if i % 2 else 'light'}/{i}.png": chance.integers(0, 60, (8, 8, 3), dtype=np.uint8) + (0 if i % 2 else 180) for i in range(80)}
    (tmp_path / "shades.zip").write_bytes(zipped({name: png(pixels.astype(np.uint8)) for name, pixels in shades.items()}))
    with Client(server.url) as client:
        data = client.upload(tmp_path / "shades.zip")
        assert (data.format, data.rows, data.columns[0].shape, data.columns[1].classes) == ("images", 80, [8, 8, 3], ["dark", "light"])
        job = client.submit({
            "model": {"kind": "chain", "layers": [{"kind": "conv", "filters": 4, "kernel_size": 3, "activation": "relu"}, {"kind": "flatten"},
                                                  {"kind": "dense", "units": "target"}]},
            "loss": "logit_cross_entropy", "optimiser": {"kind": "adam", "learning_rate": 0.01}, "epochs": 8,
            "data": {"dataset": data.id, "target": "label", "batch_size": 16, "validation": {"fraction": 0.25}}})
        done = client.wait(job.id)
        assert done.succeeded and done.metrics["valid_accuracy"] == 1.0, done.message
        assert client.predict(job.id, dataset=data.id).classes[:4] == ["light", "dark", "light", "dark"]
        rows = [{"image": pixels.tolist()} for pixels in list(shades.values())[:2]]
        assert client.predict(job.id, rows=rows).classes == ["light", "dark"]
        assert client.evaluate(job.id, dataset=data.id).metrics["accuracy"] == 1.0
        httpx.delete(f"{server.url}/v1/datasets/{data.id}", trust_env=False).raise_for_status()
        assert not list((server.home / "datasets").iterdir())
        assert client.predict(job.id, rows=rows).classes == ["light", "dark"]


def test_parquet_is_trained_on_and_predicted(server: Server, tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    x, colour = chance.normal(size=400), chance.choice(["red", "green", "blue"], 400)
    price = 3 * x + np.where(colour == "red", 5.0, 0.0)
    columns = {"x": pa.array(x), "colour": pa.array(colour).dictionary_encode(), "price": pa.array(price)}
    parquet.write_table(pa.table(columns), tmp_path / "prices.parquet", row_group_size=150)
    with Client(server.url) as client:
        data = client.upload(tmp_path / "prices.parquet")
        assert (data.format, [column.kind for column in data.columns]) == ("parquet", ["number", "category", "number"])
        job = client.submit({"model": {"kind": "dense", "units": 1}, "loss": "mse", "optimiser": {"kind": "adam", "learning_rate": 0.05},
                             "epochs": 20, "data": {"dataset": data.id, "target": "price", "validation": {"fraction": 0.2}}})
        assert client.wait(job.id).metrics["valid_r2"] > 0.99
        found = client.predict(job.id, rows=[{"x": 1.0, "colour": "red"}, {"x": 1.0, "colour": "blue"}]).outputs
        assert np.ravel(found).tolist() == pytest.approx([8.0, 3.0], abs=0.3)
        columns.pop("price")
        parquet.write_table(pa.table(columns), tmp_path / "more.parquet")
        assert np.ravel(client.predict(job.id, dataset=client.upload(tmp_path / "more.parquet").id).outputs) == pytest.approx(price, abs=0.4)


# ---------------------------------------------------------------- tables larger than memory should be

def rows_of(size: int, path: Path) -> int:
    """Write a table of so many bytes; returns its rows."""
    chance = np.random.default_rng(0)
    numbers, words = chance.normal(size=(40_000, 6)), chance.choice(["red", "green", "blue", "?"], 40_000)
    block = "".join(f"{row[0]:.6f},{row[1]:.4f},{row[2]:.5f},{row[3]:.3f},{row[4]:.6f},{int(row[5] * 1000)},{word},{int(row.sum() > 0)}\n"
                    for row, word in zip(numbers, words, strict=True)).encode()
    rows = 0
    with path.open("wb") as file:
        file.write(b"a,b,c,d,e,f,colour,y\n")
        while file.tell() < size:
            start = b"%d" % rows        # every block begins with a row of its own
            file.write(start + block[block.index(b","):])
            rows += 40_000
    return rows


def peak(pid: int) -> int:
    """The most memory that a process ever had, in bytes."""
    return int(re.findall(r"VmHWM:\s+(\d+)", Path("/proc", str(pid), "status").read_text())[0]) * 1024


def children(pid: int) -> dict[int, str]:
    """The processes below one, with what they run."""
    found = {}
    for listed in Path("/proc", str(pid), "task").glob("*/children"):
        with suppress(OSError):
            for child in listed.read_text().split():
                found[int(child)] = Path("/proc", child, "cmdline").read_bytes().replace(b"\0", b" ").decode()
    return found


def check_peaks(server: Server, size: int, folder: Path, most: int) -> str:
    """Upload a table of this size as a stream, and in parts; what it took."""
    path = folder / "large.csv"
    rows = rows_of(size, path)
    api = next(pid for pid, command in children(server.process.pid).items() if "service.app" in command)
    before, readers = peak(api), {}
    there = {entry.name for entry in (server.home / "datasets").iterdir()}
    began = time.monotonic()
    upload = subprocess.Popen([sys.executable, "-m", "service.cli", "upload", str(path), "--url", server.url], stdout=subprocess.PIPE, text=True,
                              cwd=Path(__file__).parents[2])
    while upload.poll() is None:
        for pid, command in children(api).items():
            with suppress(OSError, IndexError):
                if "service.datasets" in command:
                    readers[pid] = max(readers.get(pid, 0), peak(pid))
        time.sleep(0.01)
    seconds = time.monotonic() - began
    assert upload.returncode == 0
    with Client(server.url) as client:
        found = next(client.datasets())
        assert found.rows == rows and [column.kind for column in found.columns] == [*["number"] * 6, "category", "number"]
        assert client.connection.json("GET", f"/v1/datasets/{found.id}/rows?offset={rows - 1}&limit=1")["data"][0]["y"] in (0, 1)
        client.connection.http.delete(f"/v1/datasets/{found.id}").raise_for_status()
    grown, reading = peak(api), max(readers.values())
    assert grown < most and reading < most, (grown, reading)
    assert {entry.name for entry in (server.home / "datasets").iterdir()} == there and not list(server.home.glob("uploads/*"))
    path.unlink()
    return (f"{size / 1e9:.2f} GB, {rows:,} rows: {seconds:.1f} s; peaks: API {grown / MB:.0f} MB (before {before / MB:.0f}), "
            f"reader {reading / MB:.0f} MB")


def test_a_large_table_takes_little_memory(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = check_peaks(server, 40 * MB, tmp_path, 500 * MB)
    with capsys.disabled():
        print(f"\n{told}")


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_a_table_of_5_gb_takes_little_memory(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if shutil.disk_usage(tmp_path).free < 25_000 * MB:
        pytest.skip("25 GB of free disk are needed: the table, its parts, its bytes and its columns")
    told = check_peaks(server, 5000 * MB, tmp_path, 500 * MB)
    with capsys.disabled():
        print(f"\n{told}")
