"""Windows: which rows they hold, what follows them, that nothing crosses a group or a split; texts by characters, and what models write."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engine.data.encode import gather
from engine.data.table import Table, text_column
from engine.errors import SpecError
from engine.train import Job, check, start
from engine.train.ready.setup import set_up
from engine.train.run.events import Event
from engine.train.run.loop import Run
from engine.train.trained.generate import generate
from engine.train.trained.predict import Predictor

DAYS, LENGTH, HORIZON = 30, 5, 2
VALUES = {"A": np.arange(DAYS) * 1.0, "B": 100 - np.arange(DAYS) * 2.0}
LINES = ["the quick brown fox", "jumps over the lazy dog", "again and again,", "as foxes do."] * 12


def panel() -> Table:
    """Two shops day by day, rows in no order, one of them without a number; one sale of B is not known."""
    rows: list[dict[str, Any]] = [
        {"day": f"2024-03-{day + 1:02d}", "shop": shop, "shelf": 1.0 if shop == "A" else None, "sales": float(VALUES[shop][day]), "load": float(day)}
        for day in range(DAYS) for shop in "AB"]
    rows[2 * 12 + 1]["sales"] = None
    return Table.from_rows([rows[k] for k in np.random.default_rng(0).permutation(len(rows))])


def text(lines: list[str] | None = None) -> Table:
    lines = lines or LINES
    return Table({"text": text_column("text", lines)}, len(lines), "text")


def forecast(loss: str = "huber", **data: Any) -> Job:
    windows = {"length": LENGTH, "horizon": HORIZON, "order": "day", "group": "shop"}
    found = {"dataset": "d", "inputs": ["load", "sales"], "target": "sales", "preprocess": "none", "windows": windows, "batch_size": 8}
    return Job.model_validate({"model": {"kind": "chain", "layers": ["flatten", {"kind": "dense", "units": "target"}]}, "loss": loss,
                               "optimiser": {"kind": "adam", "learning_rate": 0.01}, "data": {**found, **data}, "epochs": 3})


def writer(**data: Any) -> Job:
    layers = [{"kind": "embedding", "units": 8}, {"kind": "dense", "units": 32, "activation": "tanh"}, {"kind": "dense", "units": "target"}]
    return Job.model_validate({"model": {"kind": "chain", "layers": layers}, "loss": "logit_cross_entropy",
                               "optimiser": {"kind": "adam", "learning_rate": 0.02}, "epochs": 2,
                               "data": {"dataset": "d", "windows": {"length": 16}, "batch_size": 4, **data}})


def run_of(job: Job, table: Table, **options: Any) -> Run:
    return start(job, {"d": table}, **options)


def checkpoint_of(job: Job, table: Table, **options: Any) -> bytes:
    return last(list(run_of(job, table, **options).events()))


def last(events: list[Event]) -> bytes:
    return [e.payload for e in events if e.payload is not None][-1]


def batches(job: Job, table: Table) -> dict[str, dict[str, np.ndarray]]:
    """All windows of each part, as they are fed."""
    setup = set_up(job, {"d": table})
    return {name: gather(part.feeds, part.rows, setup.network.leaves) for name, part in setup.prepared.parts.items()}


def test_windows_hold_consecutive_rows_of_one_group_and_their_target_is_what_comes_next() -> None:
    found = batches(forecast("poisson"), panel())["train"]
    expected = {(shop, day) for shop in "AB" for day in range(DAYS - LENGTH - HORIZON + 1) if not (shop == "B" and day + LENGTH in (11, 12))}
    seen = set()
    for x, y in zip(found["x"], found["y"], strict=True):
        day = int(x[0, 0])
        shop = "A" if y[0] == VALUES["A"][day + LENGTH] else "B"
        assert x[:, 0].tolist() == list(range(day, day + LENGTH)) and y.tolist() == VALUES[shop][day + LENGTH: day + LENGTH + HORIZON].tolist()
        seen.add((shop, day))
    assert seen == expected and len(found["x"]) == len(expected)


def test_no_window_crosses_from_training_into_validation() -> None:
    found = batches(forecast(validation={"fraction": 0.4}), panel())
    assert found["train"]["x"][:, :, 0].max() <= 17 - HORIZON and found["valid"]["x"][:, :, 0].min() == 18
    job = forecast(validation={"fraction": 0.5, "by": "group", "group": "shop"})
    summary = check(job, {"d": panel()})
    shelves = forecast(windows={"length": LENGTH, "horizon": HORIZON, "order": "day", "group": "shelf"})
    assert check(shelves, {"d": panel()}).rows["train"] == 46
    assert sorted([summary.rows["train"], summary.rows["valid"]]) == [22, 24] and summary.spec["data"]["windows"]["stride"] == 1


def test_the_compiled_gather_fills_the_same_windows() -> None:
    embedded = {"load": "none", "sales": {"kind": "standardise"}, "shop": {"kind": "embedding", "units": 2}}
    job = forecast(sampling="sequential", inputs=["load", "sales", "shop"], preprocess=embedded, batch_size=7)
    run = run_of(job, panel())
    list(run.events())
    part = run.built.parts["train"]
    rows = part.rows[-(len(part.rows) % 7 or 7):]
    for name, expected in gather(part.feeds, rows, run.built.setup.network.leaves).items():
        np.testing.assert_allclose(run.train.batches[-1][name].view(run.session.arena), expected, rtol=1e-6)


@pytest.mark.parametrize("job, table", [(forecast(), panel()), (writer(), text())], ids=["table", "text"])
def test_windows_resume_to_the_same_bytes_and_with_two_threads(job: Job, table: Table) -> None:
    whole = checkpoint_of(job, table)
    assert checkpoint_of(job, table, threads=2) == whole
    run = run_of(job, table)
    for event in run.events():
        if event.type == "epoch":
            run.stop_word[0] = 1
    assert checkpoint_of(job, table, checkpoint=run.checkpoint()) == whole


def test_a_prediction_goes_on_after_the_last_rows_of_each_group() -> None:
    job, table = forecast(), panel()
    model = Predictor(job, checkpoint_of(job, table))
    whole = np.array(model.predict(table=table)["outputs"])
    of_a = [row for row in table.preview(limit=60) if row["shop"] == "A"]
    alone = np.array(model.predict(rows=of_a)["outputs"])
    window = np.stack([np.arange(DAYS - LENGTH, DAYS), VALUES["A"][-LENGTH:]], axis=1)
    given = np.array(model.predict(inputs=[window.tolist(), window.tolist()])["outputs"])
    assert whole.shape == (2, HORIZON) and given.shape == (2, HORIZON)
    np.testing.assert_allclose(alone[0], given[0], rtol=1e-6)
    assert np.isclose(whole, alone).all(axis=1).any()
    with pytest.raises(SpecError, match="the last 5 rows, found 2"):
        model.predict(rows=of_a[:2])
    with pytest.raises(SpecError, match="not an object"):
        model.predict(rows=[1])  # type: ignore[list-item]
    assert model.evaluate(table)["rows"] == 46


def test_a_text_is_read_character_by_character_and_its_target_is_the_next_one() -> None:
    setup = set_up(writer(validation={"fraction": 0.25}), {"d": text()})
    alphabet = setup.prepared.fitted.targets[0].classes or ()
    assert alphabet == tuple(sorted(set("".join(LINES) + "\n"))) and setup.network.model.layers[0].vocabulary == len(alphabet)  # type: ignore
    found, whole = batches(writer(validation={"fraction": 0.25}), text()), "\n".join(LINES) + "\n"
    read = ["".join(str(alphabet[k]) for k in row) for row in found["train"]["x"]]
    follows = ["".join(str(alphabet[k]) for k in row) for row in found["train"]["y"]]
    assert read[1] == whole[16:32] and follows[1] == whole[17:33]
    begin = len(whole) - round(len(whole) / 4)
    assert "".join(read) == whole[:len("".join(read))] and len("".join(read)) < begin
    assert "".join(str(alphabet[k]) for k in found["valid"]["x"][0]) == whole[begin:begin + 16]


def test_a_text_beyond_ascii_is_read_too() -> None:
    lines = ["Größe über alles — ça va"] * 10
    setup = set_up(writer(), {"d": text(lines)})
    assert setup.prepared.fitted.targets[0].classes == tuple(sorted(set("\n".join(lines))))


def test_a_model_writes_the_same_text_for_the_same_seed() -> None:
    job = writer()
    model = Predictor(job, checkpoint_of(job, text()))
    written = generate(model, "the ", 40, 0.7, seed=1)
    assert len(written) == 40 and written == generate(model, "the ", 40, 0.7, seed=1) != generate(model, "the ", 40, 0.7, seed=2)
    assert generate(model, "q", 3, 0) == generate(model, "q", 3, 0, seed=9) and len(generate(model, length=5)) == 5
    with pytest.raises(SpecError) as error:
        generate(model, "ü", 0, -1.0)
    assert [p.pointer for p in error.value.problems] == ["/prompt", "/length", "/temperature"]
    answer = model.predict(rows=[{"text": line} for line in LINES])
    assert np.shape(answer["outputs"]) == (1, 16, len(answer["class_names"])) and np.shape(answer["classes"]) == (1, 16)
    assert model.evaluate(text())["metrics"].keys() == {"accuracy"}


def test_a_formula_may_be_the_loss_of_a_text() -> None:
    def first_loss(loss: Any) -> float:
        run = run_of(Job.model_validate({**writer().spec(), "loss": loss}), text())
        return next(e.data["train_loss"] for e in run.events() if e.type == "epoch")

    formula = {"kind": "expression", "formula": "-mean(sum(y * log_softmax(y_hat), axis=-1))"}
    assert first_loss(formula) == pytest.approx(first_loss("logit_cross_entropy"), rel=1e-3)


@pytest.mark.parametrize("job, table, pointer, code", [
    (forecast(windows={"length": 5, "order": "dy"}), panel(), "/data/windows/order", "unknown_column"),
    (forecast(windows={"length": 60}), panel(), "/data/dataset", "empty_split"),
    (forecast(validation={"fraction": 0.2, "by": "random"}), panel(), "/data/validation/by", "overlapping_windows"),
    (forecast(inputs=None, target="load", windows={"length": 3, "order": "day", "group": "shop"}, preprocess={"sales": "ignore", "shelf": "ignore"}),
     panel(), "/data/inputs", "no_inputs"),
    (writer(windows=None), text(), "/data/windows", "missing_field"),
    (writer(target="text"), text(), "/data/target", "plain_text"),
    (writer(inputs=["letters"]), text(), "/data/inputs", "plain_text"),
    (writer(windows={"length": 8, "horizon": 3}), text(), "/data/windows/horizon", "plain_text"),
    (writer(validation={"dataset": "other"}), text(), "/data/validation", "unseen_class"),
])
def test_windows_that_cannot_be_cut_are_refused_with_their_place(job: Job, table: Table, pointer: str, code: str) -> None:
    with pytest.raises(SpecError) as error:
        check(job, {"d": table, "other": text(["Ümläut"] * 9)})
    assert (pointer, code) in [(p.pointer, p.code) for p in error.value.problems]


def test_what_is_wrong_with_windows_and_columns_is_told_together() -> None:
    with pytest.raises(SpecError) as error:
        check(forecast(windows={"length": 5, "order": "dy"}, target="sale", validation={"fraction": 0.2, "by": "random"}), {"d": panel()})
    assert {p.pointer for p in error.value.problems} == {"/data/windows/order", "/data/target", "/data/validation/by"}
