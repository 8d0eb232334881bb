"""Batches, splits, resampling, encodings and small datasets."""

import warnings

import numpy as np
import pytest

from engine import data
from engine.data import DataLoader
from engine.data.permutation import draws, permutation
from engine.errors import ShapeError, TrainyardError


def sizes(loader):
    return [len(batch) for batch in loader]


@pytest.mark.parametrize("rows, size, partial, expected", [
    (5, 2, True, [2, 2, 1]), (5, 2, False, [2, 2]), (12, 5, False, [5, 5]), (64, 30, True, [30, 30, 4]),
    (21, 1, True, [1] * 21), (21, 7, True, [7] * 3), (21, "full", True, [21])])
def test_a_pass_has_the_batches_that_flux_has(rows, size, partial, expected):
    loader = DataLoader(np.arange(rows), batch_size=size, partial=partial)
    assert sizes(loader) == expected and len(loader) == len(expected)


def test_rows_come_in_order_and_stay_together():
    x, y = np.arange(10).reshape(5, 2), np.arange(5)
    batches = list(DataLoader((x, y), batch_size=2))
    assert [b[0].tolist() for b in batches] == [[[0, 1], [2, 3]], [[4, 5], [6, 7]], [[8, 9]]]
    assert [b[1].tolist() for b in batches] == [[0, 1], [2, 3], [4]]


def test_each_pass_is_shuffled_anew_as_a_job_would():
    loader = DataLoader(np.arange(40), batch_size=7, shuffle=True, seed=3)
    first, second = np.concatenate(list(loader)), np.concatenate(list(loader))
    assert np.array_equal(first, permutation(40, 3, 0)) and np.array_equal(second, permutation(40, 3, 1))
    loader.epoch = 0
    assert np.array_equal(np.concatenate(list(loader)), first)


def test_with_replacement_as_many_rows_are_drawn_as_there_are():
    loader = DataLoader(np.arange(40), batch_size=16, replacement=True, seed=2)
    assert np.array_equal(np.concatenate(list(loader)), draws(40, 40, 2, 0)) and sizes(loader) == [16, 16, 8]


def test_dicts_give_dicts():
    batch = next(iter(DataLoader({"x": np.ones((4, 2)), "y": [1, 2, 3, 4]}, batch_size=3)))
    assert batch["x"].shape == (3, 2) and batch["y"].tolist() == [1, 2, 3]


def test_what_cannot_be_loaded_is_said():
    with pytest.raises(ShapeError, match="0: 3, 1: 4"):
        DataLoader((np.ones(3), np.ones(4)))
    with pytest.raises(ShapeError):
        DataLoader(3.0)
    for size in (0, True, 2.0, "ful"):
        with pytest.raises(ValueError, match="batch_size"):
            DataLoader(np.ones(3), batch_size=size)  # type: ignore[arg-type]
    assert sizes(DataLoader(np.ones(3), batch_size=int(np.int64(2)))) == sizes(DataLoader(np.ones(3), batch_size=np.int64(2)))  # type: ignore[arg-type]
    with pytest.warns(UserWarning, match="3 rows"):
        assert sizes(DataLoader(np.ones(3), batch_size=8, partial=False)) == [3]


@pytest.mark.parametrize("rows, at, expected", [
    (10, (0.5, 0.3), [5, 3, 2]), (150, (0.2, 0.3), [30, 45, 75]), (150, (0.1, 0.2, 0.3), [15, 30, 45, 60]), (15, (0.2, 0.3), [3, 4, 8]),
    (15, (0.11, 0.2, 0.3), [2, 3, 4, 6]), (15, (2, 3, 4), [2, 3, 4, 6]), (10, 0.8, [8, 2])])
def test_splits_have_the_sizes_of_mlutils(rows, at, expected):
    parts = data.split(np.arange(rows), at)
    assert [len(part) for part in parts] == expected and np.array_equal(np.concatenate(parts), np.arange(rows))
    mixed = data.split(np.arange(rows), at, shuffle=True, seed=1)
    assert [len(part) for part in mixed] == expected and not np.array_equal(np.concatenate(mixed), np.arange(rows))


def test_a_stratified_split_keeps_the_shares_of_labels():
    labels = np.array([0] * 4 + [1] * 6)
    assert data.stratified(labels, labels, 0.5)[0].tolist() == [0, 0, 1, 1, 1]
    assert data.stratified(labels, labels, 0.25)[0].tolist() == [0, 1, 1]
    first, rest = data.stratified((np.arange(10), labels), labels, 0.5, shuffle=True, seed=4)
    assert sorted(first[1]) == [0, 0, 1, 1, 1] and sorted([*first[0], *rest[0]]) == list(range(10))


def test_parts_that_do_not_fit_are_refused():
    with pytest.raises(ShapeError):
        data.split(np.arange(5), (4, 4))
    with pytest.raises(ValueError, match="share"):
        data.split(np.arange(5), 1.5)


def test_in_folds_each_row_validates_once():
    folds = data.kfolds(np.arange(10), 3)
    assert [len(v) for _, v in folds] == [4, 3, 3]
    assert sorted(np.concatenate([v for _, v in folds])) == list(range(10)) and all(sorted([*t, *v]) == list(range(10)) for t, v in folds)
    with pytest.raises(ValueError, match="between 2"):
        data.kfolds(np.arange(3), 4)


def test_resampling_balances_labels():
    x, y = np.arange(12), np.array(["a"] * 9 + ["b"] * 3)
    _, few = data.undersample(x, y)
    rows, many = data.oversample(x, y, seed=1)
    assert sorted(few) == ["a"] * 3 + ["b"] * 3 and sorted(many) == ["a"] * 9 + ["b"] * 9
    assert np.array_equal(y[rows], many)
    assert (data.oversample(x, y, fraction=0.5)[1] == "b").sum() == 5


def test_one_hot_and_back():
    codes = data.one_hot(list("abra"), "abcde", default="e")
    assert codes.argmax(-1).tolist() == [0, 1, 4, 0] and data.one_cold(codes, "abcde").tolist() == ["a", "b", "e", "a"]
    assert data.one_hot([[0, 2]], 3).tolist() == [[[1, 0, 0], [0, 0, 1]]]
    with pytest.raises(TrainyardError, match="'r'"):
        data.one_hot(list("abra"), "ab")
    with pytest.raises(TrainyardError, match="NaN"):
        data.one_cold([np.nan, 1.0])


def test_normalised_columns_have_mean_nought_and_deviation_one():
    x = data.normalise(np.random.default_rng(0).normal(3, 5, (200, 4)))
    assert np.allclose(x.mean(0), 0) and np.allclose(x.std(0), 1, atol=1e-4)


@pytest.mark.parametrize("make", [data.make_moons, data.make_spiral])
def test_small_datasets_have_two_balanced_classes(make):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x, y = make(101, seed=3)
    assert x.shape == (101, 2) and x.dtype == np.float32 and y.dtype == np.int32 and y.sum() == 51
    assert np.array_equal(make(101, seed=3)[0], x) and not np.array_equal(make(101, seed=4)[0], x)


def test_the_sine_is_a_sine():
    x, y = data.make_sin(50, noise=0.0)
    assert np.allclose(y, np.sin(x), atol=1e-6)
