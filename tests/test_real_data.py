"""Real data sets through HTTP as they are, with no preparation by the user: images, tables with holes, a regression, a published training."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.serving import ROOT, Server
from tests.user import Event, User, epochs

DATA = ROOT.parent / "shared" / "data"
ORACLES = json.loads((Path(__file__).parent / "engine" / "oracles" / "flux_numeric.json").read_text())
TUTORIAL = {entry["inputs"]["updates"]: entry for entry in ORACLES if entry["area"] == "end_to_end" and "updates" in entry["inputs"]}
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the folder of real data is not beside this checkout")


@pytest.fixture(scope="module")
def user(service: Server) -> User:
    return User(service.url)


def job(dataset: str, target: str, hidden: int, *, units: int | str = "target", **data: Any) -> dict[str, Any]:
    layers = [{"kind": "dense", "units": hidden, "activation": "relu"}, {"kind": "dense", "units": units}]
    return {"model": {"kind": "chain", "layers": layers}, "loss": "logit_cross_entropy", "optimiser": "adam", "metrics": ["accuracy"],
            "data": {"dataset": dataset, "target": target, **data}}


def table(user: User, file: str) -> str:
    return user.upload(file, content=(DATA / file).read_bytes(), headers={"content-type": "text/csv"})


def rows(user: User, dataset: str, count: int) -> list[dict[str, Any]]:
    """Rows as they are in the data."""
    return user.get(f"/v1/datasets/{dataset}/rows", limit=count)["data"]


@needs_data
class TestHandwrittenDigits:
    @pytest.fixture(scope="class")
    @staticmethod
    def trained(user: User) -> tuple[str, list[Event]]:
        def upload(name: str, files: str) -> str:
            parts = {column: DATA / "mnist" / f"{files}-{column}s-idx{axes}-ubyte.gz" for column, axes in (("image", 3), ("label", 1))}
            return user.upload(name, files={column: (path.name, path.read_bytes()) for column, path in parts.items()})

        spec = job(upload("train", "train"), "label", 128, batch_size=64, validation={"dataset": upload("test", "t10k")})
        spec["model"]["layers"].insert(0, {"kind": "flatten"})
        return user.train({**spec, "epochs": 5})

    def test_a_small_network_reads_them(self, trained: tuple[str, list[Event]]) -> None:
        told = epochs(trained[1])
        assert [data["epoch"] for data in told] == [1, 2, 3, 4, 5]
        assert told[-1]["step"] == 5 * 938 and told[-1]["valid_accuracy"] >= 0.975

    def test_its_events_are_replayed_exactly_from_any_of_them(self, user: User, trained: tuple[str, list[Event]]) -> None:
        job_id, events = trained
        for after in range(len(events) + 1):
            assert list(user.stream(job_id, after)) == events[after:]

    def test_raw_images_are_read_as_they_were_uploaded(self, user: User, trained: tuple[str, list[Event]]) -> None:
        raw = gzip.decompress((DATA / "mnist" / "t10k-images-idx3-ubyte.gz").read_bytes())[16:]
        labels = np.frombuffer(gzip.decompress((DATA / "mnist" / "t10k-labels-idx1-ubyte.gz").read_bytes())[8:], np.uint8)[:100]
        images = np.frombuffer(raw, np.uint8)[:100 * 784].reshape(100, 28, 28).tolist()
        found = user.post(f"/v1/jobs/{trained[0]}/predict", {"rows": [{"image": image} for image in images]})
        assert found["class_names"] == list(range(10)) and np.mean(np.array(found["classes"]) == labels) > 0.95
        assert user.post(f"/v1/jobs/{trained[0]}/predict", {"inputs": images})["outputs"] == found["outputs"]


@needs_data
def test_passengers_of_the_titanic(user: User) -> None:
    dataset = table(user, "titanic.csv")
    spec = job(dataset, "survived", 32, inputs=["*", "!alive"], validation={"fraction": 0.2})
    job_id, events = user.train({**spec, "epochs": 20})
    assert epochs(events)[-1]["valid_accuracy"] >= 0.78
    people = rows(user, dataset, 100)
    found = user.post(f"/v1/jobs/{job_id}/predict", {"rows": people})
    assert found["class_names"] == [0, 1] and np.mean([a == b["survived"] for a, b in zip(found["classes"], people, strict=True)]) >= 0.75
    one = user.post(f"/v1/jobs/{job_id}/predict", {"rows": [{**people[0], "age": None, "fare": "7.25", "embarked": "Atlantis"}]})
    assert len(one["classes"]) == 1 and "Atlantis" in str(one["warnings"])
    wrong = user.http.post(f"/v1/jobs/{job_id}/predict", json={"rows": [{**people[0], "agee": 3, "fare": "much"}]}).json()
    assert wrong["code"] == "invalid_request" and "/rows/0/agee" in [problem["pointer"] for problem in wrong["errors"]]


@needs_data
def test_incomes_of_adults_with_the_full_stop_of_the_test_labels(user: User) -> None:
    train, test = table(user, "adult-train.csv"), table(user, "adult-test.csv")
    spec = {**job(train, "c14", 64, batch_size=128, validation={"dataset": test}), "epochs": 3}
    problem, = user.refused(spec)
    assert (problem["pointer"], problem["code"]) == ("/data/validation", "unseen_class")
    assert all(repr(label) in problem["detail"] for label in ("<=50K", ">50K", "<=50K.", ">50K."))
    spec["data"].update(json.loads(f"{{{problem['suggestion']}}}"))
    assert spec["data"]["preprocess"]["c14"]["strip"] == "."
    job_id, events = user.train(spec)
    assert epochs(events)[-1]["valid_accuracy"] >= 0.84
    found = user.post(f"/v1/jobs/{job_id}/predict", {"rows": rows(user, test, 100)})
    assert found["class_names"] == ["<=50K", ">50K"] and set(found["classes"]) == {"<=50K", ">50K"}
    assert user.post(f"/v1/jobs/{job_id}/evaluate", {"dataset": test})["metrics"]["accuracy"] == epochs(events)[-1]["valid_accuracy"]


@needs_data
def test_the_quality_of_wine_in_its_own_units(user: User) -> None:
    dataset = table(user, "winequality-red.csv")
    spec = {**job(dataset, "c11", 32, units="target", validation={"fraction": 0.2}), "loss": "mse", "epochs": 30, "metrics": ["mae", "r2"]}
    job_id, events = user.train(spec)
    last = epochs(events)[-1]
    assert last["valid_r2"] > 0.25 and 0.3 < last["valid_mae"] < 0.6
    outputs = np.array(user.post(f"/v1/jobs/{job_id}/predict", {"rows": rows(user, dataset, 100)})["outputs"])
    assert outputs.shape == (100, 1) and 4 < outputs.mean() < 7


def test_the_tutorial_network_has_its_published_losses(user: User) -> None:
    x = np.arange(21) * 0.05
    y = 0.2 * np.sin(4 * np.pi * x) + 0.3 * np.exp(-x) + 4 * x**6 - 3.5 * x**5

    def dense(weight: list[list[float]], **more: Any) -> dict[str, Any]:
        return {"kind": "dense", "units": len(weight[0]), "init": {"weight": {"kind": "values", "values": weight}, "bias": "zeros"}, **more}

    layers = [dense([[5, -5, -5, -5]], activation="sigmoid"), dense([[5], [-2], [5], [-5]])]
    points = {"columns": {"x": x[:, None].tolist(), "y": y[:, None].tolist()}}
    data = {"dataset": points, "target": "y", "batch_size": "full", "sampling": "sequential"}
    job_id = user.submit({"model": {"kind": "chain", "layers": layers}, "loss": "mse", "optimiser": {"kind": "adam", "learning_rate": 0.001},
                          "data": data, "epochs": 8001, "metrics": []})
    assert user.watch(job_id)[-1]["type"] == "job.succeeded"
    columns = user.get(f"/v1/jobs/{job_id}/metrics", by="step", series="loss", points=100_000)["columns"]
    assert columns["step"] == list(range(1, 8002))
    losses = columns["loss"]        # of a step: before its update
    initial = next(entry for entry in ORACLES if entry["name"] == "TutorialFlux: initial loss (before any update)")
    np.testing.assert_allclose(losses[0], initial["expected"], rtol=initial["tolerance"]["rtol"])
    assert len(TUTORIAL) == 9
    for updates, entry in TUTORIAL.items():
        np.testing.assert_allclose(losses[updates], entry["expected"], rtol=entry["tolerance"]["rtol"])
