"""Numbers that are not finite: which steps the compiled loop may skip by itself, and where a rollback goes."""

from __future__ import annotations

import numpy as np

from engine.devices.session import Session
from engine.plan import control
from engine.train.callbacks import SkipWhen
from engine.train.callbacks.actions import Action
from engine.train.ready.build import Built
from engine.train.run.checkpoint import unpack
from engine.train.run.events import Event
from engine.train.run.trouble import Trouble


class Guard:
    """`back` is where a rollback goes, where the job asks for them: the step at which the epoch began, and a checkpoint of that moment. `trouble` is
    the last number that was not finite.
    """

    def __init__(self, built: Built):
        self.runner = built.nonfinite.start(built.scores)
        self.rolls, self.skips = (built.nonfinite.action == action for action in ("rollback", "skip"))
        self.above = min((callback.above for callback in built.callbacks if isinstance(callback, SkipWhen)), default=np.inf)
        self.back: tuple[int, bytes] | None = None
        self.trouble: Trouble | None = None

    def arm(self, session: Session) -> None:
        """Tell the compiled loop which steps to skip, before each call of it."""
        session.whole[control.POLICY // 8] = control.POLICY_SKIP if self.skips and self.runner.steps_allowed(0) else control.POLICY_STOP
        session.number[(control.SKIP_ABOVE - 64) // 8] = self.above

    def found(self, epoch: int, step: int, value: float) -> Action | None:
        """What becomes of a step whose loss or gradient is not finite."""
        self.trouble = Trouble(epoch, step, value, "stop", None)
        return self.runner.nonfinite(step)

    def told(self, action: str, layer: str | None = None) -> Event:
        """The event of what was found."""
        assert self.trouble is not None
        self.trouble = Trouble(self.trouble.epoch, self.trouble.step, self.trouble.value, action, layer)
        times = self.runner.state()["times"]
        return self.trouble.event(times if self.rolls else 0)

    def keep(self, step: int, checkpoint: bytes, session: Session) -> None:
        """An epoch begins: come back to this, unless the harm is done already."""
        if all(np.isfinite(array).all() for array in session.parameters.values()):
            self.back = step, checkpoint

    def arrays(self, step: int) -> dict[str, np.ndarray]:
        """What a checkpoint of this step needs beside what it says itself."""
        return {"back": np.frombuffer(self.back[1], np.uint8)} if self.back is not None and self.back[0] != step else {}

    def resume(self, checkpoint: bytes) -> None:
        """Come back to where the run that wrote this checkpoint would have."""
        inside = unpack(checkpoint).arrays.get("back")
        back = checkpoint if inside is None else inside.tobytes()
        self.back = (unpack(back).meta["step"], back) if self.rolls else None
