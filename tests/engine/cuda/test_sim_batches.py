"""What fills a batch, and what decides about a step, in the simulator: the CPU's numbers."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

from engine.core import FLOATS, Address, bits
from engine.data import gather
from engine.data.augment import Crop, Flip, Noise, Shift
from engine.data.feed import Feed, Span
from engine.devices.cuda import gates
from engine.kernels import library
from engine.plan import control
from tests.engine.cuda.simulate import RAGGED, aligned, inside, launch

RNG = np.random.default_rng(5)


def both(name: str, dtype: str, arena: np.ndarray, words: Any, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The arena after a launch in the simulator, and after the CPU's kernel."""
    plain = np.array([bits(w) if isinstance(w, float) else w.array.ctypes.data if isinstance(w, Address) else w for w in words], np.int64)
    other = aligned(arena.nbytes)
    other[:] = arena
    library.call(name, dtype, plain, size, other.ctypes.data)
    launch(name, dtype, arena, plain, size)
    return arena, other


def started(nbytes: int = 8192) -> np.ndarray:
    """An arena with a control block in the middle of a run, and numbers behind it."""
    arena = aligned(nbytes)
    arena[:control.NBYTES] = control.fresh(11)
    arena[:64].view(np.int64)[1:4] = 6, 2, 1
    return arena


# ---------------------------------------------------------------- batches

NUMBERS = RNG.normal(size=(40, 3)).astype(np.float32)
HOLES = np.where(RNG.random((40, 3)) < 0.3, np.nan, NUMBERS)
CODES = RNG.integers(3, 9, (40, 2))
FEEDS = {
    "number": Feed("x", NUMBERS, width=3, shift=0.5, scale=2.0), "bytes": Feed("x", CODES.astype(np.uint8), width=2, shift=1.0, stride=5, offset=3),
    "whole numbers": Feed("x", CODES.astype(np.int64), width=2, scale=0.25), "filled": Feed("x", HOLES, width=3, fill=7.0),
    "by column": Feed("x", NUMBERS, width=3, shift=np.array([1.0, 2.0, 3.0]), scale=np.array([1.0, 0.5, 2.0])),
    "missing": Feed("x", CODES.astype(np.int32), width=2, fill=np.array([1.0, -1.0]), missing=4),
    "log": Feed("x", HOLES, "log", width=3, fill=0.5), "indicator": Feed("x", HOLES.astype(np.float32), "indicator", width=3),
    "code": Feed("x", CODES, "code", width=2, base=4, classes=4, unknown=0),
    "looked up": Feed("x", CODES.astype(np.uint8), "code", width=2, base=3, classes=3, lookup=np.array([2, 0, 1, 1], np.int32)),
    "one hot": Feed("x", CODES, "one_hot", width=2, base=3, classes=5), "one hot of holes": Feed("x", HOLES, "one_hot", width=3, classes=3),
}


@inside
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("name", "rows"), list(product(FEEDS, RAGGED)))
def test_a_batch_is_filled_with_the_numbers_of_the_cpu(name: str, rows: int, dtype: str) -> None:
    arena, feed = started(), FEEDS[name]
    arena[256: 256 + 8 * rows].view(np.int64)[:] = RNG.integers(0, 40, rows)
    one, = gather.launches(feed, 1024, 256, rows, 10 if feed.kind == "one_hot" else 3, dtype)
    found, expected = both(one.kernel, one.dtype, arena, one.words, one.size)
    np.testing.assert_allclose(found[1024:].view(dtype), expected[1024:].view(dtype), rtol=0 if feed.kind != "log" else 1e-6)


@inside
@pytest.mark.parametrize("mode", gather.MODES)
@pytest.mark.parametrize("index", [None, np.arange(100, 170)])
@pytest.mark.parametrize("dtype", FLOATS)
def test_the_rows_of_a_batch_are_those_of_the_cpu(mode: str, index: np.ndarray | None, dtype: str) -> None:
    for size in RAGGED:
        one = gather.sample(256, index, 70, mode, 33, size, 2)
        np.testing.assert_array_equal(*both(one.kernel, dtype, started(), one.words, one.size))


@inside
@pytest.mark.parametrize("order", [None, np.arange(60)[::-1].copy()])
def test_the_rows_of_windows_are_those_of_the_cpu(order: np.ndarray | None) -> None:
    arena = started()
    arena[256: 256 + 8 * 33].view(np.int64)[:] = np.arange(33) % 9 * 5
    for rows, steps in ((9, 7), *((n, 1) for n in RAGGED)):
        one = gather.spread(1024, 256, rows, Span(2, steps, order))
        np.testing.assert_array_equal(*both(one.kernel, one.dtype, arena, one.words, one.size))


@inside
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("change", [Flip(0), Flip(1), Shift(2), Crop([4, 3]), Noise(0.5)], ids=lambda change: change.kind)
def test_rows_are_changed_at_random_as_on_the_cpu(change: Any, dtype: str) -> None:
    x = RNG.normal(size=(9, 6, 5, 2)).astype(dtype)
    arena = started(1024 + 2 * 8192)
    arena[1024: 1024 + x.nbytes] = x.reshape(-1).view(np.uint8)
    one = change.launch(1024 + 8192, 1024, 77, len(x), x.shape[1:], dtype)
    found, expected = (a[1024 + 8192:].view(dtype) for a in both(one.kernel, one.dtype, arena, one.words, one.size))
    near = 0.0 if isinstance(change, Flip | Shift) else 3e-6
    np.testing.assert_allclose(found, expected, rtol=near, atol=near)


