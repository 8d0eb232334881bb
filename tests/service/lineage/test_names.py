"""Models by name: given, followed, given to another model, removed; and given by the job that succeeds."""

from __future__ import annotations

import pytest
from jobs import SMALL, problems

from tests.user import User


@pytest.fixture(scope="module")
def trained(user: User) -> tuple[str, str]:
    return user.train(SMALL)[0], user.train({**SMALL, "seed": 1})[0]


def test_a_name_answers_as_its_job_and_is_given_to_another_at_once(user: User, trained: tuple[str, str]) -> None:
    first, second = trained
    given = user.http.put("/v1/models/digits", json={"job": first})
    assert given.status_code == 200, given.text
    model = given.json()
    assert (model["object"], model["name"], model["job"], model["checkpoint"]) == ("model", "digits", first, "last")
    assert len(model["history"]) == 1 and given.headers["etag"]
    asked = {"dataset": "sample:digits"}
    by_job, by_name = user.post(f"/v1/jobs/{first}/predict", asked), user.post("/v1/models/digits/predict", asked)
    assert by_name.pop("model") == "digits" and by_name == by_job
    evaluated = user.post("/v1/models/digits/evaluate", {"split": "validation"})
    assert evaluated["job_id"] == first and evaluated["loss"] == user.post(f"/v1/jobs/{first}/evaluate", {"split": "validation"})["loss"]
    assert user.http.delete(f"/v1/jobs/{first}").json()["code"] == "in_use"

    again = user.http.put("/v1/models/digits", json={"job": first, "checkpoint": "last"})
    assert again.json() == model and again.headers["etag"] == given.headers["etag"]
    assert user.http.get("/v1/models/digits", headers={"if-none-match": given.headers["etag"]}).status_code == 304
    user.http.put("/v1/models/digits", json={"job": second, "checkpoint": "best"}, headers={"if-match": given.headers["etag"]}).raise_for_status()
    late = user.http.put("/v1/models/digits", json={"job": first}, headers={"if-match": given.headers["etag"]})
    assert late.status_code == 412 and late.json()["code"] == "precondition_failed"
    found = user.http.get("/v1/models/digits", headers={"if-none-match": given.headers["etag"]})
    assert found.status_code == 200 and found.headers["etag"] != given.headers["etag"]
    assert [(one["job"], one["checkpoint"]) for one in found.json()["history"]] == [(second, "best"), (first, "last")]
    answer = user.post("/v1/models/digits/predict", {"rows": [{"pixels": [0.0] * 64}]})
    assert answer["job_id"] == second and answer["checkpoint"]["name"] == "best"
    other = user.http.post("/v1/models/digits/predict?checkpoint=2", json={"rows": [{"pixels": [0.0] * 64}]}).json()
    assert other["checkpoint"]["epoch"] == 2

    assert user.http.delete("/v1/models/digits").status_code == 204
    assert user.http.get("/v1/models/digits").status_code == user.http.delete("/v1/models/digits").status_code == 404
    assert user.http.post("/v1/models/digits/predict", json=asked).status_code == 404
    assert user.get(f"/v1/jobs/{second}")["status"] == "succeeded"


def test_names_are_listed_in_pages(user: User, trained: tuple[str, str]) -> None:
    for name in ("a", "b", "c"):
        user.http.put(f"/v1/models/{name}", json={"job": trained[0]}).raise_for_status()
    page = user.get("/v1/models", limit=2)
    assert [model["name"] for model in page["data"]] == ["c", "b"] and page["has_more"]
    rest = user.get("/v1/models", limit=2, after=page["last_id"])
    assert [model["name"] for model in rest["data"]] == ["a"] and not rest["has_more"]


@pytest.mark.parametrize("name", ["job_x", "Upper", ".dot", "a" * 129, "a b", "ä"])
def test_a_name_is_small_and_plain(user: User, trained: tuple[str, str], name: str) -> None:
    assert problems(user.http.put(f"/v1/models/{name}", json={"job": trained[0]}))["/path/name"]["code"] == "invalid_value"


def test_only_what_can_answer_gets_a_name(user: User, trained: tuple[str, str]) -> None:
    assert problems(user.http.put("/v1/models/m", json={"job": "job_none"}))["/job"]["code"] == "unknown_job"
    assert problems(user.http.put("/v1/models/m", json={"job": trained[0], "checkpint": 1}))["/checkpint"]["suggestion"] == "checkpoint"
    assert problems(user.http.put("/v1/models/m", json={"job": trained[0], "checkpoint": "worst"}))["/checkpoint"]["code"] == "invalid_value"
    refused = user.http.put("/v1/models/m", json={"job": trained[0], "checkpoint": 77})
    assert refused.status_code == 409 and refused.json()["code"] == "no_checkpoint"
    assert user.http.get("/v1/models/m").status_code == 404


def test_a_job_that_succeeds_gives_its_model_a_name_if_it_is_good_enough(user: User) -> None:
    name = {"name": "digits-0042", "when": {"metric": "accuracy", "above": 0.1}}
    job_id, events = user.train({**SMALL, "publish": name})
    assert events[-1]["data"]["published"] == "digits-0042" and "digits-0042" in events[-1]["message"]
    assert user.get("/v1/models/digits-0042")["job"] == job_id and user.get(f"/v1/jobs/{job_id}")["spec"]["publish"]["name"] == "digits-0042"
    assert user.http.delete(f"/v1/jobs/{job_id}").status_code == 409
    _, events = user.train({**SMALL, "seed": 9, "publish": {**name, "when": {"metric": "valid_loss", "below": 0.0}}})
    warning = next(event for event in events if event["type"] == "warning")
    assert warning["data"] == {"code": "not_published", "pointer": "/publish"} and "not below 0" in warning["message"]
    assert user.get("/v1/models/digits-0042")["job"] == job_id
    stopping = [{"kind": "early_stopping", "patience": 1, "monitor": "valid_accuracy"},
                {"kind": "adjust", "at": {"epoch": 3}, "set": {"learning_rate": 9.0}}]
    third, events = user.train({**SMALL, "epochs": 9, "callbacks": stopping, "publish": {**name, "when": {"metric": "accuracy", "above": 0.5}}})
    assert user.get(f"/v1/jobs/{third}")["metrics"]["valid_accuracy"] < 0.5, "the last epoch is a bad one"
    assert user.get("/v1/models/digits-0042")["job"] == third, "the model is that of the best epoch"


def test_a_wrong_wish_for_a_name_is_told_with_its_place(user: User) -> None:
    def refused(publish: object) -> dict[str, str]:
        return {error["pointer"]: error["code"] for error in user.refused({**SMALL, "publish": publish})}

    assert refused({"name": "job_1"}) == {"/publish/name": "invalid_value"}
    assert refused({"name": "m", "when": {"metric": "valid_auk", "above": 0.7}}) == {"/publish/when/metric": "unknown_metric"}
    assert list(refused({"name": "m", "when": {"metric": "loss"}})) == ["/publish/when"]
    assert refused({"nam": "m"}).keys() >= {"/publish/nam"}
