"""Callbacks as state machines: what they ask for, when, and that they go on from their saved state."""

import json

import pytest

from engine.train.callbacks import EarlyStopping, OnNonfinite, StopWhen, callbacks
from engine.train.callbacks.actions import KeepCheckpoint, RestoreBest, Rollback, Scores, Skip, Stop

SCORES = Scores({"train_loss": False, "train_accuracy": True, "valid_loss": False, "valid_accuracy": True}, True, "valid_loss")


def test_early_stopping_waits_for_its_patience_and_goes_on_from_its_state():
    runner = EarlyStopping(monitor="accuracy", patience=2, min_delta=0.01).start(SCORES)
    assert [runner.after_epoch({"valid_accuracy": v}, e + 1, 0, 0.0) for e, v in enumerate([0.5, 0.6, 0.605])] == [(), (), ()]
    again = EarlyStopping(monitor="accuracy", patience=2, min_delta=0.01).start(SCORES)
    again.restore(json.loads(json.dumps(runner.state())))
    assert again.after_epoch({"valid_accuracy": float("nan")}, 4, 0, 0.0) == (
        RestoreBest("valid_accuracy"),
        Stop("run", "early_stopping", "valid_accuracy", pytest.approx(float("nan"), nan_ok=True), 2),
    )


def test_the_other_callbacks_ask_for_what_they_say():
    made = {kind: callbacks.find(kind) for kind in callbacks.members}
    stop = StopWhen(metric="loss", below=0.1).start(SCORES)
    assert stop.after_epoch({"valid_loss": 0.2}, 1, 1, 0.0) == () and stop.after_epoch({"valid_loss": 0.05}, 1, 1, 0.0)[0].reason == "stop_when"
    epoch = StopWhen(metric="loss", below=0.1, level="epoch").start(SCORES)
    assert epoch.after_steps({"train_loss": 0.05}, 1, 1, 0.0)[0].level == "epoch" and epoch.after_epoch({"train_loss": 0.05}, 1, 1, 0.0) == ()
    assert made["skip_when"](above=3).start(SCORES).before_update(4.0, 1) == Skip()
    assert made["time_limit"](seconds=2).start(SCORES).after_steps({}, 1, 1, 2.5)[0].reason == "time_limit"
    limit = made["step_limit"](steps=10).start(SCORES)
    assert limit.steps_allowed(7) == 3 and limit.after_steps({}, 1, 9, 0.0) == () and limit.after_steps({}, 1, 10, 0.0)[0].reason == "step_limit"


def test_checkpoints_stay_if_they_are_among_the_last_or_the_best():
    kept = callbacks.members["checkpoint"](every_epochs=2, keep_last=1, keep_best=2).start(SCORES)
    losses, stay = [9.0, 3.0, 0.0, 1.0, 0.0, 2.0, 0.0, float("nan")], []
    for epoch, loss in enumerate(losses, 1):
        assert list(kept.after_epoch({"valid_loss": loss}, epoch, 10 * epoch, 0.0)) == ([] if epoch % 2 else [KeepCheckpoint()])
        stay.append(list(kept.keeps()))
    assert stay[1::2] == [[20], [20, 40], [40, 60], [40, 60, 80]]
    again = callbacks.members["checkpoint"](every_epochs=2, keep_last=1, keep_best=2).start(SCORES)
    again.restore(json.loads(json.dumps(kept.state())))
    assert again.after_epoch({"valid_loss": 5.0}, 10, 100, 0.0) and list(again.keeps()) == [40, 60, 100]


def test_numbers_that_are_not_finite_stop_skip_or_roll_back_so_many_times():
    assert OnNonfinite().start(SCORES).nonfinite(1).failed
    skips = OnNonfinite(action="skip", max_times=2).start(SCORES)
    assert [type(skips.nonfinite(k)) for k in range(3)] == [Skip, Skip, Stop]
    assert OnNonfinite(action="rollback").start(SCORES).nonfinite(1) == Rollback(0.5)
