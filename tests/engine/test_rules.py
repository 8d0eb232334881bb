"""Optimisation rules against plain float64 references, and the state that goes with a model."""

import numpy as np
import pytest

import engine  # noqa: F401  binds what computes values
from engine.autodiff.api import gradient
from engine.errors import NonFiniteError, ShapeError, SpecError, TrainyardError
from engine.nn import Chain as Layers
from engine.nn import Dense, Dropout
from engine.optim import (
    EMA,
    AccumGrad,
    Adam,
    AdamW,
    Chain,
    ClipGlobalNorm,
    ClipGrad,
    ClipNorm,
    Descent,
    Lookahead,
    Momentum,
    RMSProp,
    SignDecay,
    WeightDecay,
    adjust,
    at_epoch,
    averaged,
    destructure,
    freeze,
    rules,
    setup,
    thaw,
    trainables,
    update,
)
from engine.optim.schedules import Exp
from tests.engine.rule_references import REFERENCES


@pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-12), ("float32", 2e-5)])
@pytest.mark.parametrize("kind", rules.members)
def test_every_rule_moves_as_its_formula_says(kind, dtype, tolerance):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(3, 5)).astype(dtype)
    expected, memory = x.astype("float64"), {}
    state = setup(rules.members[kind](), x)
    for t in range(1, 13):
        g = rng.normal(size=x.shape).astype(dtype)
        expected = expected - REFERENCES[kind](memory, g.astype("float64"), t, expected)
        update(state, x, g)
        assert np.allclose(x, expected, rtol=tolerance, atol=tolerance), (kind, t)
    assert state.step == 12


@pytest.mark.parametrize("kind", rules.members)
def test_every_rule_made_without_arguments_goes_down(kind):
    """Loss below a hundredth of what it was: the parabola of Flux's own tests, from 1 with the rule's own learning rate."""
    x = np.array([1.0, -0.5])
    state, start = setup(rules.members[kind](), x), 1.25
    for _ in range(20_000):
        update(state, x, 2 * x)
        if (x**2).sum() < start / 100:
            return
    raise AssertionError(f"{kind} is at {x}")


def test_centred_rmsprop_divides_by_the_variance():
    x, q, l = np.array([1.0, 2.0]), 0.0, 0.0
    expected, state = x.copy(), setup(RMSProp(centred=True), x)
    for g in (np.array([1.0, -1.0]), np.array([0.5, 2.0])):
        q, l = 0.9 * q + 0.1 * g**2, 0.9 * l + 0.1 * g
        expected = expected - 0.001 * g / (np.sqrt(q - l**2) + 1e-8)
        update(state, x, g)
    assert np.allclose(x, expected, rtol=1e-12)


def test_weight_decay_of_adamw_is_coupled_to_the_learning_rate_or_not():
    for couple, decay in ((True, 0.01 * 0.1), (False, 0.1)):
        x, g = np.array([2.0]), np.array([1.0])
        update(setup(AdamW(0.01, weight_decay=0.1, couple=couple), x), x, g)
        assert x[0] == pytest.approx(2.0 - 0.01 - decay * 2.0, rel=1e-6)


def test_hyper_parameters_are_taken_by_position_and_checked():
    assert Adam(0.01).learning_rate == 0.01 and Momentum(0.1, 0.5).momentum == 0.5
    with pytest.raises(ValueError, match="learning_rate"):
        Adam(-1.0)
    with pytest.raises(ValueError):
        Adam(beta1=1.0)


def test_a_chain_hands_the_gradient_on():
    for chain, expected in ((Chain(ClipGrad(2.0), WeightDecay(0.1)), [-0.1, 7.0, 88.0]), (Chain(), [0.0, 8.0, 97.0]),
                            (Chain(SignDecay(0.1)), [-0.1, 7.9, 96.9]), (Chain(Descent(0.5), WeightDecay(0.1)), [0.4, 8.0, 88.5])):
        x = np.array([1.0, 10.0, 100.0])
        update(setup(chain, x), x, np.array([1.0, 2.0, 3.0]))
        assert np.allclose(x, expected), chain
    assert Chain([ClipGrad(2.0), Descent()]) == Chain(ClipGrad(2.0), Descent())
    with pytest.raises(TrainyardError, match=r"write Descent\(\)"):
        Chain(ClipGrad(2.0), Descent)


@pytest.mark.parametrize("clip, a, b", [(ClipNorm(1.0), 0.6, 1.0), (ClipGlobalNorm(6.5), 1.5, 6.0), (ClipGlobalNorm(20.0), 3.0, 12.0)])
def test_norms_are_clipped_per_array_or_over_all(clip, a, b):
    arrays = {"a": np.zeros(2), "b": np.zeros(1)}
    update(setup(Chain(clip), arrays), arrays, {"a": np.array([3.0, 4.0]), "b": np.array([12.0])})    # of norms 5 and 12, together 13
    assert -arrays["a"][0] == pytest.approx(a) and -arrays["b"][0] == pytest.approx(b)


