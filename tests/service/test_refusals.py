"""What cannot be trained is refused over HTTP, with the place of each mistake in the request and what was probably meant."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.serving import Server
from tests.user import User

X = [[0.1 * n, 1.0] for n in range(8)]


@pytest.fixture(scope="module")
def user(service: Server) -> User:
    return User(service.url)


@pytest.fixture(scope="module", autouse=True)
def before(user: User) -> list[list[str]]:
    """What was there before anything was refused."""
    return newest(user)


def newest(user: User) -> list[list[str]]:
    return [[row["id"] for row in user.get(path, limit=1)["data"]] for path in ("/v1/jobs", "/v1/datasets")]


def dense(units: Any, **more: Any) -> dict[str, Any]:
    return {"kind": "dense", "units": units, **more}


def job(*layers: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"model": {"kind": "chain", "layers": list(layers) or [dense(8), dense(10)]}, "loss": "logit_cross_entropy",
            "optimiser": {"kind": "adam", "learning_rate": 0.125}, "data": {"dataset": "sample:digits", "target": "label"}, **more}


def columns(y: list[Any]) -> dict[str, Any]:
    return {"dataset": {"columns": {"x": X, "y": y}}, "target": "y"}


def formula(text: str) -> dict[str, Any]:
    return job(loss={"kind": "expression", "formula": text})


CHAINED = {"kind": "chain", "layers": [dense(6, name="six"), {"kind": "activation", "activation": "relu"}]}
DEEP = {"kind": "chain", "layers": [dense(8), {"kind": "parallel", "connection": "add", "layers": [dense(4), CHAINED]}]}

REFUSED: dict[str, tuple[dict[str, Any], str, str, str | None, tuple[str, ...]]] = {      # (job, pointer, code, suggestion, words of the detail)
    "an unknown layer": (job({"kind": "dens", "units": 4}), "/model/layers/0/kind", "unknown_kind", "dense", ("'dens'",)),
    "an unknown layer deep inside": (job({"kind": "skip_connection", "layer": {"kind": "chain", "layers": [{"kind": "dropot"}]}}),
                                     "/model/layers/0/layer/layers/0/kind", "unknown_kind", "dropout", ("'dropot'",)),
    "a field of another library": (job(optimiser={"kind": "adam", "lr": 0.1}), "/optimiser/lr", "unknown_field", "learning_rate", ()),
    "a field beside one that is called like its kind": (job(optimiser={"kind": "momentum", "momentum": 0.9, "learning_rate": -1}),
                                                        "/optimiser/learning_rate", "out_of_range", None, ("-1",)),
    "a word for a number": (job(dense("ten")), "/model/layers/0/units", "invalid_value", None, ("integer", "'ten'")),
    "half a unit": (job(dense(4.5)), "/model/layers/0/units", "invalid_value", None, ("integer", "4.5")),
    "negative units": (job(dense(-3)), "/model/layers/0/units", "out_of_range", None, ("-3",)),
    "no epochs": (job(epochs=0), "/epochs", "out_of_range", None, ("0",)),
    "shapes that do not fit deep in the model": (job(DEEP, dense(10)), "/model/layers/0/layers/1", "shape_mismatch", None,
                                                 ("layers.0.1.0 (dense) [4]", "layers.0.1.1 (chain) [6]", "input [8]", "layers.0.0 (dense)")),
    "a way around that does not fit": (job(dense(8), {"kind": "skip_connection", "layer": dense(9)}, dense(10)), "/model/layers/1", "shape_mismatch",
                                       None, ("layers.1.layer (dense) [9]", "layers.0 (dense) [8]")),
    "a shape that cannot be had": (job({"kind": "reshape", "shape": [7, 10]}, dense(10)), "/model/layers/0", "shape_mismatch", None,
                                   ("[7, 10]", "[64]")),
    "initial values of another shape": (job(dense(10, init={"weight": {"kind": "values", "values": [[1, 2], [3, 4]]}})), "/model/layers/0",
                                        "shape_mismatch", None, ("[2, 2]", "[64, 10]")),
    "an output of another size": (job(dense(9)), "/model/layers/0", "output_mismatch", '"units": "target"', ("10 classes", "[9]")),
    "a target that is no column": (job(data={"dataset": "sample:digits", "target": "lable"}), "/data/target", "unknown_column", "label", ("pixels",)),
    "classes from fractions": (job(dense(2), data=columns([n / 2 for n in range(8)])), "/data/target", "continuous_target", "mse", ("0.5",)),
    "one class only": (job(dense(1), data=columns([1] * 8)), "/data/target", "single_class", None, ("class 1",)),
    "probabilities from logits": (job(loss="cross_entropy"), "/loss", "needs_probabilities", "logit_cross_entropy", ("identity",)),
    "a call that is no op": (formula("__import__('os').system('ls')"), "/loss/formula", "invalid_expression", None, ()),
    "an attribute": (formula("y.__class__"), "/loss/formula", "invalid_expression", None, ()),
    "a comprehension": (formula("[i for i in y]"), "/loss/formula", "invalid_expression", None, ("grammar",)),
    "an op that is misspelt": (formula("maen((y_hat - y) ** 2)"), "/loss/formula", "invalid_expression", "mean", ()),
    "more memory than there is": (job(dense(30_000), dense(30_000), dense(10)), "/model", "model_too_large", None,
                                   ("902,280,010", " MB", "16,000 MB")),
    "more parameters than can be counted on": (job(dense(9 * 10**12), dense(10)), "/model", "model_too_large", None, ("675,000,000,000,010",)),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_job_is_refused_with_the_place_of_its_mistake(user: User, what: str) -> None:
    spec, pointer, code, suggestion, words = REFUSED[what]
    problem, = user.refused(spec)
    assert (problem["pointer"], problem["code"], problem.get("suggestion")) == (pointer, code, suggestion)
    assert all(word in problem["detail"] for word in words), problem["detail"]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_hyper_parameter_that_is_no_number_is_pointed_at(user: User, number: str) -> None:
    problem, = user.refused(json.dumps(job()).replace("0.125", number))
    assert (problem["pointer"], problem["code"]) == ("/optimiser/learning_rate", "not_finite")


def test_all_mistakes_are_told_at_once(user: User) -> None:
    wrong = job(dense(-1), {"kind": "dropot"}, epochs="three", optimiser={"kind": "adm"}, data={"dataset": "sample:digits", "target": "lable"})
    assert [problem["pointer"] for problem in user.refused(wrong)] == [
        "/model/layers/0/units", "/model/layers/1/kind", "/optimiser/kind", "/epochs", "/data/target"]


@pytest.mark.parametrize(("optimiser", "kind"), [("sgd", "descent"), ({"kind": "sgd", "learning_rate": 0.1, "momentum": 0.9}, "momentum"),
                                                 ({"kind": "sgd", "momentum": 0.9, "nesterov": True}, "nesterov"),
                                                 ({"kind": "sgd", "nesterov": False}, "descent")])
def test_sgd_is_what_its_fields_say(user: User, optimiser: Any, kind: str) -> None:
    assert user.post("/v1/jobs?validate_only=true", job(optimiser=optimiser))["spec"]["optimiser"]["kind"] == kind


def test_nothing_was_queued_by_what_was_refused(user: User, before: list[list[str]]) -> None:
    assert newest(user) == before