@inside
@pytest.mark.parametrize("rows", RAGGED)
@pytest.mark.parametrize("dtype", FLOATS)
def test_noise_is_added_to_as_many_numbers_as_there_are(rows: int, dtype: str) -> None:
    arena = started()
    arena[1024: 1024 + 8 * 64].view(dtype)[:rows] = RNG.normal(size=rows)
    one = Noise(0.5).launch(4096, 1024, 77, rows, (1,), dtype)
    assert one.size == rows
    found, expected = (a[4096:].view(dtype) for a in both(one.kernel, one.dtype, arena, one.words, one.size))
    np.testing.assert_allclose(found, expected, rtol=3e-6, atol=3e-6)


# ---------------------------------------------------------------- steps

@inside
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("size", "off"), [(0, 0), (1, 0), (31, 8), (33, 0), (4096, 0), (4099, 8), (9000, 0)])
def test_sums_of_squares_by_blocks(size: int, off: int, dtype: str) -> None:
    x = RNG.normal(size=size).astype(dtype)
    arena = aligned(1024 + x.nbytes)
    arena[512 + off: 512 + off + x.nbytes] = x.view(np.uint8)
    blocks = -(-size // control.BLOCK)
    launch("square_blocks", dtype, arena, np.array([0, 512 + off, size], np.int64), blocks)
    expected = [np.sum(np.square(x[k * 4096: k * 4096 + 4096].astype(np.float64))) for k in range(blocks)]
    np.testing.assert_allclose(arena[:8 * blocks].view(np.float64), expected, rtol=1e-6 if dtype == "float32" else 1e-14)


@inside
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("count", [*RAGGED, 200])
@pytest.mark.parametrize(("loss", "bad", "policy", "verdict"), [
    (1.5, 0.0, 0, control.UPDATE), (99.0, 0.0, 0, control.SKIP), (np.nan, 0.0, control.POLICY_SKIP, control.SKIP_NONFINITE),
    (1.5, np.inf, control.POLICY_STOP, control.STOP)])
def test_a_step_is_judged_as_on_the_cpu(count: int, loss: float, bad: float, policy: int, verdict: int, dtype: str) -> None:
    arena = started()
    arena[64:128].view(np.float64)[3] = 10.0
    arena[:64].view(np.int64)[control.POLICY // 8] = policy
    partial = arena[1024: 1024 + 8 * count].view(np.float64)
    partial[:] = RNG.random(count)
    partial[-1:] += bad
    arena[512:520].view(dtype)[:1] = loss
    found, expected = both("guard", dtype, arena, (1024, count, 512), 1)
    np.testing.assert_allclose(found[64:128].view(np.float64), expected[64:128].view(np.float64), rtol=1e-14)
    np.testing.assert_array_equal(found[:64], expected[:64])
    assert found[:64].view(np.int64)[control.VERDICT // 8] == (verdict if count or not bad else control.UPDATE)


@inside
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("limit", [0.5, 100.0])
def test_a_gradient_is_clipped_as_on_the_cpu(limit: float, dtype: str) -> None:
    arena = started()
    arena[1024: 1024 + 8 * 70].view(np.float64)[:] = RNG.random(70)
    arena[512:520].view(np.float64)[:] = limit
    arena[2048: 2048 + 8 * 34].view(dtype)[:] = 3.0
    found, expected = both("clip_factor", "float32", arena, (520, 1024, 70, 512), 1)
    np.testing.assert_allclose(found[520:528].view(np.float64), expected[520:528].view(np.float64), rtol=1e-14)
    assert (found[520:528].view(np.float64)[0] == 1.0) == (limit == 100.0)
    for at in (2048, 2048 + np.dtype(dtype).itemsize):
        for size in RAGGED:
            np.testing.assert_allclose(*(a[2048:].view(dtype) for a in both("scale_by", dtype, arena, (at, 520), size)), rtol=2e-7)


@inside
@pytest.mark.parametrize(("to", "fro"), [(1024, 4096), (1028, 4096), (1025, 4096), (1032, 4104)])
@pytest.mark.parametrize("width", [1, 3, 4, 40])
def test_bytes_are_copied_and_rows_kept_as_on_the_cpu(to: int, fro: int, width: int) -> None:
    arena = started()
    arena[4096:] = RNG.integers(0, 255, 4096)
    for size in RAGGED:
        np.testing.assert_array_equal(*both("copy_bytes", "float32", arena, (to, fro, width), size))
        np.testing.assert_array_equal(*both("keep_rows", "float32", arena, (to, fro, width, 33), size))


@inside
@pytest.mark.parametrize("done", [0, 2, 7])
def test_a_step_takes_its_batch_from_the_ring(done: int) -> None:
    arena, area, ring = started(), 512, 2048
    arena[area:][:64].view(np.int64)[gates.DONE // 8] = done
    arena[ring:] = RNG.integers(0, 255, len(arena) - ring)
    for size in RAGGED:
        np.testing.assert_array_equal(*both("take_batch", "float32", arena, (1024, ring, 576, 3, area), size))
    np.testing.assert_array_equal(arena[1024:][:528], arena[ring + 576 * (done % 3):][:528])


@inside
@pytest.mark.parametrize("dtype", FLOATS)
def test_the_rest_of_the_control_block_is_kept_as_on_the_cpu(dtype: str) -> None:
    arena = started()
    arena[1024: 1024 + 8 * 33].view(np.float64)[:] = RNG.random(33)
    arena[512:528].view(np.float64)[:] = 3.0, 2.0
    for name, words, size in (("add_up", (1024, 1536), 33), ("refresh_scalars", (0, 2, 600, 0, 700, 3), 1), ("open_gate", (800, 2, 512, 520), 1),
                              ("noise_key", (900, 600), 1), ("count_steps", (1000, 1008), 1), ("end_step", (512, 1800, 1), 1)):
        np.testing.assert_array_equal(*both(name, dtype, arena, words, size))