def test_a_norm_that_is_not_finite_is_an_error():
    x = np.zeros(2)
    with pytest.raises(NonFiniteError, match="clip_norm"):
        update(setup(Chain(ClipNorm()), x), x, np.array([np.inf, 1.0]))


def test_a_missing_gradient_skips_and_a_zero_one_decays():
    x = np.ones(2)
    state = setup(Adam(0.1), x)
    update(state, x, np.ones(2))
    before, momenta = x.copy(), {k: v.copy() for k, v in state.state[0].items()}
    update(state, x, None)
    assert np.array_equal(x, before) and state.step == 1 and all(np.array_equal(state.state[0][k], v) for k, v in momenta.items())
    update(state, x, np.zeros(2))
    assert (state.state[0]["m"] < momenta["m"]).all() and (x != before).all()


def test_state_mirrors_the_model_and_ties_share_it():
    shared = Dense(2)
    model = Layers(shared, Dropout(0.1), shared, Dense(1)).build((2,))
    state = setup(Adam(), model)
    assert state["layers"][0]["weight"] is state["layers"][2]["weight"] and state["layers"][1] == {}
    assert [a.shape for a in trainables(model)] == [(2, 2), (2,), (2, 1), (1,)]
    ones = {"weight": np.ones((2, 2)), "bias": np.ones(2)}
    plain = setup(Descent(0.5), model)
    before = model["layers"][0]["weight"].copy()
    update(plain, model, {"layers": [ones, {}, ones, None]})
    assert np.allclose(model["layers"][0]["weight"], before - 1.0) and model["layers"][2]["weight"] is model["layers"][0]["weight"]


def test_freezing_and_adjusting_reach_parts_of_the_state():
    m = {"x": np.array([1.0, 2.0]), "y": np.array([3.0, 4.0])}
    state, g = setup(Descent(0.1), m), {"x": np.array([1.0, 10.0]), "y": np.array([100.0, 1000.0])}
    freeze(state["y"])
    update(state, m, g)
    assert np.allclose(m["x"], [0.9, 1.0]) and np.allclose(m["y"], [3, 4])
    adjust(state, 0.2)
    thaw(state["y"])
    update(state, m, g)
    assert np.allclose(m["x"], [0.7, -1.0]) and np.allclose(m["y"], [-17, -196])
    adjust(state["x"], learning_rate=0.0)
    assert state["x"].rule.learning_rate == 0.0 and state["y"].rule.learning_rate == 0.2


def test_averages_follow_the_parameters_at_a_prompt():
    model, steps = Layers(Dense(2), Dense(1)).build((3,), dtype="float64"), 4
    state = setup(Chain(EMA(0.8), Descent(1.0), Lookahead(2, 0.5)), model)
    x = expected = slow = model["layers"][1]["weight"].copy()
    for step in range(1, steps + 1):
        update(state, model, {"layers": [None, {"weight": np.ones((2, 1))}]})
        x = x - 1.0
        expected = 0.8 * expected + 0.2 * x          # after the step, before the slow copy: the order of the list
        if step % 2 == 0:
            x = slow = slow + 0.5 * (x - slow)
    assert np.allclose(model["layers"][1]["weight"], x)
    twin = averaged(state, model)
    assert np.allclose(twin["layers"][1]["weight"], expected) and np.array_equal(twin["layers"][0]["weight"], model["layers"][0]["weight"])
    assert np.allclose(model["layers"][1]["weight"], x)
    with pytest.raises(TrainyardError, match="keeps no averages"):
        averaged(setup(Adam(), model), model)


def test_a_list_waits_for_its_gradients_array_by_array():
    m = {"a": np.zeros(1), "b": np.zeros(1)}
    state = setup(Chain(AccumGrad(2), Adam(0.1)), m)
    for a, b in ((1.0, 1.0), (3.0, None), (0.0, 3.0)):
        update(state, m, {"a": np.array([a]), "b": None if b is None else np.array([b])})
    assert np.allclose(m["a"], -0.1) and np.allclose(m["b"], -0.1) and state["a"].step == 3 and state["b"].step == 2
    adjust(state, steps=1)
    update(state, m, {"a": np.array([0.0])})
    assert m["a"][0] < -0.11 and state["a"].steps[0].steps == 1


def test_adjust_refuses_a_number_that_a_rule_does_not_take_and_changes_nothing():
    state = setup(Momentum(), {"a": np.ones(2), "b": np.ones(2)})
    with pytest.raises(SpecError, match="/learning_rate: input should be greater than or equal to 0"):
        adjust(state, learning_rate=-1.0)
    assert all(state[name].rule == Momentum() for name in "ab")


def test_adjust_keeps_momenta_and_refuses_what_no_rule_has():
    x = np.ones(3)
    state = setup(Chain(ClipNorm(1.0), Adam()), x)
    update(state, x, np.ones(3))
    kept = state.state[1]["m"]
    adjust(state, beta1=0.5, max_norm=2.0)
    assert state.steps[1].beta1 == 0.5 and state.steps[0].max_norm == 2.0 and state.state[1]["m"] is kept
    with pytest.raises(TrainyardError, match="did you mean 'learning_rate'"):
        adjust(state, learning_rat=0.1)
    with pytest.raises(ValueError):
        adjust(state, learning_rate=-1.0)


