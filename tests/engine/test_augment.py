"""Augmentation: each change does what it says, to training rows alone, the same after an interruption and with any number of threads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engine.data.augment import Crop, Flip, Noise, Shift
from engine.data.encode import gather
from engine.data.table import Table
from engine.errors import SpecError
from engine.kernels.library import call
from engine.ops.random import bits
from engine.plan import control
from engine.train import Job, check, start

RNG = np.random.default_rng(0)
ROWS, SHAPE, SEED, STEP, PLACE = 9, (6, 5, 2), 11, 3, 77
TABLE = Table.from_columns({"image": RNG.integers(0, 255, (90, 6, 5), dtype=np.uint8), "label": np.arange(90) % 3, "size": RNG.random(90)})


def changed(change: Any, x: np.ndarray) -> np.ndarray:
    """The rows after one change, by its kernel, at a step of a run."""
    arena = np.zeros(control.NBYTES + 2 * x.nbytes, np.uint8)
    arena[:control.NBYTES] = control.fresh(SEED)
    arena[:64].view(np.int64)[control.STEP // 8] = STEP
    arena[control.NBYTES:control.NBYTES + x.nbytes].view(x.dtype)[:] = x.ravel()
    launch = change.launch(control.NBYTES + x.nbytes, control.NBYTES, PLACE, len(x), x.shape[1:], x.dtype.name)
    words = [int(np.float64(w).view(np.int64)) if isinstance(w, float) else w for w in launch.words]
    call(launch.kernel, launch.dtype, words, launch.size, arena.ctypes.data)
    return arena[control.NBYTES + x.nbytes:].view(x.dtype).reshape(x.shape)


def numbers() -> np.ndarray:
    """The random numbers of each row."""
    return np.array([bits(np.array([SEED, STEP]), (4 * ROWS,), PLACE, 3)[r] for r in range(ROWS)]).astype(np.int64)


def images() -> np.ndarray:
    return RNG.standard_normal((ROWS, *SHAPE)).astype(np.float32)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_flip_turns_some_rows_round(axis: int) -> None:
    x, turned = images(), numbers()[:, 0] % 2 == 1
    expected = np.where(turned[:, None, None, None], np.flip(x, axis + 1), x)
    np.testing.assert_array_equal(changed(Flip(axis), x), expected)
    assert 0 < turned.sum() < ROWS


def test_a_shift_moves_rows_and_fills_with_nought() -> None:
    x, moves = images(), numbers()[:, :2] % 5 - 2
    padded = np.pad(x, [(0, 0), (2, 2), (2, 2), (0, 0)])
    expected = np.stack([padded[r, 2 - down:8 - down, 2 - right:7 - right] for r, (down, right) in enumerate(moves)])
    np.testing.assert_array_equal(changed(Shift(2), x), expected)


def test_a_crop_enlarges_a_part() -> None:
    x, (high, wide) = images(), (4, 3)
    v, u = (np.clip((np.arange(n) + 0.5) * k / n - 0.5, 0, k - 1) for n, k in zip(SHAPE, (high, wide), strict=False))
    expected = []
    for r, (a, b, *_) in enumerate(numbers()):
        part = x[r, a % 3:a % 3 + high, b % 3:b % 3 + wide]
        rows = np.apply_along_axis(lambda line: np.interp(v, np.arange(high), line), 0, part)
        expected.append(np.apply_along_axis(lambda line: np.interp(u, np.arange(wide), line), 1, rows))
    np.testing.assert_allclose(changed(Crop([high, wide]), x), expected, atol=1e-5)


def test_noise_is_normal() -> None:
    x = np.ones((200, 51), np.float32)
    added = changed(Noise(0.5), x) - 1
    assert abs(added.mean()) < 0.02 and abs(added.std() - 0.5) < 0.01 and len(np.unique(added)) > 10_000


def job(augment: list[Any], **data: Any) -> Job:
    found = {"dataset": "d", "inputs": ["image"], "target": "label", "augment": augment, "batch_size": 16, "validation": 0.2, **data}
    return Job.model_validate({"model": {"kind": "chain", "layers": ["flatten", {"kind": "dense", "units": 3}]}, "loss": "logit_cross_entropy",
                               "optimiser": "adam", "data": found, "epochs": 3})


ALL = ["flip", {"kind": "shift", "pixels": 1}, {"kind": "crop", "size": 4}, {"kind": "noise", "std": 0.1}]


def test_augmented_training_resumes_to_the_same_bytes_and_with_two_threads() -> None:
    def last(threads: int = 1, checkpoint: bytes | None = None) -> bytes:
        events = list(start(job(ALL), {"d": TABLE}, threads=threads, checkpoint=checkpoint).events())
        return [e.payload for e in events if e.payload is not None][-1]

    whole = last()
    assert last(threads=2) == whole != last_without()
    run = start(job(ALL), {"d": TABLE})
    for event in run.events():
        if event.type == "epoch":
            run.stop_word[0] = 1
    assert last(checkpoint=run.checkpoint()) == whole


def last_without() -> bytes:
    return [e.payload for e in start(job([]), {"d": TABLE}).events() if e.payload is not None][-1]


def test_validation_rows_stay_as_they_are() -> None:
    run = start(job(ALL), {"d": TABLE})
    list(run.events())
    part, phase = run.built.parts["valid"], run.session.program.phases["valid"]
    expected = gather(part.feeds, part.rows, run.built.setup.network.leaves)["x"]
    np.testing.assert_allclose(phase.batches[0]["x"].view(run.session.arena), expected, rtol=1e-6)


@pytest.mark.parametrize("augment, inputs, pointer, code", [
    (["flip"], ["size"], "/data/augment/0", "no_images"),
    (["flip", {"kind": "flip", "axis": 2}], ["image"], "/data/augment/1", "shape_mismatch"),
    ([{"kind": "crop", "size": 6}], ["image"], "/data/augment/0", "shape_mismatch"),
])
def test_changes_that_do_not_fit_are_refused(augment: list[Any], inputs: list[str], pointer: str, code: str) -> None:
    with pytest.raises(SpecError) as error:
        check(job(augment, inputs=inputs), {"d": TABLE})
    assert (pointer, code) in [(p.pointer, p.code) for p in error.value.problems]
