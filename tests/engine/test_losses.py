"""Losses against plain numpy, on class numbers and one-hot rows, with weights, and what they refuse."""

import numpy as np
import pytest
from scipy import special

import engine  # noqa: F401  binds what computes values
from engine.autodiff.api import gradient
from engine.core import Node, leaf
from engine.errors import ShapeError, SpecError, TrainyardError
from engine.nn import losses
from engine.nn.loss import ClassLoss
from engine.nn.loss import losses as family

rng = np.random.default_rng(3)
EPS = np.finfo(np.float64).eps
numbers, targets = rng.uniform(0.1, 2.0, (5, 3)), rng.uniform(0.1, 2.0, (5, 3))
scores = rng.normal(size=(5, 3))
probabilities, classes = special.softmax(scores, axis=1), np.array([0, 2, 1, 1, 0])
one_hot = np.eye(3)[classes]
chances, answers = rng.uniform(0.05, 0.95, (5, 1)), np.array([[0.0], [1.0], [1.0], [0.0], [1.0]])

CASES = {   # kind: (predictions, targets, terms by numpy)
    "mse": (numbers, targets, lambda p, y: (p - y) ** 2),
    "mae": (numbers, targets, lambda p, y: np.abs(p - y)),
    "msle": (numbers, targets, lambda p, y: (np.log(p + EPS) - np.log(y + EPS)) ** 2),
    "huber": (numbers, targets, lambda p, y: special.huber(1.0, p - y)),
    "poisson": (numbers, targets, lambda p, y: p - special.xlogy(y, p)),
    "hinge": (scores, np.sign(scores[::-1]), lambda p, y: np.maximum(0, 1 - p * y)),
    "squared_hinge": (scores, np.sign(scores[::-1]), lambda p, y: np.maximum(0, 1 - p * y) ** 2),
    "siamese_contrastive": (chances, answers, lambda d, y: (1 - y) * d**2 + y * np.maximum(0, 1 - d) ** 2),
    "cross_entropy": (probabilities, one_hot, lambda p, y: -special.xlogy(y, p + EPS).sum(1)),
    "logit_cross_entropy": (scores, one_hot, lambda s, y: -(y * special.log_softmax(s, axis=1)).sum(1)),
    "kl_divergence": (probabilities, special.softmax(-scores, axis=1), lambda p, y: special.rel_entr(y, p).sum(1)),
    "focal": (probabilities, one_hot, lambda p, y: (-y * (1 - p) ** 2 * np.log(p)).sum(1)),
    "binary_cross_entropy": (chances, answers, lambda p, y: -y * np.log(p) - (1 - y) * np.log(1 - p)),
    "logit_binary_cross_entropy": (scores[:, :1], answers, lambda s, y: -y * special.log_expit(s) - (1 - y) * special.log_expit(-s)),
    "binary_focal": (chances, answers, lambda p, y: (1 - (y * p + (1 - y) * (1 - p))) ** 2 * -np.log(y * p + (1 - y) * (1 - p))),
    "dice": (chances, answers, lambda p, y: 1 - (2 * (p * y).sum(1) + 1) / ((p**2).sum(1) + (y**2).sum(1) + 1)),
    "tversky": (chances, answers, lambda p, y: 1 - ((p * y).sum(1) + 1) / ((p * y + 0.7 * (1 - y) * p + 0.3 * y * (1 - p)).sum(1) + 1)),
}
# two samples of one label each at three times, the last class the blank: the ways are aaa, aa-, a--, -aa, -a-, --a
along = special.log_softmax(rng.normal(size=(2, 3, 4)), axis=-1)
CASES["ctc"] = along, np.array([[0.0, -1.0], [2.0, -1.0]]), lambda s, y: np.array([
    -special.logsumexp([sum(x[t, 3 if step == "-" else int(k)] for t, step in enumerate(way)) for way in ("aaa", "aa-", "a--", "-aa", "-a-", "--a")])
    for x, (k, _) in zip(special.log_softmax(s, axis=-1), y, strict=True)])
WHOLE = ("dice", "tversky")   # over the whole batch at once


def test_every_loss_has_a_case():
    assert set(CASES) == set(family.members) - {"expression"}    # that one is whatever its user writes


@pytest.mark.parametrize("kind", CASES)
def test_terms_and_aggregates_are_those_of_the_formula(kind):
    y_hat, y, terms = CASES[kind]
    f, expected = getattr(losses, kind), terms(y_hat, y)
    assert np.allclose(f(y_hat, y, agg=None), expected, rtol=1e-9)
    if kind not in WHOLE:
        assert f(y_hat, y) == pytest.approx(expected.mean()) and f(y_hat, y, agg="sum") == pytest.approx(expected.sum())
        rows = family.members[kind]().rows(leaf(y_hat.shape, "float64", value=y_hat), leaf(y.shape, "float64", value=y))
        assert np.allclose(rows.numpy(), expected.reshape(len(y_hat), -1).mean(1))


