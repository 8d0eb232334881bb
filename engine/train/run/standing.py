"""Where a run stands: what the session counts."""

from __future__ import annotations

import time

from engine.devices.session import Session
from engine.plan import control


class Standing:
    """The counters of a run, over all attempts."""

    session: Session

    def __init__(self, elapsed_seconds: float):
        self.started, self.elapsed_before = time.monotonic(), elapsed_seconds
        self.epoch_seconds = 0.0      # of the epoch under way, in this attempt

    @property
    def step(self) -> int:
        """Steps finished."""
        return int(self.session.whole[control.STEP // 8])

    @property
    def epoch(self) -> int:
        """Epochs finished."""
        return int(self.session.whole[control.EPOCH // 8])

    @property
    def position(self) -> int:
        """Batches finished of the epoch under way."""
        return int(self.session.whole[control.POSITION // 8])

    @property
    def progress(self) -> tuple[int, int]:
        """What changes whenever a batch is finished, also one in test mode."""
        return self.step, self.position

    @property
    def elapsed(self) -> float:
        """Seconds of training."""
        return self.elapsed_before + time.monotonic() - self.started

    @property
    def gradient_norm(self) -> float:
        """The mean of the epoch so far."""
        count = self.session.number[(control.NORM_COUNT - 64) // 8]
        return float(self.session.number[(control.NORM_SUM - 64) // 8] / count) if count else float("nan")

    def end_epoch(self, steps: int) -> None:
        """The epoch of so many steps ends before its time."""
        self.session.whole[control.POSITION // 8] = steps

    def next_epoch(self) -> None:
        """The epoch is over; what it has added up goes."""
        whole, numbers = self.session.whole, self.session.number
        whole[control.EPOCH // 8] += 1
        whole[control.POSITION // 8] = 0
        numbers[(control.NORM_SUM - 64) // 8] = numbers[(control.NORM_COUNT - 64) // 8] = 0.0
        self.session.clear_sums("train")
        self.epoch_seconds = 0.0
