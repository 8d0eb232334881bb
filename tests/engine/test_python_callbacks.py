"""Callbacks at a prompt: everything that they are for, as plain Python functions; and the criteria for stopping, by hand-worked numbers."""

import json
import math
import time

import numpy as np
import pytest

from engine import DataLoader, SkipUpdate, StopTraining, adjust, callbacks, freeze, losses, nn, optim, setup, thaw, train

X = np.linspace(-1, 1, 64, dtype="float32")[:, None]
Y = (X > 0.1).astype("int64")[:, 0]


def classifier():
    return nn.Chain(nn.Dense(8, activation="tanh"), nn.Dense(2)).build(input_shape=(1,), seed=1)


def loss(m, x, y):
    return losses.logit_cross_entropy(m(x), y)


def accuracy(model, x=X, y=Y):
    return float((model(x).argmax(axis=1) == y).mean())


def trained(calls, epochs=30, model=None, state=None, **options):
    model = model or classifier()
    state = state or setup(optim.Adam(0.05), model)
    train(loss, model, DataLoader((X, Y), batch_size=16), state, epochs=epochs, callbacks=calls, **options)
    return model


def test_a_function_shows_how_the_training_goes():
    shown = []
    seldom = callbacks.throttle(lambda e: shown.append((e.epoch, e.step, e.loss)), timeout=3600)
    trained([seldom, callbacks.each_epoch(lambda e: shown.append(e.epoch))], 3)
    assert shown[0][:2] == (1, 1) and shown[1:] == [1, 2, 3]


def test_a_function_stops_at_an_accuracy_a_number_of_steps_or_a_time():
    model, seen = classifier(), []
    trained([callbacks.each_epoch(lambda e: seen.append(e.epoch) or accuracy(model) > 0.9)], 500, model)
    assert accuracy(model) > 0.9 and 1 <= len(seen) < 500
    steps = []
    trained([lambda e: steps.append(e.step) or e.step == 7], 500)
    assert steps[-1] == 7
    began = time.monotonic()
    trained([lambda e: e.seconds > 0.05], 10**9)
    assert time.monotonic() - began < 30


def test_a_function_changes_the_search_when_there_is_no_progress():
    model, rates = classifier(), []
    state = setup(optim.Adam(0.05), model)
    stuck = callbacks.plateau(lambda e: e.loss, 3, min_dist=10.0)

    def slow_down(e):
        rates.append(e.learning_rate)
        if stuck(e):
            adjust(state, learning_rate=e.learning_rate / 2)
            stuck.restore({"last": math.inf, "count": 0})

    trained([callbacks.each_epoch(slow_down)], 10, model, state)
    assert rates == pytest.approx([0.05] * 4 + [0.025] * 4 + [0.0125] * 2)


def test_a_function_takes_parameters_out_brings_them_back_and_replaces_them():
    model, seen = classifier(), []
    state = setup(optim.Adam(0.05), model)

    def change(e):
        seen.append(model["layers"][0]["weight"].copy())
        if e.epoch == 1:
            freeze(state["layers"][0])
        if e.epoch == 2:
            thaw(state["layers"][0])
            model.assign({"layers.1.bias": [7.0, -7.0]})

    trained([callbacks.each_epoch(change)], 3, model, state)
    assert (seen[0] == seen[1]).all() and (seen[1] != seen[2]).all() and abs(model["layers"][1]["bias"][0] - 7) < 1


def test_a_function_validates_with_another_sample_and_stops_when_that_gets_worse():
    model, found = classifier(), []
    other = np.linspace(-3, 3, 50, dtype="float32")[:, None], (np.linspace(-3, 3, 50) > 0).astype("int64")
    stop = callbacks.Patience(3) + callbacks.NumberSinceBest(20) + callbacks.InvalidValue()

    def validate(e):
        found.append(float(losses.logit_cross_entropy(model(other[0]), other[1])))
        return stop(found[-1])

    trained([callbacks.each_epoch(validate)], 2000, model)
    assert len(found) < 2000 and (found[-4:] == sorted(found[-4:]) or min(found[-20:]) > min(found))


def test_a_function_leaves_out_an_update_and_ends_an_epoch():
    model, steps = classifier(), []

    def skip(e):
        if e.loss > 0:
            raise SkipUpdate

    def next_epoch(e):
        steps.append((e.epoch, e.step))
        raise StopTraining(level="epoch")

    before = model.slab.copy()
    trained([callbacks.before_update(skip)], 2, model)
    assert (model.slab == before).all()
    trained([next_epoch], 3, model)
    assert steps == [(1, 1), (2, 2), (3, 3)]


# ---------------------------------------------------------------- criteria

LOSSES = [5.0, 3, 4, 6, 6, 7, 8, 9, 2, 3]


def stops(criterion, values=LOSSES):
    """After how many losses; None for never."""
    return next((n for n, value in enumerate(values, 1) if criterion(value)), None)


@pytest.mark.parametrize("criterion, after", [
    (callbacks.Patience(1), 3), (callbacks.Patience(2), 4), (callbacks.Patience(3), 8), (callbacks.Patience(4), None),
    (callbacks.NumberSinceBest(1), 3), (callbacks.NumberSinceBest(6), 8), (callbacks.NumberSinceBest(7), None),
    (callbacks.GL(30), 3), (callbacks.GL(100), 6), (callbacks.GL(200), None), (callbacks.NumberLimit(4), 4), (callbacks.Threshold(3.0), 9),
    (callbacks.Never(), None), (callbacks.InvalidValue(), None), (callbacks.Warmup(callbacks.NumberLimit(1), 4), 5),
    (callbacks.Never() + callbacks.GL(100) + callbacks.Patience(3), 6)], ids=repr)
def test_a_criterion_stops_after_so_many_losses_and_goes_on_from_its_memory(criterion, after):
    start = criterion.state()
    assert stops(criterion) == after
    for cut in (1, 4):
        criterion.restore(start)
        if after is None or after > cut:
            assert stops(criterion, LOSSES[:cut]) is None
            criterion.restore(json.loads(json.dumps(criterion.state())))
            assert stops(criterion, LOSSES[cut:]) == (after and after - cut)


def test_values_that_are_none_and_times_that_are_over_stop():
    assert stops(callbacks.InvalidValue(), [1.0, math.nan]) == 2 and callbacks.InvalidValue()(math.inf, training=True)
    now = iter([0.0, 40.0, 70.0, 1000.0, 1020.0])
    limit = callbacks.TimeLimit(60, clock=lambda: next(now))
    assert [limit(1.0) for _ in range(2)] == [False, False]
    again = callbacks.TimeLimit(60, clock=lambda: next(now))
    again.restore(limit.state())
    assert [again(1.0) for _ in range(3)] == [False, True, True]


def test_pq_compares_the_generalisation_loss_with_the_progress_of_training():
    def after(alpha, training):
        criterion = callbacks.PQ(alpha, k=2)
        assert not criterion(1.0)
        for value in training:
            criterion(value, training=True)
        return criterion(1.5)     # 50 % worse than the best

    assert after(0.09, [9.0, 2.0, 4.0]) and not after(0.11, [9.0, 2.0, 4.0])     # progress 1000 (3 / 2 - 1) = 500
    assert after(9.0, [2.0, 2.0]) and not after(0.01, [2.0])
    with pytest.raises(ValueError, match="alpha is more than 0"):
        callbacks.GL(0)
