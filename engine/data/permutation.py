"""Which row comes at which place: functions of (seed, epoch, position) alone, so that any batch of any epoch can be made without the ones before.

A shuffle is a keyed permutation of [0, rows): a Feistel network over the smallest power of two that holds them, walked until it lands below `rows`
(Black and Rogaway, "Ciphers with arbitrary finite domains", 2002). A draw with replacement is a random integer made from a counter.
`shuffled_row` and `drawn_row` are plain functions of uint64, which kernels include; `permutation` and `draws` give the same numbers by numpy.
"""

# pyright: reportUndefinedVariable=false
from __future__ import annotations

import numpy as np
from numpy import float64, uint64


def mixed(x):
    """A bijection of uint64 in which each bit of `x` changes half of the bits (Stafford's variant 13, as in splitmix64)."""
    x = (x ^ (x >> uint64(30))) * uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> uint64(27))) * uint64(0x94D049BB133111EB)
    return x ^ (x >> uint64(31))


def drawing_key(seed, epoch):
    """The key of one epoch."""
    return mixed(mixed(seed + uint64(0x9E3779B97F4A7C15)) + epoch)


def scrambled(x, key):
    """A keyed multiply-shift hash (Dietzfelbinger), its good half below."""
    x = (x + (key >> uint64(32))) * (key | uint64(1))
    return (x >> uint64(32)) | (x << uint64(32))


def network(x, key, mask):
    """A bijection of [0, mask], mask + 1 a power of two: eight rounds, in each of which half of the bits scramble the other half.

    Tested: with six rounds the orders of few rows are not equally frequent; with eight they are, as far as 200,000 orders can tell.
    """
    even, odd = mask & uint64(0x5555555555555555), mask & uint64(0xAAAAAAAAAAAAAAAA)
    for _ in range(4):
        key = key * uint64(0xD1342543DE82EF95) + uint64(0x2545F4914F6CDD1D)
        x = x ^ (scrambled(x & odd, key) & even)
        key = key * uint64(0xD1342543DE82EF95) + uint64(0x2545F4914F6CDD1D)
        x = x ^ (scrambled(x & even, key) & odd)
    return x


def domain(rows):
    """The smallest 2**k - 1 that is no less than `rows - 1`; at least 63, below which the network mixes badly."""
    mask = (rows - uint64(1)) | uint64(63)
    mask = mask | (mask >> uint64(1))
    mask = mask | (mask >> uint64(2))
    mask = mask | (mask >> uint64(4))
    mask = mask | (mask >> uint64(8))
    mask = mask | (mask >> uint64(16))
    return mask | (mask >> uint64(32))


def shuffled_row(position, rows, seed, epoch):
    """The row at `position` (below `rows`) of the epoch's order. All are uint64."""
    key, mask = drawing_key(seed, epoch), domain(rows)
    row = network(position, key, mask)
    while row >= rows:
        row = network(row, key, mask)
    return row


def drawn_row(position, rows, seed, epoch):
    """The row drawn with replacement at `position`. All are uint64; `rows` below 2**40, where the bias is below 1e-4 of a row's share."""
    number = mixed(drawing_key(seed, ~epoch) + position * uint64(0x9E3779B97F4A7C15))
    return uint64(float64(number >> uint64(11)) * 1.1102230246251565e-16 * float64(rows))


def permutation(rows: int, seed: int, epoch: int) -> np.ndarray:
    """int64 [rows]: the order of an epoch (counted from 0), the same that a job with this seed takes."""
    with np.errstate(over="ignore"):
        key, mask = drawing_key(_word(seed), _word(epoch)), domain(uint64(max(rows, 1)))
        order = network(np.arange(rows, dtype=uint64), key, mask)
        while (outside := order >= uint64(rows)).any():
            order[outside] = network(order[outside], key, mask)
    return order.astype(np.int64)


def draws(count: int, rows: int, seed: int, epoch: int) -> np.ndarray:
    """int64 [count]: rows drawn with replacement from [0, rows)."""
    with np.errstate(over="ignore"):
        positions = np.arange(count, dtype=uint64)
        number = mixed(drawing_key(_word(seed), ~_word(epoch)) + positions * uint64(0x9E3779B97F4A7C15))
    return ((number >> uint64(11)).astype(np.float64) * 2.0**-53 * rows).astype(np.int64)


def _word(value: int) -> uint64:
    return uint64(value % 2**64)
