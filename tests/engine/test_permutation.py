"""Orders and draws that are functions of counters."""

from collections import Counter

import numba
import numpy as np
import pytest

from engine.data import permutation as keyed
from engine.data.permutation import draws, permutation


@pytest.fixture(scope="module")
def compiled():
    """The scalar functions as a kernel has them: compiled, calling each other."""
    scope = {name: getattr(numba, name) for name in ("uint64", "float64")}
    for name in ("mixed", "drawing_key", "scrambled", "network", "domain", "shuffled_row", "drawn_row"):
        function = getattr(keyed, name)
        copy = type(function)(function.__code__, scope, name)
        scope[name] = numba.njit(error_model="numpy")(copy)
    return scope


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 63, 64, 65, 100, 1797, 70_000])
def test_every_row_comes_once(rows):
    assert np.array_equal(np.sort(permutation(rows, seed=3, epoch=5)), np.arange(rows))


def test_no_rows_have_an_order_too():
    assert permutation(0, 1, 0).tolist() == [] and draws(0, 5, 1, 0).tolist() == []


@pytest.mark.parametrize("rows, seed, epoch", [(1, 0, 0), (5, 1, 0), (100, 2**40, 7), (1797, -1, 3), (70_000, 12, 999)])
def test_a_kernel_takes_the_same_rows_as_numpy(compiled, rows, seed, epoch):
    places = [np.uint64(i) for i in range(min(rows, 200))]
    words = np.uint64(rows), np.uint64(seed % 2**64), np.uint64(epoch)
    assert [compiled["shuffled_row"](i, *words) for i in places] == permutation(rows, seed, epoch)[:200].tolist()
    assert [compiled["drawn_row"](i, *words) for i in places] == draws(rows, rows, seed, epoch)[:200].tolist()


def test_orders_are_a_function_of_seed_and_epoch():
    assert np.array_equal(permutation(50, 1, 2), permutation(50, 1, 2))
    assert not np.array_equal(permutation(50, 1, 2), permutation(50, 1, 3))
    assert not np.array_equal(permutation(50, 1, 2), permutation(50, 2, 2))


def test_all_orders_of_four_rows_are_equally_frequent():
    seen = Counter(tuple(permutation(4, seed, epoch)) for seed in range(12) for epoch in range(100))
    chi = sum((seen[order] - 50) ** 2 / 50 for order in seen)
    assert len(seen) == 24 and chi < 49.7   # 1 in 1000 for 23 degrees of freedom


def test_a_row_comes_everywhere_and_neighbours_are_parted():
    orders = np.array([permutation(20, 9, epoch) for epoch in range(1000)])
    places = np.stack([np.bincount(orders[:, i], minlength=20) for i in range(20)])
    steps = np.bincount((np.diff(orders, axis=1) % 20).ravel(), minlength=20)[1:]
    assert ((places - 50) ** 2 / 50).sum() < 450        # 361 degrees of freedom
    assert ((steps - 1000) ** 2 / 1000).sum() < 45        # 18


def test_draws_with_replacement_are_uniform():
    counts = np.bincount(draws(60_000, 20, 4, 1), minlength=20)
    assert ((counts - 3000) ** 2 / 3000).sum() < 45       # 19 degrees of freedom
    assert len(set(draws(100, 100, 4, 0))) < 80
