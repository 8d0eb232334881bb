"""Random bits as a function of a counter: Philox-4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3")."""

from __future__ import annotations

from engine.kernels.vecmath import inline

LOW = 0xFFFFFFFF
MULTIPLY_0, MULTIPLY_1 = 0xD2511F53, 0xCD9E8D57
WEYL_0, WEYL_1 = 0x9E3779B9, 0xBB67AE85


@inline
def philox(block, place, step, purpose, seed):
    """Four numbers of 32 random bits, as int64, for one block of four elements."""
    a, b, c, d = block & LOW, place & LOW, step & LOW, (purpose + ((block >> 32) << 8)) & LOW
    k0, k1 = seed & LOW, (seed >> 32) & LOW
    for _ in range(10):     # only the low halves count: what the high ones hold meanwhile costs nothing
        p, q = (a & LOW) * MULTIPLY_0, (c & LOW) * MULTIPLY_1
        a, b, c, d = (q >> 32) ^ b ^ k0, q, (p >> 32) ^ d ^ k1, p
        k0, k1 = k0 + WEYL_0, k1 + WEYL_1
    return a & LOW, b & LOW, c & LOW, d & LOW
