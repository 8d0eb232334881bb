"""Small layers: scale, bilinear, bags of embeddings, fusion, maxout, formulas, and one layer in two places."""

from __future__ import annotations

import numpy as np
import pytest

from engine import check_gradient, gradient, losses, optim, setup, update
from engine.data.table import Table
from engine.errors import ShapeError, SpecError, TrainyardError
from engine.nn import Bilinear, Chain, Dense, EmbeddingBag, Flatten, Lambda, Maxout, PairwiseFusion, Parallel, Scale, SkipConnection
from engine.train import Job, start

x = np.array([[1.0, -2.0, 0.5], [0.0, 3.0, -1.0]])
z = np.array([[2.0, 1.0], [-1.0, 0.5]])


def test_scale_multiplies_each_feature_and_repeats_a_single_one():
    model = Scale(activation="relu", init={"weight": {"kind": "values", "values": [1, 2, 3]}, "bias": "ones"}).build((3,), dtype="float64")
    assert np.allclose(model(x), np.maximum(x * [1, 2, 3] + 1, 0))
    assert Scale(4, bias=False).build((1,))(x[:, :1]).shape == (2, 4) and [*Scale(bias=False).build((3,)).parameters] == ["weight"]
    with pytest.raises(ShapeError, match="units 4, found 3 features"):
        Scale(4).build((3,))


def test_bilinear_is_flux_s_form_of_two_inputs_of_named_ones_and_of_one_with_itself():
    model = Bilinear(4).build([(3,), (2,)], dtype="float64")
    w = model["weight"]
    assert w.shape == (4, 3, 2) and np.allclose(model(x, z), np.einsum("ni,uij,nj->nu", x, w, z) + model["bias"])
    named = Chain(Parallel({"a": Dense(3), "b": Dense(2)}, "separate"), Bilinear(4)).build({"a": (3,), "b": (2,)})
    assert named({"a": x, "b": z}).shape == (2, 4)
    alone = Bilinear(4, bias=False).build((2, 3), dtype="float64")
    cube = np.stack([x, x + 1])
    assert np.allclose(alone(cube), np.einsum("nti,uij,ntj->ntu", cube, alone["weight"], cube))
    assert check_gradient(lambda a, b: (model(a, b) ** 2).sum(), x, z)
    with pytest.raises(ShapeError, match="equally many"):
        Bilinear(4).build([(2, 3), (5, 3)])


@pytest.mark.parametrize("reduction", ["mean", "sum", "max"])
def test_a_bag_is_reduced_and_its_padding_left_out(reduction):
    model = EmbeddingBag(5, 2, padding_index=0, reduction=reduction).build((3,), dtype="float64")
    w = model["weight"]
    words = np.array([[1, 4, 0], [2, 0, 0], [0, 0, 0]])
    reduce = getattr(np, reduction)
    assert np.allclose(model(words), [reduce(w[[1, 4]], 0), w[2], [0, 0]])
    full = EmbeddingBag(5, 2, reduction=reduction).build((3,), dtype="float64")
    assert np.allclose(full(words), reduce(full["weight"][words], 1))
    assert not gradient(lambda m: (m(words) ** 2).sum(), model)[0]["weight"][[0, 3]].any()


def test_a_bag_refuses_numbers_without_a_row_and_single_numbers():
    with pytest.raises(TrainyardError, match="embedding_bag has rows for the numbers 0 to 4, found 7"):
        EmbeddingBag(5, 2).build((2,))(np.array([[1, 7]]))
    with pytest.raises(ShapeError, match="bags"):
        EmbeddingBag(5, 2).build(())


