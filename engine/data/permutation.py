"""Which row comes at which place: functions of (seed, epoch, position) alone, so that any batch of any epoch can be made without the ones before.

A shuffle is a keyed permutation of [0, n): a Feistel network over the smallest power of two that holds n, walked until it lands below n
(Black and Rogaway, "Ciphers with arbitrary finite domains", 2002). A draw with replacement is a counter-based random integer. `shuffled_row` and
`drawn_row` are plain functions of uint64, for kernels; `permutation` and `draws` are the same numbers from numpy.
"""

from __future__ import annotations

import inspect
import textwrap

import numpy as np
from numpy import uint64

from engine.kernels.library import define

ROUNDS = 6


def mixed(x):
    """A bijection of uint64 in which every bit of `x` changes half the bits (Stafford's mix 13, as in splitmix64)."""
    x = (x ^ (x >> uint64(30))) * uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> uint64(27))) * uint64(0x94D049BB133111EB)
    return x ^ (x >> uint64(31))


def drawing_key(seed, epoch):
    """The key of one epoch."""
    return mixed(mixed(uint64(seed) + uint64(0x9E3779B97F4A7C15)) + uint64(epoch))


def network(x, key, low_bits, high_bits):
    """A bijection of [0, 2 ** (low_bits + high_bits)): six rounds, each of which scrambles one part of the bits by the other."""
    low_mask, high_mask = (uint64(1) << low_bits) - uint64(1), (uint64(1) << high_bits) - uint64(1)
    low, high = x & low_mask, x >> low_bits
    for _ in range(3):
        key = key * uint64(0xD1342543DE82EF95) + uint64(0x2545F4914F6CDD1D)
        low = low ^ (scrambled(high, key) & low_mask)
        key = key * uint64(0xD1342543DE82EF95) + uint64(0x2545F4914F6CDD1D)
        high = high ^ (scrambled(low, key) & high_mask)
    return (high << low_bits) | low


def scrambled(x, key):
    """Bits of a keyed hash."""
    x = (x + key) * uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> uint64(32))) * uint64(0xD6E8FEB86659FD93)
    return x >> uint64(32)


def shuffled_row(position, n, seed, epoch):
    """Where a keyed shuffle of [0, n) puts `position`."""
    bits = uint64(1)
    while (uint64(1) << bits) < n:
        bits += uint64(1)
    low_bits = bits >> uint64(1)
    high_bits = bits - low_bits
    key = drawing_key(seed, epoch)
    x = position
    while True:
        x = network(x, key, low_bits, high_bits)
        if x < n:
            return x


def drawn_row(position, n, seed, epoch):
    """A random integer of [0, n), the same at any time it is asked for."""
    x = mixed(drawing_key(seed, epoch) ^ mixed(position + uint64(0x632BE59BD9B4E019)))
    return ((x >> uint64(32)) * n) >> uint64(32)


def permutation(n: int, seed: int, epoch: int) -> np.ndarray:
    """The whole shuffle, int64 [n]: `permutation(n, seed, epoch)[i]` is `shuffled_row(i, n, seed, epoch)`."""
    if n == 0:
        return np.zeros(0, np.int64)
    bits = max(1, (n - 1).bit_length())
    low_bits = uint64(bits >> 1)
    with np.errstate(over="ignore"):
        key = drawing_key(uint64(seed & (2**64 - 1)), uint64(epoch))
        x = network(np.arange(n, dtype=np.uint64), key, low_bits, uint64(bits) - low_bits)
        outside = np.flatnonzero(x >= uint64(n))
        while len(outside):
            x[outside] = network(x[outside], key, low_bits, uint64(bits) - low_bits)
            outside = outside[x[outside] >= uint64(n)]
    return x.astype(np.int64)


def draws(count: int, n: int, seed: int, epoch: int) -> np.ndarray:
    """`count` random integers of [0, n), int64: `draws(...)[i]` is `drawn_row(i, n, seed, epoch)`."""
    with np.errstate(over="ignore"):
        key = drawing_key(uint64(seed & (2**64 - 1)), uint64(epoch))
        x = mixed(key ^ mixed(np.arange(count, dtype=np.uint64) + uint64(0x632BE59BD9B4E019)))
    return (((x >> uint64(32)) * uint64(n)) >> uint64(32)).astype(np.int64)
