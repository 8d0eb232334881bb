"""What changes while a run goes on: learning rates, what is trained, parameters, epochs; and that a resumed run changes alike."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest

from engine.data.table import Table
from engine.errors import SpecError
from engine.train import Job, check, start
from engine.train.run.checkpoint import unpack
from engine.train.run.events import Event
from engine.train.run.live import Adjustment
from engine.train.run.loop import Run
from tests.engine.test_run import events_of, job, last_checkpoint, run_of, table

PLATEAU = {"kind": "reduce_on_plateau", "factor": 0.5, "patience": 2, "min_delta": 10.0, "cooldown": 1, "min_learning_rate": 0.004}
CHANGES = ["checkpoint", {**PLATEAU, "monitor": "accuracy"},
           {"kind": "adjust", "at": {"step": 11}, "set": {"learning_rate": 0.02, "beta1": 0.5}},
           {"kind": "adjust", "when": {"metric": "train_loss", "below": 1.0}, "set": {"beta2": 0.99}},
           {"kind": "freeze", "paths": ["layers.0"], "at": {"epoch": 2}},
           {"kind": "thaw", "paths": ["layers.0.*"], "at": {"epoch": 4}},
           {"kind": "replace", "paths": ["layers.2.weight"], "init": "glorot_uniform", "at": {"epoch": 3}},
           {"kind": "early_stopping", "monitor": "train_accuracy", "patience": 30}]


def adjusted(events: list[Event]) -> list[tuple[str, int, int, dict[str, Any]]]:
    return [(e.data["by"], e.data["epoch"], e.data["step"], e.data["changes"]) for e in events if e.type == "adjusted"]


def rates(events: list[Event]) -> list[float]:
    return [e.data["learning_rate"] for e in events if e.type == "epoch"]


def watched(spec: Job) -> list[dict[str, np.ndarray]]:
    """The parameters after each epoch."""
    run, seen = run_of(spec), []
    for event in run.events():
        if event.type == "epoch":
            seen.append({path: array.copy() for path, array in run.session.parameters.items()})
    return seen


def moved(before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> set[str]:
    return {path for path in before if (before[path] != after[path]).any()}


def paused(run: Run, after: int) -> tuple[bytes, list[Event]]:
    """A checkpoint taken after so many steps, and the events until then."""
    ahead, stretch = run._steps_ahead, run._stretch
    run._steps_ahead = lambda: min(1, ahead())  # type: ignore[method-assign]

    def watch() -> Any:
        yield from stretch()
        run.stop_word[0] = run.step >= after

    run._stretch = watch  # type: ignore[method-assign]
    events = events_of(run)
    assert events[-1].data["status"] == "stopped" and run.step == after
    return run.checkpoint(), events


GROUPS = [{"paths": ["*.bias"], "learning_rate": 0.1}]
CHAIN = [{"kind": "clip_global_norm", "max_norm": 0.5}, {"kind": "adam", "learning_rate": 0.01, "groups": GROUPS}, "ema"]


@pytest.mark.parametrize("optimiser", [{"kind": "adam", "learning_rate": 0.01}, CHAIN])
def test_a_run_with_every_change_goes_on_from_any_step_to_the_same_bytes(optimiser: Any) -> None:
    spec = job(epochs=5, optimiser=optimiser, callbacks=CHANGES)
    whole = events_of(run_of(spec))
    assert {by for by, *_ in adjusted(whole)} == {"reduce_on_plateau", "adjust", "freeze", "thaw", "replace"}
    for after in (1, 8, 12, 19, 27):
        checkpoint, before = paused(run_of(spec), after)
        resumed = events_of(run_of(spec, checkpoint=checkpoint))
        assert last_checkpoint(resumed) == last_checkpoint(whole)
        assert {e.key for e in [*before, *resumed] if e.type == "adjusted"} == {e.key for e in whole if e.type == "adjusted"}
    for event in (e for e in whole if e.type == "checkpoint" and "kept" in e.data):
        assert last_checkpoint(events_of(run_of(spec, checkpoint=event.payload))) == last_checkpoint(whole)


def test_a_run_killed_just_before_it_ended_ends_as_it_would_have() -> None:
    spec = job(epochs=60, optimiser={"kind": "adam", "learning_rate": 0.1}, callbacks=["checkpoint", {"kind": "early_stopping", "patience": 2}])
    whole = events_of(run_of(spec))
    for event in [e for e in whole if e.type == "checkpoint"][-2:]:
        resumed = events_of(run_of(spec, checkpoint=event.payload))
        assert last_checkpoint(resumed) == last_checkpoint(whole) and resumed[-1].data == whole[-1].data
        assert resumed[-1].data["status_reason"] == "early_stopping"


def test_a_plateau_reduces_the_learning_rate_to_its_floor() -> None:
    events = events_of(run_of(job(epochs=9, callbacks=[PLATEAU])))
    assert rates(events) == pytest.approx([0.01] * 3 + [0.005] * 3 + [0.004] * 3)     # the first is the best; two in vain; one to cool down
    assert adjusted(events)[0] == ("reduce_on_plateau", 3, 24, {"learning_rate": {"from": 0.01, "to": 0.005}})


def test_hyper_parameters_are_adjusted_at_an_epoch_a_step_a_metric_or_a_plateau() -> None:
    def changed(**when: Any) -> list[Any]:
        callback = {"kind": "adjust", "set": {"learning_rate": 0.001}, **when}
        events = events_of(run_of(job(optimiser={"kind": "descent", "learning_rate": 0.1}, callbacks=[callback])))
        return [(epoch, step) for _, epoch, step, _ in adjusted(events)]

    assert changed(at={"epoch": 2}) == [(2, 8)] and changed(at={"step": 13}) == [(2, 13)]
    assert changed(when={"metric": "loss", "below": 100.0}) == [(1, 8)]
    assert changed(when={"metric": "train_loss", "above": 100.0}) == []
    assert changed(when={"plateau": {"patience": 1, "min_delta": 9.0}}) == [(2, 16)]


def test_what_is_frozen_stays_and_what_is_thawed_goes_on_where_it_was() -> None:
    freeze, thaw = ({"kind": kind, "paths": ["layers.0.*", "!*.bias"], "at": {"epoch": epoch}} for kind, epoch in (("freeze", 2), ("thaw", 3)))
    first, second, third, _ = watched(job(callbacks=[freeze, thaw]))
    assert moved(first, second) == {"layers.0.bias", "layers.2.weight", "layers.2.bias"}
    assert moved(second, third) == set(first)
    alone = watched(job(trainable=["layers.2.*"], callbacks=[{"kind": "thaw", "paths": ["layers.0"], "at": {"epoch": 3}}]))
    assert moved(alone[0], alone[1]) == {"layers.2.weight", "layers.2.bias"} and moved(alone[1], alone[2]) == set(first)


def test_an_array_thawed_late_begins_with_the_step_size_of_a_beginning() -> None:
    """Adam's first step is the learning rate: the corrections of its means count the array's own updates."""
    thaw = {"kind": "thaw", "paths": ["layers.0"], "at": {"epoch": 3}}
    run = run_of(job(trainable=["layers.2.*"], callbacks=[thaw, {"kind": "step_limit", "steps": 17}]))
    before = run.session.parameters["layers.0.bias"].copy()
    events_of(run)
    steps = np.abs(run.session.parameters["layers.0.bias"] - before)
    assert steps.max() == pytest.approx(0.01, rel=1e-3)


def test_replaced_parameters_begin_anew_and_so_does_their_memory() -> None:
    values = {"weight": "ones", "bias": {"kind": "constant", "value": 3.0}}
    replace = {"kind": "replace", "paths": ["layers.2"], "init": values, "at": {"epoch": 3}}
    run = run_of(job(callbacks=[replace, {"kind": "step_limit", "steps": 17}]))
    events_of(run)
    for path, value in (("layers.2.weight", 1.0), ("layers.2.bias", 3.0)):
        assert np.abs(run.session.parameters[path] - value).max() == pytest.approx(0.01, rel=1e-2)


def test_live_changes_take_effect_at_a_step_and_again_there_in_a_resumed_run() -> None:
    spec, run, steps = job(), run_of(job()), []
    events = []
    for event in run.events():
        events.append(event)
        if event.type == "epoch" and event.data["epoch"] == 1:
            steps.append(run.adjust({"learning_rate": 0.1, "epochs": 6, "freeze": ["layers.0.bias"]}, after=11))
        if event.type == "epoch" and event.data["epoch"] == 3:
            steps.append(run.adjust({"thaw": "layers.0"}))
    assert steps == [11, 24] and [e.data["epoch"] for e in events if e.type == "epoch"] == [1, 2, 3, 4, 5, 6]
    assert [(by, step, list(changes)) for by, _, step, changes in adjusted(events)] == [
        ("user", 11, ["learning_rate", "epochs", "layers.0.bias"]), ("user", 24, ["layers.0.bias"])]
    assert [e.data["number"] for e in events if e.type == "adjusted"] == [1, 2]
    asked = [Adjustment(11, {"learning_rate": 0.1, "epochs": 6, "freeze": ["layers.0.bias"]}), Adjustment(24, {"thaw": "layers.0"})]
    for after in (5, 11, 13, 30):
        checkpoint, _ = paused(run_of(spec, adjustments=asked), after)
        assert last_checkpoint(events_of(run_of(spec, checkpoint=checkpoint, adjustments=asked))) == last_checkpoint(events)


def test_changes_made_at_any_moment_from_another_thread_are_made_again_by_their_steps() -> None:
    spec, asked = job(epochs=300, optimiser={"kind": "descent", "learning_rate": 0.01}), []
    run = run_of(spec)

    def tinker() -> None:
        for k in range(40):
            change = {"learning_rate": 0.001 * (k + 1)} if k % 10 else {"freeze" if k % 20 else "thaw": ["layers.0"]}
            asked.append(Adjustment(run.adjust(change), change))
            time.sleep(0.001)

    other = threading.Thread(target=tinker)
    other.start()
    events = events_of(run)
    other.join()
    made = [e.data["step"] for e in events if e.type == "adjusted"]
    assert len(made) > 1 and made == [item.step for item in asked[:len(made)]]
    again = events_of(run_of(spec, adjustments=asked))
    assert last_checkpoint(again) == last_checkpoint(events) and [e.data["step"] for e in again if e.type == "adjusted"] == made


def test_live_changes_that_make_no_sense_are_refused_with_the_nearest_name() -> None:
    run = run_of()
    with pytest.raises(SpecError) as error:
        run.adjust({"learningrate": 0.1, "lr": 1.0, "beta1": 2.0, "epochs": 0, "freeze": ["layers.9"], "thaw": 3})
    assert {(p.pointer, p.code, p.suggestion) for p in error.value.problems} == {
        ("/learningrate", "unknown_field", "learning_rate"), ("/lr", "unknown_field", "learning_rate"), ("/beta1", "out_of_range", None),
        ("/epochs", "invalid_value", None), ("/freeze/0", "unknown_path", "layers.2.bias"), ("/thaw", "invalid_value", None)}
    run.adjust({"freeze": ["*"]})
    warned = [event for event in run.events() if event.type == "warning"]
    assert len(warned) == 1 and "nothing would be left" in warned[0].message
    assert warned[0].data["number"] == 1 and warned[0].data["step"] == 0 and warned[0].key == "adjusted:1"


def asked_at(spec: Job, when: Any, changes: dict[str, Any]) -> tuple[list[Event], list[Adjustment]]:
    """A run of which `changes` are asked after the first event that `when` chooses; its events and what it says was asked."""
    run, asked, events = run_of(spec), [], []
    for event in run.events():
        events.append(event)
        if when(event) and not asked:
            asked.append(Adjustment(run.adjust(changes), changes))
    return events, asked


def test_a_live_change_between_a_callback_and_the_first_step_of_an_epoch_comes_after_that_callback_in_every_attempt() -> None:
    spec = job(callbacks=[{"kind": "adjust", "at": {"epoch": 3}, "set": {"learning_rate": 0.02}}])
    events, asked = asked_at(spec, lambda event: event.type == "adjusted", {"learning_rate": 0.05})
    assert [(by, step) for by, _, step, _ in adjusted(events)] == [("adjust", 16), ("user", 17)]
    assert last_checkpoint(events_of(run_of(spec, adjustments=asked))) == last_checkpoint(events)


def test_a_live_change_after_a_rollback_waits_until_the_run_is_where_it_was() -> None:
    spec = job(optimiser={"kind": "descent", "learning_rate": 1e20}, callbacks=[{"kind": "on_nonfinite", "action": "rollback", "factor": 1e-3}])
    events, asked = asked_at(spec, lambda event: event.type == "nonfinite", {"learning_rate": 0.01})
    troubled = next(event.data["step"] for event in events if event.type == "nonfinite")
    assert asked[0].step >= troubled and events[-1].data["status"] == "succeeded"
    assert last_checkpoint(events_of(run_of(spec, adjustments=asked))) == last_checkpoint(events)


def test_there_are_never_fewer_epochs_than_have_begun() -> None:
    events, _ = asked_at(job(epochs=5), lambda event: event.type == "epoch" and event.data["epoch"] == 3, {"epochs": 1})
    assert [event.data["epoch"] for event in events if event.type == "epoch"] == [1, 2, 3]
    assert adjusted(events)[-1] == ("user", 4, 24, {"epochs": {"from": 5, "to": 3}})


def test_callbacks_that_make_no_sense_are_refused_with_their_place() -> None:
    callbacks = [
        {"kind": "adjust", "at": {"epoch": 1}, "set": {"learn_rate": 0.1, "beta1": -1}},
        {"kind": "reduce_on_plateau", "monitor": "accurcy"},
        {"kind": "adjust", "when": {"metric": "val_loss", "below": 1}, "set": {"learning_rate": 0.1}},
        {"kind": "freeze", "paths": ["layer.0"], "at": {"epoch": 2}},
        {"kind": "replace", "paths": ["layers.2.bias"], "init": "orthogonal", "at": {"epoch": 2}},
        {"kind": "freeze", "paths": ["*"], "at": {"epoch": 2}}]
    with pytest.raises(SpecError) as error:
        check(job(callbacks=callbacks), {"d": table()})
    assert {(p.pointer, p.code) for p in error.value.problems} == {
        ("/callbacks/0/set/learn_rate", "unknown_field"), ("/callbacks/0/set/beta1", "out_of_range"), ("/callbacks/1/monitor", "unknown_metric"),
        ("/callbacks/2/when/metric", "unknown_metric"), ("/callbacks/3/paths/0", "unknown_path"), ("/callbacks/4/init", "shape_mismatch"),
        ("/callbacks/5/paths", "nothing_trained")}


# ---------------------------------------------------------------- numbers that are not finite

def broken(row: int = 5) -> dict[str, Table]:
    data = table()
    x = np.array(data.columns["x"].data)
    x[row, 0] = np.inf
    return {"d": Table.from_columns({"x": x, "y": np.array(data.columns["y"].data)})}


def test_rollbacks_go_to_the_beginning_of_the_epoch_at_a_smaller_rate_until_there_were_too_many() -> None:
    spec = job(callbacks=[{"kind": "on_nonfinite", "action": "rollback", "max_times": 3}])
    events = events_of(start(spec, broken()))
    assert [e.data["action"] for e in events if e.type == "nonfinite"] == ["rollback"] * 3 + ["stop"]
    assert [(by, changes["learning_rate"]["to"]) for by, _, _, changes in adjusted(events)] == [("on_nonfinite", 0.01 * 0.5**k) for k in (1, 2, 3)]
    assert len({e.key for e in events if e.type in ("nonfinite", "adjusted")}) == 7 and events[-1].data["status"] == "failed"


def test_a_run_that_rolls_back_goes_on_from_any_step_to_the_same_bytes() -> None:
    spec = job(optimiser={"kind": "descent", "learning_rate": 1e20}, callbacks=[{"kind": "on_nonfinite", "action": "rollback", "factor": 1e-3}])
    whole = events_of(run_of(spec))
    assert whole[-1].data["status"] == "succeeded" and sum(e.type == "nonfinite" for e in whole) > 2
    for after in (1, 2, 7, 9):
        checkpoint, _ = paused(run_of(spec), after)
        assert last_checkpoint(events_of(run_of(spec, checkpoint=checkpoint))) == last_checkpoint(whole)


def test_no_more_steps_are_skipped_than_may_be() -> None:
    spec = job(callbacks=[{"kind": "on_nonfinite", "action": "skip", "max_times": 2}])
    events = events_of(start(spec, broken()))
    assert [e.data["action"] for e in events if e.type == "nonfinite"] == ["skip", "skip", "stop"]
    error = events[-1].data["error"]
    assert error["code"] == "nonfinite_loss" and error["step"] == [e.data["step"] for e in events if e.type == "nonfinite"][-1]


def test_the_weights_that_early_stopping_restores_are_those_of_its_own_metric() -> None:
    spec = job(epochs=60, optimiser={"kind": "adam", "learning_rate": 0.1},
               callbacks=[{"kind": "early_stopping", "monitor": "train_accuracy", "patience": 3}])
    events = events_of(run_of(spec))
    stopped = next(e for e in events if e.type == "stopped_early")
    accuracy = [e.data["train_accuracy"] for e in events if e.type == "epoch"]
    assert stopped.data["best_epoch"] == 1 + int(np.argmax(accuracy))
    found = unpack(last_checkpoint(events))
    assert all((array == found.group("best_train_accuracy")[path]).all() for path, array in found.group("parameters").items())


def test_an_epoch_that_is_good_enough_ends_early_at_the_same_step_however_calls_are_cut() -> None:
    spec = job(callbacks=[{"kind": "stop_when", "metric": "loss", "below": 1.2, "level": "epoch"}])
    whole = events_of(run_of(spec))
    assert [e.data["epoch"] for e in whole if e.type == "epoch"] == [1, 2, 3, 4] and unpack(last_checkpoint(whole)).meta["step"] < 32
    ends = [e.data["step"] for e in whole if e.type == "epoch"]
    for after in (3, ends[0], ends[1]):
        checkpoint, _ = paused(run_of(spec), after)
        assert last_checkpoint(events_of(run_of(spec, checkpoint=checkpoint))) == last_checkpoint(whole)
