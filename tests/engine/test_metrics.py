"""Metrics against plain numpy, added up over batches of unequal size, with and without weights."""

import numpy as np
import pytest
from scipy import special

import engine  # noqa: F401  binds what computes values
from engine.core import leaf
from engine.errors import ShapeError
from engine.nn.metrics import (
    F1,
    R2,
    Accuracy,
    Auc,
    AveragePrecision,
    BalancedAccuracy,
    LogLoss,
    Mae,
    Mape,
    Precision,
    Recall,
    Rmse,
    TopKAccuracy,
    metrics,
)

rng = np.random.default_rng(5)
scores, classes, weight = rng.normal(size=(40, 4)), rng.integers(0, 4, 40), rng.integers(0, 4, 40).astype(float)
numbers, targets = rng.normal(size=(40, 2)), rng.normal(size=(40, 2))
logit, answers = rng.normal(size=(40, 1)), rng.integers(0, 2, (40, 1)).astype(float)


def node(a):
    return leaf(a.shape, "int32" if a.dtype.kind == "i" else "float64", value=a.astype("int32") if a.dtype.kind == "i" else a)


def measured(metric, y_hat, y, weights=None, logits=False):
    """The metric over batches of 16, 16 and 8 rows."""
    added = {}
    for rows in np.split(np.arange(len(y)), [16, 32]):
        sums = metric.sums(node(y_hat[rows]), node(y[rows]), None if weights is None else node(weights[rows]), logits=logits)
        for name, value in sums.items():
            added[name] = added.get(name, 0) + value.numpy().astype(float)
        kept = metric.rows(node(y_hat[rows]), node(y[rows]), None if weights is None else node(weights[rows]), logits=logits)
        added |= {name: np.append(added[name], value.numpy(), axis=0) if name in added else value.numpy() for name, value in kept.items()}
    return metric.value(added)


def repeat(*arrays):
    return [np.repeat(a, weight.astype(int), axis=0) for a in arrays]


@pytest.mark.parametrize("kind", metrics.members)
def test_weights_count_rows_as_if_they_were_repeated(kind):
    metric = metrics.members[kind]()
    y_hat, y = (numbers, targets) if "number" in metric.targets else (scores, classes)
    assert measured(metric, y_hat, y, weight) == pytest.approx(measured(metric, *repeat(y_hat, y)))
    assert metric.direction in ("up", "down")


def test_errors_of_numbers():
    error = numbers - targets
    assert measured(Mae(), numbers, targets) == pytest.approx(np.abs(error).mean())
    assert measured(Rmse(), numbers, targets) == pytest.approx(np.sqrt((error**2).mean()))
    r2 = 1 - (error**2).sum(0) / ((targets - targets.mean(0)) ** 2).sum(0)
    assert measured(R2(), numbers, targets) == pytest.approx(r2.mean())
    assert measured(R2(), numbers[:, 0] + 1e6, targets[:, 0] + 1e6) == pytest.approx(r2[0], rel=1e-2)   # far from zero, digits go
    assert measured(Mae(), numbers[:0], targets[:0]) != measured(Mae(), numbers[:0], targets[:0])   # nothing to count: NaN
    with pytest.raises(ShapeError, match="mae compares"):
        Mae().sums(node(numbers), node(targets[:, 0]))


def test_accuracy_of_scores_probabilities_and_one_hot_rows():
    expected = (scores.argmax(1) == classes).mean()
    for y_hat in (scores, special.softmax(scores, axis=1)):
        for y in (classes, np.eye(4)[classes]):
            assert measured(Accuracy(), y_hat, y) == pytest.approx(expected)
    sequence = np.stack([scores, scores], axis=1)
    labels = np.stack([classes, classes], axis=1)
    assert measured(Accuracy(), sequence, labels, weight) == pytest.approx(measured(Accuracy(), scores, classes, weight))


def test_one_output_says_yes_from_a_threshold_on():
    chance = special.expit(logit)
    for threshold in (0.5, 0.3):
        expected = ((chance > threshold) == answers).mean()
        assert measured(Accuracy(threshold=threshold), chance, answers) == pytest.approx(expected)
        assert measured(Accuracy(threshold=threshold), logit, answers, logits=True) == pytest.approx(expected)


def test_the_best_k_count_and_name_themselves():
    ranks = (scores > scores[np.arange(40), classes][:, None]).sum(1)
    assert measured(TopKAccuracy(2), scores, classes) == pytest.approx((ranks < 2).mean())
    assert TopKAccuracy().key == "top_5_accuracy" and TopKAccuracy(k=2, name="best").key == "best" and Accuracy().key == "accuracy"