@pytest.mark.parametrize("kind", CASES)
def test_gradients_are_those_of_differences(kind):
    y_hat, y, _ = CASES[kind]
    f = getattr(losses, kind)
    found, step = gradient(lambda p: f(p, y), y_hat)[0], 1e-6
    for index in np.ndindex(*y_hat.shape):
        moved = np.zeros_like(y_hat)
        moved[index] = step
        assert found[index] == pytest.approx((f(y_hat + moved, y) - f(y_hat - moved, y)) / (2 * step), rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("kind", CASES)
def test_row_weights_count_rows_as_if_they_were_repeated(kind):
    y_hat, y, _ = CASES[kind]
    spec, weight = family.members[kind](), np.array([1.0, 2.0, 0.0, 1.0, 3.0])[:len(y_hat)]
    repeated = np.repeat(np.arange(len(y_hat)), weight.astype(int))
    nodes = [leaf(a.shape, "float64", value=a) for a in (y_hat, y, weight)]
    assert spec.forward(*nodes).item() == pytest.approx(getattr(losses, kind)(y_hat[repeated], y[repeated]))


@pytest.mark.parametrize("kind", ["cross_entropy", "logit_cross_entropy", "focal", "kl_divergence"])
def test_class_numbers_and_one_hot_rows_are_the_same(kind):
    f, y_hat = getattr(losses, kind), CASES[kind][0]
    assert f(y_hat, classes) == pytest.approx(f(y_hat, one_hot)) == f(y_hat, classes.astype("int32"))
    sequence = np.stack([y_hat, y_hat], axis=1)
    assert f(sequence, np.stack([classes, classes], axis=1)) == pytest.approx(f(y_hat, classes))


def test_nodes_give_nodes_and_arrays_give_numbers():
    assert isinstance(losses.mse(leaf((2,), "float32"), np.zeros(2, np.float32)), Node)
    assert isinstance(losses.mse(np.zeros(2), np.ones(2)), float)
    assert losses.mse(np.zeros(2), 1.0) == 1.0
    assert losses.mse(np.zeros(2, np.float32), np.ones(2, np.float32), agg=None).dtype == np.float32


def test_columns_against_rows_are_refused_not_stretched():
    with pytest.raises(ShapeError, match=r"\[4, 1\], targets \[4\]; reshape the targets to \[4, 1\]"):
        losses.mse(np.zeros((4, 1)), np.zeros(4))
    with pytest.raises(ShapeError, match=r"class numbers \[4\] or one-hot rows \[4, 3\].*y\[:, 0\]"):
        losses.cross_entropy(np.zeros((4, 3)), np.zeros((4, 1), int))
    with pytest.raises(ShapeError, match=r"\[batch, classes\]"):
        losses.cross_entropy(np.zeros(3), np.zeros((), int))


@pytest.mark.parametrize("kind", ["cross_entropy", "logit_cross_entropy", "kl_divergence", "focal"])
def test_class_numbers_that_are_no_class_are_refused(kind):
    loss, p = getattr(losses, kind), np.full((2, 3), 1 / 3)
    for wrong, found in (([3, 0], "3"), ([0, -1], "-1"), ([0.0, 0.5], "0.5"), ([np.nan, 0.0], "nan")):
        with pytest.raises(TrainyardError, match=f"from 0 to 2, found {found}"):
            loss(p, np.array(wrong))
    with pytest.raises(ShapeError, match="binary_cross_entropy"):
        loss(p[:, :1], np.array([0, 1]))


def test_smoothed_labels_are_smoothed_targets():
    for kind in ("cross_entropy", "logit_cross_entropy"):
        f, y_hat = getattr(losses, kind), CASES[kind][0]
        assert f(y_hat, classes, label_smoothing=0.1) == pytest.approx(f(y_hat, losses.label_smoothing(one_hot, 0.1)))
    y = losses.label_smoothing(answers, 0.1, axis=None)
    assert losses.binary_cross_entropy(chances, answers, label_smoothing=0.1) == pytest.approx(losses.binary_cross_entropy(chances, y))
    with pytest.raises(ValueError, match="between 0 and 1"):
        losses.label_smoothing(one_hot, 1.5)


def test_class_weights_are_weights_of_rows():
    weights = np.array([1.0, 2.0, 5.0])[classes]
    expected = np.average(CASES["cross_entropy"][2](probabilities, one_hot), weights=weights)
    for y in (classes, one_hot):
        for table in ([1.0, 2.0, 5.0], {"1": 2.0, "2": 5.0}):
            assert losses.cross_entropy(probabilities, y, class_weights=table) == pytest.approx(expected)
    binary = np.average(CASES["binary_cross_entropy"][2](chances, answers)[:, 0], weights=1 + 2 * answers[:, 0])
    assert losses.binary_cross_entropy(chances, answers, class_weights=[1.0, 3.0]) == pytest.approx(binary)


@pytest.mark.parametrize("agg", ["mean", "sum", None])
def test_class_weights_count_term_by_term_in_every_form(agg):
    scores, y, table = rng.normal(size=(2, 4, 3)), rng.integers(0, 3, (2, 4)), np.array([0.5, 1.0, 2.0])
    terms = -np.take_along_axis(special.log_softmax(scores, -1), y[..., None], -1)[..., 0] * table[y]
    expected = {"mean": terms.sum() / table[y].sum(), "sum": terms.sum(), None: terms}[agg]
    for targets in (y, y.astype(float), np.eye(3)[y], np.eye(3, dtype=int)[y]):
        assert np.allclose(losses.logit_cross_entropy(scores, targets, class_weights=[0.5, 1.0, 2.0], agg=agg), expected)
    assert np.allclose(losses.logit_cross_entropy(scores, y, class_weights={0: 0.5, "2": 2.0}, agg=agg), expected)
    yes = (y == 0).astype(float)
    terms = losses.logit_binary_cross_entropy(scores[..., 0], yes, agg=None) * (1 + 2 * yes)
    expected = {"mean": terms.sum() / (1 + 2 * yes).sum(), "sum": terms.sum(), None: terms}[agg]
    assert np.allclose(losses.logit_binary_cross_entropy(scores[..., 0], yes, class_weights={1: 3.0}, agg=agg), expected)


def test_a_row_whose_classes_weigh_nothing_counts_nothing_and_classes_without_a_weight_count_one():
    assert losses.logit_cross_entropy(np.zeros((2, 2, 3)), np.array([[0, 0], [1, 2]]), class_weights=[0.0, 1.0, 1.0]) == pytest.approx(np.log(3))
    assert np.isclose(losses.logit_cross_entropy(scores, classes, class_weights={0: 2.0}),
                      losses.logit_cross_entropy(scores, classes, class_weights=[2.0, 1.0, 1.0]))
    for wrong in ([1.0, 2.0], {7: 2.0}):
        with pytest.raises(ShapeError, match="logit_cross_entropy has 3 classes here"):
            losses.logit_cross_entropy(scores, classes, class_weights=wrong)


@pytest.mark.parametrize("agg", ["mean", "sum", None])
def test_rows_count_by_their_weight(agg):
    weight, terms = np.arange(5.0), (numbers - targets) ** 2
    expected = {"mean": np.average(terms.mean(1), weights=weight), "sum": (terms * weight[:, None]).sum(), None: terms * weight[:, None]}[agg]
    assert np.allclose(losses.mse(numbers, targets, weight=weight, agg=agg), expected)
    with pytest.raises(ShapeError, match=r"a weight for each row, \[5\], found \[3\]"):
        losses.mse(numbers, targets, weight=weight[:3])


def test_an_option_that_is_none_is_refused_with_the_nearest_name():
    with pytest.raises(SpecError, match="did you mean 'delta'"):
        losses.huber(numbers, targets, dleta=2.0)


def test_class_weights_are_told_by_name_or_balanced_by_counts():
    assert losses.CrossEntropy(class_weights={"cat": 3.0}).resolved(["ant", "cat"]).class_weights == [1.0, 3.0]
    assert losses.CrossEntropy(class_weights="balanced").resolved(["a", "b"], [1, 3]).class_weights == [2.0, pytest.approx(2 / 3)]
    with pytest.raises(KeyError, match="dog"):
        losses.CrossEntropy(class_weights={"dog": 3.0}).resolved(["ant", "cat"])
    with pytest.raises(TrainyardError, match="balanced"):
        losses.cross_entropy(probabilities, classes, class_weights="balanced")


def test_losses_say_what_they_need():
    for cls in family:
        assert cls.target in ("class", "binary", "number")
        assert (cls.target == "class") <= issubclass(cls, ClassLoss)
    assert losses.CrossEntropy.needs == "probabilities" and losses.LogitBinaryCrossEntropy.needs == "logits" and losses.Mse.needs is None
    assert [k for k, cls in family.members.items() if cls.standardises] == ["mse", "mae", "huber"]
    assert family.find("CrossEntropyLoss") is losses.LogitCrossEntropy and family.find("crossentropy") is losses.CrossEntropy
