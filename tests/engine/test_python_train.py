"""The training loop at a prompt: what it computes, what may stop or skip it, and the helpers that decide when."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from engine import (
    DataLoader,
    SkipUpdate,
    StopTraining,
    callbacks,
    gradient,
    losses,
    nn,
    ops,
    optim,
    params,
    schedules,
    setup,
    train,
    train_step,
    update,
)
from engine.errors import NonFiniteError, TrainyardError

ORACLES = json.loads((Path(__file__).parent / "oracles" / "flux_numeric.json").read_text())
X = np.linspace(0, 1, 21, dtype="float32")[:, None]


def oracle(name):
    return next(e for e in ORACLES if e["name"].startswith(name))


def mse(m, x, y):
    return losses.mse(m(x), y)


def line(seed=0):
    return nn.Dense(1).build(input_shape=(1,), seed=seed)


def tutorial():
    model = nn.Chain(nn.Dense(4, activation="sigmoid"), nn.Dense(1)).build(input_shape=(1,))
    model.assign({"layers.0.weight": [[5, -5, -5, -5]], "layers.0.bias": 0, "layers.1.weight": [[5], [-2], [5], [-5]], "layers.1.bias": 0})
    x = np.linspace(0, 1, 21)[:, None]
    y = 0.2 * np.sin(4 * np.pi * x) + 0.3 * np.exp(-x) + 4 * x**6 - 3.5 * x**5
    return model, x.astype("float32"), y.astype("float32")


def test_four_hundred_updates_end_where_flux_ends():
    model, x, y = tutorial()
    assert float(mse(model, x, y)) == pytest.approx(oracle("TutorialFlux: initial loss")["expected"], rel=1e-6)
    state, seen = setup(optim.Adam(0.001), model), {}
    train(mse, model, [(x, y)], state, epochs=401, callbacks=[lambda e: seen.update({e.step: e.loss})])
    assert seen[401] == pytest.approx(oracle("TutorialFlux: loss after 400 Adam")["expected"], rel=3e-5)   # a step's loss is that before its update


@pytest.mark.parametrize("size, updates", [(1, 21), (7, 3), (3, 7), ("full", 1)])
def test_an_epoch_has_as_many_updates_as_batches(size, updates):
    steps = []
    train(mse, line(), DataLoader((X, X), batch_size=size, shuffle=True), optim.Descent(0.1), callbacks=[lambda e: steps.append(e.step)])
    assert steps == list(range(1, updates + 1))


def test_training_is_the_loop_written_by_hand():
    one, two = line(), line()
    loader = DataLoader((X, 2 * X), batch_size=5, shuffle=True, seed=3)
    train(mse, one, loader, setup(optim.Adam(0.01), one), epochs=3)
    state, loader = setup(optim.Adam(0.01), two), DataLoader((X, 2 * X), batch_size=5, shuffle=True, seed=3)
    for _ in range(3):
        for x, y in loader:
            update(state, two, gradient(mse, two, x, y)[0])
    assert np.array_equal(one.slab, two.slab)


def test_any_iterable_of_items_is_data():
    model = line()
    train(mse, model, zip(X[:, None], X[:, None], strict=True), optim.Descent(0.1))
    train(lambda m, x: losses.mse(m(x), x), model, [X, X[:3]], optim.Descent(0.1))
    train(lambda m, batch: losses.mse(m(batch["x"]), batch["y"]), model, DataLoader({"x": X, "y": X}, batch_size=8), optim.Descent(0.1))
    with pytest.raises(TrainyardError, match="used up"):
        train(mse, model, zip(X[:, None], X[:, None], strict=True), optim.Descent(0.1), epochs=2)


def test_plain_arrays_are_trained_too():
    tree = {"w": np.zeros(2)}
    train(lambda t, x: ((t["w"] - x) ** 2).sum(), tree, [np.array([1.0, 2.0])] * 50, optim.Descent(0.2))
    assert np.allclose(tree["w"], [1, 2], atol=1e-6)


def test_an_event_says_what_happened():
    events, epochs = [], []
    model = line()
    state = setup(optim.Descent(0.5, schedule=schedules.Step(every=1, per="epoch")), model)

    def loss(m, x, y):
        y_hat = m(x)
        return losses.mse(y_hat, y), {"mae": losses.mae(y_hat, y)}

    train(loss, model, DataLoader((X, 2 * X), batch_size=7), state, epochs=2, callbacks=[events.append, callbacks.each_epoch(epochs.append)])
    assert [(e.epoch, e.step) for e in events] == [(1, 1), (1, 2), (1, 3), (2, 4), (2, 5), (2, 6)]
    assert [e.learning_rate for e in events] == pytest.approx([0.5] * 3 + [0.05] * 3)
    assert events[0].metrics["mae"] > 0 and events[0].seconds >= 0 and events[0].gradient_norm > 0
    assert [e.epoch for e in epochs] == [1, 2]
    for mean in (lambda e: e.loss, lambda e: e.gradient_norm, lambda e: float(e.metrics["mae"])):
        assert mean(epochs[0]) == pytest.approx(np.mean([mean(e) for e in events[:3]]))


def test_events_count_on_where_the_state_stands():
    model, seen = line(), []
    state = setup(optim.Adam(), model)
    for _ in range(2):
        train(mse, model, DataLoader((X, X), batch_size=7), state, epochs=2, callbacks=[lambda e: seen.append((e.epoch, e.step))])
    train(mse, model, DataLoader((X, X), batch_size=7), state)      # as one compiled pass
    train(mse, model, [(X, X)], state, callbacks=[lambda e: seen.append((e.epoch, e.step))])
    assert seen == [(1 + k // 3, 1 + k) for k in range(12)] + [(6, 16)]


def test_a_non_finite_loss_stops_before_its_update():
    """Flux: NaN at item 51 of 100, Descent(0.1), the weight is the loss."""
    weight, calls = {"w": np.zeros(1)}, []

    def loss(t, i):
        calls.append(i)
        return t["w"].sum() * (math.nan if i == 51 else 1.0)

    with pytest.raises(NonFiniteError, match="item 51"):
        train(loss, weight, range(1, 101), optim.Descent(0.1))
    expected = oracle("NaN loss at item 51")["expected"]
    assert len(calls) == expected["calls"] and weight["w"][0] == pytest.approx(expected["weight"])


def test_non_finite_items_can_be_skipped():
    weight = {"w": np.zeros(1)}
    with pytest.warns(UserWarning, match="item 3 of epoch 1"):
        train(lambda t, i: t["w"].sum() * (math.inf if i == 3 else 1.0), weight, range(1, 6), optim.Descent(0.1), on_nonfinite="skip")
    assert weight["w"][0] == pytest.approx(-0.4)


def test_a_rollback_returns_to_the_start_of_the_epoch_at_half_the_rate():
    weight, state = {"w": np.zeros(1)}, None
    state = setup(optim.Momentum(0.1, 0.0), weight)
    with pytest.warns(UserWarning, match="start of the epoch"):
        train(lambda t, i: t["w"].sum() * (math.nan if i == 3 else 1.0), weight, range(1, 5), state, on_nonfinite="rollback")
    assert weight["w"][0] == pytest.approx(-0.05) and state["w"].rule.learning_rate == 0.05


def test_the_loss_may_skip_or_stop():
    weight = {"w": np.zeros(1)}

    def loss(t, i):
        if i == 2:
            raise SkipUpdate
        if i == 4:
            raise StopTraining(level="epoch")
        return t["w"].sum()

    train(loss, weight, range(1, 10), optim.Descent(1.0), epochs=2)
    assert weight["w"][0] == -4


def test_callbacks_may_stop_the_epoch_or_the_run():
    weight, seen = {"w": np.zeros(1)}, []

    def stop(e):
        seen.append((e.epoch, e.step))
        if e.step == 2:
            raise StopTraining(level="epoch")
        return e.step == 4

    train(lambda t, i: t["w"].sum(), weight, range(5), optim.Descent(1.0), epochs=9, callbacks=[stop])
    assert seen == [(1, 1), (1, 2), (2, 3), (2, 4)] and weight["w"][0] == -4


def test_the_level_of_a_stop_may_stand_alone_or_beside_a_message():
    stops = [StopTraining(), StopTraining("epoch"), StopTraining(level="epoch"), StopTraining("enough"), StopTraining("enough", level="epoch")]
    assert [stop.level for stop in stops] == ["run", "epoch", "epoch", "run", "epoch"] and str(stops[3]) == "enough"
    with pytest.raises(ValueError, match="level is 'epoch' or 'run', found 'step'"):
        StopTraining(level="step")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("epochs", [-1, 1.5, True])
def test_a_number_of_epochs_that_is_none_is_refused(epochs):
    with pytest.raises(ValueError, match="epochs is a whole number"):
        train(mse, nn.Dense(1).build((1,)), [(X, X)], optim.Descent(), epochs=epochs)


def test_updates_are_skipped_before_they_are_made_only():
    weight = {"w": np.zeros(1)}

    def skip(e):
        if e.step == 1:
            raise SkipUpdate

    with pytest.raises(TrainyardError, match="before_update"):
        train(lambda t, i: t["w"].sum(), weight, range(3), optim.Descent(1.0), callbacks=[skip])
    weight = {"w": np.zeros(1)}
    train(lambda t, i: t["w"].sum(), weight, range(3), optim.Descent(1.0), callbacks=[callbacks.before_update(skip)])
    assert weight["w"][0] == -1


def test_a_loss_that_forgets_the_model_is_an_error():
    model = line()
    with pytest.raises(TrainyardError, match="does not depend"):
        train(lambda m, x, y: float(mse(m, x, y)), model, [(X, X)], optim.Descent(0.1))


@pytest.mark.parametrize("state", [None, optim.Adam, {}])
def test_training_without_a_state_is_an_error(state):
    with pytest.raises(TrainyardError, match=r"setup\("):
        train(mse, line(), [(X, X)], state)
    with pytest.raises(TrainyardError, match=r"setup\("):
        train_step(mse, line(), (X, X), state)


def test_a_rule_with_memory_is_set_up_with_a_warning():
    with pytest.warns(UserWarning, match="setup"):
        train(mse, line(), [(X, X)], optim.Adam())


def test_a_train_step_gives_the_loss_before_its_update():
    model = line()
    state, before = setup(optim.Descent(0.1), model), float(mse(model, X, X))
    assert train_step(mse, model, (X, X), state) == pytest.approx(before, rel=1e-6)
    assert float(mse(model, X, X)) < before
    slab = model.slab.copy()
    assert math.isnan(train_step(lambda m, x, y: mse(m, x, y) * math.nan, model, (X, X), state)) and np.array_equal(model.slab, slab)


@pytest.mark.parametrize("callbacks", [(), [lambda event: None]], ids=["compiled", "step by step"])
def test_a_value_that_is_not_finite_is_traced_to_its_line(callbacks):
    model = nn.Chain(nn.Dense(3), nn.Dense(1)).build((2,))

    def roots(m, x):
        errors = m(x) ** 2
        return ops.sqrt(errors - 5 * errors).mean()      # this line

    with pytest.raises(NonFiniteError, match=r"first in sqrt at test_python_train.py, line \d+: return ops.sqrt\(errors - 5 \* errors\).*this line"):
        train(roots, model, DataLoader(np.ones((8, 2), np.float32), batch_size=4), setup(optim.Descent(0.1), model), callbacks=callbacks)


def test_the_implicit_style_trains_the_same():
    one, two, calls = line(), line(), []
    rule = optim.Adam(0.01)
    ps = params(one)
    for _ in range(3):
        train(lambda x, y: losses.mse(one(x), y), ps, [(X, 2 * X)], rule, cb=lambda: calls.append(1))
    train(mse, two, [(X, 2 * X)], setup(rule, two), epochs=3)
    assert len(calls) == 3 and np.allclose(one.slab, two.slab)


def test_callbacks_of_the_implicit_style_skip_stop_and_are_throttled_as_they_were():
    said, one = [], nn.Dense(1).build((1,))

    def skip():
        said.append("skip")
        raise SkipUpdate

    def stop():
        raise StopTraining

    ps, loss, data = params(one), lambda x, y: losses.mse(one(x), y), [(X, 2 * X)] * 3
    train(loss, ps, data, optim.Descent(), cb=[lambda: said.append("first") or True, skip, lambda: said.append("never")])
    assert said == ["first", "skip"] * 3 and one["weight"].any()
    train(loss, ps, data, optim.Descent(), cb=[lambda: said.append("last"), stop])
    assert said[6:] == ["last"]
    train(loss, ps, data, optim.Descent(), cb=callbacks.throttle(lambda: said.append("late"), 60, leading=False, trailing=True))
    assert said[7:] == ["late"]


def test_a_bar_shows_progress(capsys):
    for data in ([(X, X)] * 3, DataLoader((X, X), batch_size=7), zip([X] * 3, [X] * 3, strict=True)):
        train(mse, line(), data, optim.Descent(0.1), progress=True)
        shown = capsys.readouterr().err
        assert "epoch 1 of 1" in shown and "3/" in shown and "loss 0." in shown


# ---------------------------------------------------------------- helpers

def fires(trigger, values):
    return next((i for i, value in enumerate(values, 1) if trigger(value)), None)


def test_patience_counts_what_is_true_in_a_row():
    assert [callbacks.patience(lambda: True, 3)() for _ in range(1)] == [False]
    always = callbacks.patience(lambda: True, 3)
    assert [always() for _ in range(3)] == oracle("patience(true,3)")["expected"]
    found = oracle("patience on [F,T,F,T,T,T]")
    assert fires(callbacks.patience(lambda v: v, 3), found["inputs"]["seq"]) == found["expected"]


def test_early_stopping_compares_with_the_best_strictly():
    stop = callbacks.early_stopping(lambda n: n, 10, min_dist=3)
    assert fires(stop, [-3 * (i - 1) + 198 for i in range(1, 100)]) is None
    stop = callbacks.early_stopping(lambda n: n, 10, min_dist=3, init_score=0)
    assert fires(stop, [-n for n in range(50)]) == 10
    assert fires(callbacks.early_stopping(lambda v: v, 2), [3, 3, 3, 3]) is None     # an equal score is no step back
    assert fires(callbacks.early_stopping(lambda v: v, 2, distance=lambda b, s: s - b, init_score=-math.inf), [0.5, 0.6, 0.55, 0.4]) == 4


def test_a_plateau_compares_with_the_last():
    found = oracle("plateau(width 3")
    assert fires(callbacks.plateau(lambda n: n, 3, init_score=10, min_dist=18), [-9, 8, -7, 6]) == found["expected"]


def test_the_memory_of_a_trigger_is_saved_as_json():
    values = [5.0, 4.0, 6.0, 7.0, 8.0]
    whole, first = callbacks.early_stopping(lambda v: v, 3), callbacks.early_stopping(lambda v: v, 3)
    for value in values[:3]:
        assert whole(value) == first(value)
    second = callbacks.early_stopping(lambda v: v, 3)
    second.restore(json.loads(json.dumps(first.state())))
    assert [whole(v) for v in values[3:]] == [second(v) for v in values[3:]] == [False, True]


def test_throttle_calls_once_in_an_interval():
    now, seen = [0.0], []
    slow = callbacks.throttle(lambda v: seen.append(v) or v, 1.0, clock=lambda: now[0])
    for i in range(25):
        now[0] = i / 10
        assert slow(i) == seen[-1]
    assert seen == [0, 10, 20]
    trailing = callbacks.throttle(seen.append, 1.0, trailing=True, clock=lambda: 0.0)
    for i in (100, 101, 102):
        trailing(i)
    trailing.flush()
    assert seen[-2:] == [100, 102]


def test_early_stopping_ends_a_run_as_a_callback():
    weight, seen = {"w": np.zeros(1)}, []
    train(lambda t, i: t["w"].sum() * 0.0 + float(i), weight, range(9), optim.Descent(0.1),
          callbacks=[seen.append, callbacks.early_stopping(lambda e: e.loss, 3)])
    assert len(seen) == 4