def scikit_learn_says(metric, y_hat, y, expected, weighted=None, logits=True):
    """The numbers of scikit-learn 1.9 for the arrays at the top of this file."""
    assert measured(metric, y_hat, y, logits=logits) == pytest.approx(expected, rel=1e-12)
    if weighted is not None:
        assert measured(metric, y_hat, y, weight, logits=logits) == pytest.approx(weighted, rel=1e-12)


def test_areas_under_curves_are_scikit_learns():
    coarse = np.round(logit)      # many scores are equal
    scikit_learn_says(Auc(), coarse, answers, 0.37239583333333337, 0.4734375)
    scikit_learn_says(AveragePrecision(), coarse, answers, 0.3483257422402159, 0.4517832739156269)
    scikit_learn_says(Auc(), scores, classes, 0.42992932694545594)
    scikit_learn_says(AveragePrecision(), scores, classes, 0.26340628231005186)
    two = np.hstack([-coarse, coarse])
    scikit_learn_says(Auc(), two, answers[:, 0].astype(int), 0.37239583333333337)
    scikit_learn_says(Auc(positive="no").resolved(["no", "yes"]), coarse, answers, 0.37239583333333337)
    assert np.isnan(measured(Auc(), coarse, np.ones((40, 1))))


def test_the_loss_of_probabilities_is_scikit_learns():
    scikit_learn_says(LogLoss(), logit, answers, 0.9093556303476937)
    scikit_learn_says(LogLoss(), special.expit(logit), answers, 0.9093556303476937, logits=False)
    scikit_learn_says(LogLoss(), scores, classes, 1.7967511745646618, 1.7871464683447777)
    scikit_learn_says(LogLoss(), special.softmax(scores, axis=1), classes, 1.7967511745646618, logits=False)
    assert np.isfinite(measured(LogLoss(), np.eye(4)[(classes + 1) % 4], classes))


def test_scores_of_classes_and_errors_of_numbers_are_scikit_learns():
    averages = {"macro": (0.23115079365079363, 0.23055555555555554, 0.22545546558704455), "micro": (0.225, 0.225, 0.225),
                "weighted": (0.2365079365079365, 0.225, 0.22649291497975707)}
    for average, values in averages.items():
        for metric, value in zip((Precision, Recall, F1), values, strict=True):
            scikit_learn_says(metric(average=average), scores, classes, value)
    for metric, value in ((R2(), -1.2382208890174742), (Mape(), 2.650481154190494), (Rmse(), 1.4428407558297887)):
        scikit_learn_says(metric, numbers, targets, value)
    scikit_learn_says(BalancedAccuracy(), scores, classes, 0.23055555555555554)
    scikit_learn_says(TopKAccuracy(2), scores, classes, 0.425)


def counts():
    table = np.zeros((4, 4))
    np.add.at(table, (classes, scores.argmax(1)), 1)
    return table


def test_scores_of_classes_and_their_averages():
    table = counts()
    both, true, predicted = table.diagonal(), table.sum(1), table.sum(0)
    precision, recall = both / predicted, both / true
    f1 = 2 * precision * recall / (precision + recall)
    assert measured(Precision(), scores, classes) == pytest.approx(precision.mean())
    assert measured(Recall(), scores, classes) == pytest.approx(recall.mean()) == measured(BalancedAccuracy(), scores, classes)
    assert measured(F1(), scores, classes) == pytest.approx(np.nan_to_num(f1).mean())
    assert measured(F1(average="weighted"), scores, classes) == pytest.approx(np.average(np.nan_to_num(f1), weights=true))
    assert measured(Precision(average="micro"), scores, classes) == pytest.approx(both.sum() / 40)
    positive = Precision(positive="b").resolved(["a", "b", "c", "d"])
    assert measured(positive, scores, classes) == pytest.approx(precision[1])
    with pytest.raises(KeyError, match="z"):
        Precision(positive="z").resolved(["a", "b"])


def test_scores_of_one_output_are_of_yes_where_asked():
    yes = logit[:, 0] > 0
    expected = (yes & (answers[:, 0] == 1)).sum() / yes.sum()
    assert measured(Precision(average="binary"), logit, answers, logits=True) == pytest.approx(expected)
    assert measured(Precision(), logit, answers, logits=True) == pytest.approx((expected + (~yes & (answers[:, 0] == 0)).sum() / (~yes).sum()) / 2)


def test_classes_that_do_not_occur_do_not_count():
    y_hat, y = np.eye(4)[[0, 1, 0]], np.array([0, 1, 1])
    assert measured(Recall(), y_hat, y) == pytest.approx((1 + 0.5) / 2)
    with pytest.raises(ShapeError, match=r"class numbers \[3\]"):
        Accuracy().sums(node(y_hat), node(np.zeros((3, 1))))
