"""`train` without Python between the steps gives the bits that steps one by one give, and is not used where Python has something to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from engine import DataLoader, callbacks, freeze, losses, nn, ops, optim, schedules, setup, train
from engine.errors import NonFiniteError, TrainyardError
from engine.nn.model import Model
from engine.optim.state import each
from engine.train.prompt.traced import traced_pass

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((200, 6)).astype(np.float32), RNG.integers(0, 3, 200)


def plain(m: Any, x: Any, y: Any) -> Any:
    return losses.logit_cross_entropy(m(x), y)


def made(rate: float = 0.0) -> Model:
    return nn.Chain(nn.Dense(12, activation="tanh"), nn.Dropout(rate), nn.LayerNorm(), nn.Dense(3)).build(input_shape=(6,), seed=1)


def trained(f: Callable[..., Any], one_by_one: bool, rule: Any = None, rate: float = 0.0, frozen: bool = False, x: Any = X, **options: Any) -> Model:
    model = made(rate)
    state = setup(rule or optim.Adam(0.01), model)
    if frozen:
        freeze(state["layers"][0])
    loader = DataLoader((x, Y), batch_size=32, shuffle=True, seed=4)
    train(f, model, loader, state, epochs=3, callbacks=[lambda event: None] if one_by_one else [], **options)
    return model


def is_traced(f: Callable[..., Any], loader: Any = None) -> bool:
    model = made()
    return traced_pass(f, model, loader or DataLoader((X, Y), batch_size=32), setup(optim.Adam(0.01), model)) is not None


DECAY = optim.Descent(0.1, schedule={"kind": "exp", "factor": 0.9, "per": "step"})

LIST = optim.Chain(optim.GradientNoise(0.1), optim.AccumGrad(2), optim.ClipGrad(0.1), optim.Adam(0.01), optim.EMA(0.9), optim.Lookahead(2))


@pytest.mark.parametrize("options", [{}, {"rate": 0.3}, {"frozen": True}, {"rule": DECAY}, {"rule": LIST}, {"rule": optim.Muon()}],
                         ids=["adam", "dropout", "frozen", "schedule", "list", "muon"])
def test_the_bits_are_those_of_steps_one_by_one(options: dict[str, Any]) -> None:
    fast, slow = trained(plain, False, **options), trained(plain, True, **options)
    assert (fast.slab == slow.slab).all()
    assert fast.calls == slow.calls


def test_float64_data_train_a_float32_model_as_quickly_and_are_told_of() -> None:
    wide = X.astype(np.float64)
    with pytest.warns(UserWarning, match="float64 inputs become float32"):
        assert is_traced(plain, DataLoader((wide, Y), batch_size=32))
        fast, slow = trained(plain, False, x=wide), trained(plain, True, x=wide)
    assert (fast.slab == slow.slab).all() and (fast.slab == trained(plain, False).slab).all()
    with pytest.warns(UserWarning, match="float64"):
        assert fast(wide).dtype == np.float32


def test_a_plain_loss_of_a_loader_is_traced() -> None:
    assert is_traced(plain)


def test_a_function_that_looks_at_a_value_is_not() -> None:
    assert not is_traced(lambda m, x, y: plain(m, x, y) if float(m(x).sum()) > 0 else plain(m, x, y) * 2)


def test_a_function_that_keeps_a_node_is_not() -> None:
    kept: dict[int, Any] = {}
    assert not is_traced(lambda m, x, y: kept.setdefault(len(kept), plain(m, x, y)))


def test_a_function_that_does_something_else_each_time_is_not() -> None:
    numbers = iter(range(1, 1000))
    assert not is_traced(lambda m, x, y: plain(m, x, y) * float(numbers.__next__()))


def test_a_function_that_draws_random_numbers_is_not() -> None:
    assert not is_traced(lambda m, x, y: plain(m, x, y) * (2.0 if np.random.rand() > 2 else 1.0))


def test_effects_are_seen_in_the_functions_that_a_function_calls() -> None:
    seen: list[int] = []

    def noisy(m: Any, x: Any, y: Any) -> Any:
        seen.append(1)
        return plain(m, x, y)

    assert not is_traced(lambda m, x, y: noisy(m, x, y)) and not is_traced(lambda m, x, y: sum(noisy(m, x, y) for _ in range(2)))
    assert is_traced(lambda m, x, y: plain(m, x, y))


def test_class_numbers_that_are_no_class_are_refused_by_the_step_that_meets_them() -> None:
    with pytest.raises(TrainyardError, match="from 0 to 2, found 3"):
        train(lambda m, x, y: losses.focal(m(x), y), made(), DataLoader((X, Y + 1), batch_size=32), optim.Descent(0.1))


def test_a_list_of_batches_is_not() -> None:
    assert not is_traced(plain, [(X, Y)])


def test_a_captured_number_that_changes_between_calls_is_seen() -> None:
    scale = 1.0
    model, other = made(), made()
    for one, factors in ((model, (1.0, 5.0)), (other, (1.0, 1.0))):
        state, loader = setup(optim.Descent(0.1), one), DataLoader((X, Y), batch_size=32)
        for scale in factors:
            train(lambda m, x, y: plain(m, x, y) * scale, one, loader, state)    # noqa: B023
    assert (model.slab != other.slab).any()


def test_a_captured_array_that_changes_between_calls_is_seen() -> None:
    weights = np.ones(3, np.float32)
    model, other = made(), made()
    for one, factor in ((model, 5.0), (other, 1.0)):
        state, loader = setup(optim.Descent(0.1), one), DataLoader((X, Y), batch_size=32)
        weights[:] = 1.0
        train(lambda m, x, y: plain(m, x, y) + (m(x) * weights).mean(), one, loader, state)
        weights[:] = factor
        train(lambda m, x, y: plain(m, x, y) + (m(x) * weights).mean(), one, loader, state)
    assert (model.slab != other.slab).any()


def test_a_loss_that_is_not_finite_stops_before_its_update() -> None:
    x = X.copy()
    x[7] = np.nan
    model = made()
    with pytest.raises(NonFiniteError, match="item 1 of epoch 1"):
        train(plain, model, DataLoader((x, Y), batch_size=32), setup(optim.Adam(0.01), model))
    assert (model.slab == made().slab).all()


def test_items_that_are_not_finite_can_be_skipped() -> None:
    x = X.copy()
    x[7] = np.nan
    with pytest.warns(UserWarning, match="skipped"):
        fast = trained(plain, False, x=x, on_nonfinite="skip")
    with pytest.warns(UserWarning, match="skipped"):
        slow = trained(plain, True, x=x, on_nonfinite="skip")
    assert (fast.slab == slow.slab).all() and np.isfinite(fast.slab).all()


def test_epochs_are_told_with_their_losses() -> None:
    told: list[Any] = []

    model = made()
    train(plain, model, DataLoader((X, Y), batch_size=32), setup(optim.Adam(0.01), model), epochs=2, callbacks=[callbacks.each_epoch(told.append)])
    assert [event.epoch for event in told] == [1, 2] and told[1].loss < told[0].loss


def test_an_epoch_is_told_by_the_means_of_its_steps_compiled_or_one_by_one() -> None:
    def with_metric(m: Any, x: Any, y: Any) -> Any:
        y_hat = m(x)
        return losses.logit_cross_entropy(y_hat, y), {"size": (y_hat * y_hat).mean()}

    def renamed(m: Any, x: Any, y: Any) -> Any:
        y_hat = m(x)
        return losses.logit_cross_entropy(y_hat, y), {"power": (y_hat * y_hat).mean()}

    told: dict[str, list[Any]] = {"compiled": [], "steps": [], "renamed": []}
    for way, f in (("compiled", with_metric), ("steps", with_metric), ("renamed", renamed)):
        model, listener = made(), callbacks.each_epoch(told[way].append)
        state = setup(optim.Adam(0.01), model)
        freeze(state["layers"][0])
        train(f, model, DataLoader((X, Y), batch_size=32), state, epochs=2, callbacks=[listener] + ([lambda event: None] if way == "steps" else []))
    for compiled, steps, other in zip(*told.values(), strict=True):
        assert compiled.loss == pytest.approx(steps.loss) and compiled.gradient_norm == pytest.approx(steps.gradient_norm) and steps.gradient_norm > 0
        assert compiled.metrics == pytest.approx(steps.metrics) and list(steps.metrics) == ["size"]
        assert other.metrics == {"power": compiled.metrics["size"]} and compiled.step == steps.step and compiled.gradients is None


def test_epochs_that_nobody_looks_at_give_the_bits_of_those_told_one_by_one() -> None:
    models = []
    for listening in (True, False):
        model, loader = made(0.2), DataLoader((X, Y), batch_size=32, shuffle=True, seed=2)
        state = setup(optim.Adam(0.01, schedule=schedules.Step(every=2, per="epoch")), model)
        train(plain, model, loader, state, epochs=5, callbacks=[callbacks.each_epoch(lambda event: None)] if listening else [])
        models.append((model.slab.tobytes(), model.calls, loader.epoch, [leaf.epoch for leaf in each(state)], [leaf.step for leaf in each(state)]))
    assert models[0] == models[1]


class Journal:
    def log(self, value: Any) -> Any:
        return value


JOURNAL = Journal()


def test_a_logarithm_is_no_effect_and_a_journal_is() -> None:
    assert is_traced(lambda m, x, y: -np.log(ops.softmax(m(x))[:, 0]).mean())
    assert is_traced(lambda m, x, y: -ops.log(ops.softmax(m(x))[:, 0]).mean())
    assert not is_traced(lambda m, x, y: JOURNAL.log(plain(m, x, y)))