def test_maxout_is_the_greatest_of_its_layers_and_fusion_gives_every_output():
    assert np.allclose(Maxout(Lambda("2 * x"), Lambda("-x"), Flatten()).build((3,), dtype="float64")(x), np.max([2 * x, -x, x], 0))
    model = Chain(PairwiseFusion(Dense(3), Dense(3)), Parallel([Dense(1), Dense(1)])).build([(2,), (3,)])
    assert model(z, x).shape == (2, 1)
    for wrong, shape in ((PairwiseFusion([Dense(3), Dense(3)]), [(3,)] * 3), (PairwiseFusion([Dense(3), Dense(2)]), [(2,), (2,)])):
        with pytest.raises(ShapeError, match=r"2 layers and found 3|the layer before|dense\) \[3\]"):
            wrong.build(shape)
    with pytest.raises(SpecError, match="at least one layer"):
        Maxout([])


def test_whole_numbers_are_joined_as_floats():
    assert SkipConnection(Flatten(), "concat").build((2,))(np.array([[1, 2]])).tolist() == [[1, 2, 1, 2]]


def test_a_lambda_is_a_formula_of_one_array_or_of_several_by_name():
    assert np.allclose(Lambda("x * sigmoid(x) - mean(x, axis=1, keepdims=True)").build((3,), dtype="float64")(x),
                       x / (1 + np.exp(-x)) - x.mean(1, keepdims=True))
    assert np.allclose(Lambda("x.a * x.b").build({"a": (3,), "b": (3,)}, dtype="float64")({"a": x, "b": x}), x * x)
    assert Lambda("max_pool(x, window=[2], stride=[1])").build((4, 3))(np.ones((2, 4, 3))).shape == (2, 3, 3)


@pytest.mark.parametrize(("formula", "words"), [
    ("x.real", "there is no x.real here"), ("sum(x)", "first axis must stay the batch"), ("matmul(x, x)", "inner sizes"),
    ("mean(x, axis=1) * x", "different axes"), ("x + [1, 2]", "a list goes only after ="),
    ("softmax(x, axis=1.5)", "axis of softmax is a whole number, found 1.5"), ("elu(x, alpha=[1])", "alpha of elu is a number, found"),
    ("sum(x, axis=[0.5])", "a whole number or a list of whole numbers"), ("reshape(x, x)", "one number is asked of an array")])
def test_a_formula_that_does_not_fit_its_input_is_explained(formula, words):
    with pytest.raises(SpecError, match=f"/formula.*{words}"):
        Lambda(formula).build((2, 3) if "matmul" in formula else (3,))


@pytest.mark.parametrize("formula", ["y * 2", "x.__class__", "open(x)", "x if x else 1", "sum_squares('*')", ""])
def test_what_is_no_formula_is_refused(formula):
    with pytest.raises(SpecError):
        Lambda(formula)


def test_one_layer_in_two_places_learns_from_both_and_has_one_state():
    shared = Dense(3, bias=False)
    tied = Chain(shared, Parallel({"a": shared, "b": Dense(1)}, "separate")).build((3,), dtype="float64")
    assert [*tied.parameters] == ["layers.0.weight", "layers.1.b.weight", "layers.1.b.bias"] and tied.describe()[1]["parameters"] == 0
    w, loss = tied["layers"][0]["weight"].copy(), lambda m: losses.mse(m(x)["a"], x)
    grads = gradient(loss, tied)[0]
    both = gradient(lambda a, b: losses.mse(x @ a @ b, x), w, w)
    assert np.allclose(grads["layers"][0]["weight"], both[0] + both[1])
    update(setup(optim.Descent(0.1), tied), tied, grads)
    assert np.allclose(tied["layers"][0]["weight"], w - 0.1 * (both[0] + both[1]))


def test_one_layer_in_two_places_stays_one_when_the_data_tell_its_size():
    shared = Dense("target")
    document = {"model": Parallel([shared, Chain(Lambda("-x"), shared)]), "loss": "mse", "optimiser": "adam", "data": {"dataset": "d", "target": "y"}}
    run = start(Job(**document), {"d": Table.from_columns({"x": x, "y": x[:, 0]})})
    assert [*run.session.parameters] == ["layers.0.weight", "layers.0.bias"]