def test_groups_give_paths_other_hyper_parameters():
    model = Layers(Dense(2), Dense(1)).build((2,))
    state = setup(Adam(0.1, groups=[{"paths": ["layers.0.*", "!*.bias"], "learning_rate": 0.0}]), model)
    rates = {path: leaf.rule.learning_rate for path, leaf in [("w", state["layers"][0]["weight"]), ("b", state["layers"][0]["bias"])]}
    assert rates == {"w": 0.0, "b": 0.1}


def test_schedules_act_per_update_or_per_epoch():
    x = np.array([0.0])
    state = setup(Descent(1.0, schedule=Exp(0.5, per="step")), x)
    for _ in range(3):
        update(state, x, np.array([1.0]))
    assert x[0] == pytest.approx(-1.75)
    y = np.array([0.0])
    state = setup(Descent(1.0, schedule=Exp(0.5)), y)
    update(state, y, np.array([1.0]))
    at_epoch(state, 3)
    update(state, y, np.array([1.0]))
    assert y[0] == pytest.approx(-1.25)


def test_common_mistakes_are_explained():
    model = Layers(Dense(1)).build((2,))
    grads = ({"layers": [{"weight": np.ones((2, 1)), "bias": None}]},)
    with pytest.raises(TrainyardError, match=r"grads\[0\]"):
        update(setup(Adam(), model), model, grads)
    with pytest.raises(TrainyardError, match=r"state = setup\(rule, model\)"):
        update(Adam(), model, grads[0])
    with pytest.raises(ShapeError, match=r"layers.0.weight has shape \[1, 2\].*\[2, 1\]"):
        update(setup(Adam(), model), model, {"layers": [{"weight": np.ones((1, 2))}]})
    with pytest.raises(TrainyardError, match="takes the state"):
        freeze(model)
    with pytest.raises(TrainyardError, match="first and the model second"):
        setup(model, Adam())  # type: ignore[arg-type]
    with pytest.raises(TrainyardError, match="nothing to train"):
        setup(Adam(), {"a": np.arange(3)})
    with pytest.raises(TrainyardError, match=r"gradient of layers\.0\.wait"):
        update(Descent(), model, {"layers": [{"wait": np.ones((2, 1))}]})
    with pytest.raises(TrainyardError, match=r"another model: at layers it has a list of 1, the model has a list of 2"):
        update(setup(Adam(), model), Layers(Dense(1), Dense(1)).build((2,)), grads[0])
    with pytest.raises(TrainyardError, match=r"state = setup\(optim.Adam"):
        update(Adam, model, grads[0])
    with pytest.raises(TrainyardError, match="make a model of it first"):
        Dense(1)(np.ones((3, 2)))
    with pytest.raises(TrainyardError, match=r"layer.build\("):
        setup(Adam(), Dense(1))
    with pytest.raises(TrainyardError, match="'learning_rate'"):
        adjust(setup(Adam(), model), eta=0.1)
    frozen = np.ones(2)
    frozen.setflags(write=False)
    with pytest.raises(TrainyardError, match="read-only"):
        update(Descent(), frozen, np.ones(2))
    before = model["layers"][0]["weight"].copy()
    update(Descent(1.0), model, grads[0])
    assert np.allclose(model["layers"][0]["weight"], before - 1)


def test_an_array_that_is_a_view_with_steps_is_moved_too():
    whole = np.zeros((4, 6))
    update(Descent(1.0), whole[:, ::2], np.ones((4, 3)))
    assert whole.sum() == -12


def test_destructure_gives_one_vector_and_back_with_ties():
    shared = np.array([1.0, 2.0, 3.0])
    flat, rebuild = destructure({"x": shared, "y": shared, "z": np.array([4.0, 5.0]), "n": 7})
    assert flat.tolist() == [1, 2, 3, 4, 5]
    tree = rebuild(flat * 2)
    assert tree["x"] is tree["y"] and tree["z"].tolist() == [8, 10] and tree["n"] == 7
    with pytest.raises(ShapeError, match="5 numbers"):
        rebuild(np.zeros(4))


def test_destructure_of_a_model_can_be_differentiated():
    model = Layers(Dense(3, activation="tanh"), Dense(1)).build((2,), dtype="float64")
    x = np.ones((4, 2))
    flat, rebuild = destructure(model)
    assert np.array_equal(rebuild(flat)(x), model(x))
    whole = gradient(lambda v: (rebuild(v)(x) ** 2).sum(), flat)[0]
    parts = gradient(lambda m: (m(x) ** 2).sum(), model)[0]
    assert np.allclose(whole, np.concatenate([parts["layers"][i][n].ravel() for i in (0, 1) for n in ("weight", "bias")]))
