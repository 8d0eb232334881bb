"""Schedules: pure functions of a count from 1."""

import math

import numpy as np
import pytest
from pydantic import TypeAdapter

from engine.nn import Dense
from engine.optim import Adam, Chain, ClipGrad, Descent, setup
from engine.optim.schedules import AnySchedule, CosineAnneal, Exp, Loop, OneCycle, Plateau, Poly, Sequence, Step, Triangle, Warmup, schedules
from engine.train.prompt.python import train

ARGUMENTS = {"sequence": {"stages": [{"schedule": 1.0, "length": 2}]}, "loop": {"schedule": "exp", "period": 3}}


@pytest.mark.parametrize("kind", schedules.members)
def test_every_schedule_is_a_finite_number_at_any_count(kind):
    schedule = TypeAdapter(AnySchedule).validate_python({"kind": kind, **ARGUMENTS.get(kind, {})})
    values = [schedule.at(t) for t in (1, 2, 3, 10, 99, 100, 101, 100_000)]
    assert all(math.isfinite(v) and v >= 0 for v in values)
    assert values == [schedule.at(t) for t in (1, 2, 3, 10, 99, 100, 101, 100_000)]


def test_step_counts_durations():
    assert [Step(every=2, factor=0.5).at(t) for t in range(1, 7)] == [1, 1, 0.5, 0.5, 0.25, 0.25]


def test_poly_stays_at_zero_after_its_end():
    assert [Poly(degree=2.0, length=2).at(t) for t in (1, 2, 3, 50)] == [1, 0.25, 0, 0]


def test_triangle_and_cosine_reach_their_ends():
    assert Triangle(low=0.1, high=1.0, period=4).at(3) == pytest.approx(1.0)
    assert CosineAnneal(floor=0.1, period=4).at(5) == 1.0
    assert CosineAnneal(floor=0.1, period=4, restart=False).at(5) == pytest.approx(0.1)


def test_one_cycle_stays_low_after_its_end():
    cycle = OneCycle(length=8)
    assert cycle.at(3) == pytest.approx(1.0) and cycle.at(1) == pytest.approx(1 / 25) and cycle.at(9) == cycle.at(900) == pytest.approx(1e-5)


def test_warmup_hands_over_to_the_schedule_that_follows():
    assert [Warmup(length=4, then=Exp(0.5)).at(t) for t in (1, 4, 5, 6)] == [0.25, 1.0, 1.0, 0.5]
    assert Warmup(length=2).at(50) == 1.0


def test_sequence_and_loop_begin_their_schedules_anew():
    sequence = Sequence([{"schedule": 0.5, "length": 1}, {"schedule": Exp(0.5), "length": 2}])
    assert [sequence.at(t) for t in (1, 2, 3, 4)] == [0.5, 1.0, 0.5, 0.25]
    assert [Loop(Exp(0.5), 2).at(t) for t in (1, 2, 3, 4)] == [1.0, 0.5, 1.0, 0.5]


def test_a_plateau_makes_all_rates_smaller_and_remembers():
    state = setup(Chain(ClipGrad(), Adam(0.1)), {"a": np.zeros(2), "b": np.zeros(3)})
    lower = Plateau(state, 0.5, patience=2, cooldown=1, min_learning_rate=0.03)
    rates = []
    for loss in (3.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0):
        again = Plateau(state, 0.5, patience=2, cooldown=1, min_learning_rate=0.03, score=lambda value: value)
        again.restore(lower.state())
        again(loss)
        lower = again
        rates.append(state["a"].rule.learning_rate)
    assert rates == [0.1, 0.1, 0.1, 0.05, 0.05, 0.05, 0.03, 0.03, 0.03, 0.03] and state["b"].rule.learning_rate == 0.03
    model = Dense(1).build((1,))
    state = setup(Descent(1e-9), model)
    train(lambda m, x: (m(x) ** 2).sum(), model, [np.ones((1, 1), np.float32)], state, epochs=4, callbacks=[Plateau(state, 0.5, patience=2)])
    assert state["weight"].rule.learning_rate == 0.5e-9


def test_a_rule_counts_what_its_schedule_says():
    assert Descent(schedule=Exp(0.5, per="step")).factor(step=3, epoch=1) == 0.25
    assert Descent(schedule=Exp(0.5, per="epoch")).factor(step=3, epoch=1) == 1.0
    assert Descent().factor(step=3) == 1.0
