"""How an attempt ended badly, as a client reads it: code, kind, a sentence, and what to try. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from engine.errors import CheckpointError, DeviceError, NonFiniteError, ShapeError, SpecError
from service.artifacts import Corrupt
from service.datasets import DatasetError
from service.errors import ServiceError, StorageFull

Kind = Literal["user", "resource", "system", "timeout"]


@dataclass(frozen=True)
class Failure:
    """The `error` of a job with its `hint`. `more` has what only some have: pointer, layer."""

    kind: Kind
    code: str
    message: str
    hint: str | None = None
    more: Mapping[str, Any] | None = None

    @property
    def retried(self) -> bool:
        """Whether another attempt may do better, though nobody changes anything."""
        return self.kind == "system" and self.code != "checkpoint_corrupt"

    def as_dict(self, epoch: int, step: int) -> dict[str, Any]:
        return {"kind": self.kind, "code": self.code, "message": self.message, **(self.more or {}), "epoch": epoch, "step": step,
                "retryable": self.kind != "user"}


def of(error: BaseException) -> Failure:
    """What an exception that ended a job means to its owner."""
    if isinstance(error, MemoryError):
        return Failure("resource", "out_of_memory", f"There was not enough memory{_said(error)}.", "Try a smaller batch_size or a smaller model.")
    if isinstance(error, StorageFull):
        return Failure("resource", "storage_full", "The disk is full: a checkpoint or the job's events could not be written.",
                       "Free some space, then fork the job from its last checkpoint or send it again.")
    if isinstance(error, Corrupt | CheckpointError):
        return Failure("system", "checkpoint_corrupt", f"No checkpoint can be read{_said(error)}.",
                       "Send the job again: equal jobs give equal numbers.")
    if isinstance(error, DatasetError) or (isinstance(error, ServiceError) and error.status == 404):
        return Failure("user", "dataset_missing", f"The data of the job cannot be opened{_said(error)}.",
                       "Upload the dataset again, then send the job again.")
    if isinstance(error, SpecError):
        first = error.problems[0]
        return Failure("user", first.code, f"The job cannot be run as written: {first.detail}.", first.suggestion, {"pointer": first.pointer})
    if isinstance(error, ShapeError):
        return Failure("user", "shape_mismatch", f"Shapes do not fit{_said(error)}.", more={"layer": error.path} if error.path else None)
    if isinstance(error, NonFiniteError):
        return Failure("user", "nonfinite_loss", f"The loss is not finite{_said(error)}.", "Try a smaller learning_rate or clip_global_norm.")
    if isinstance(error, DeviceError):
        return Failure("system", "device_lost", f"The device failed{_said(error)}.", "Send the job again, or use device cpu.")
    return Failure("system", "internal", f"Something went wrong on our side: {type(error).__name__}{_said(error)}.",
                   "Send the job again; if it fails in the same way, please report it with this message.")


def _said(error: BaseException) -> str:
    text = str(error).strip().rstrip(".")
    return f": {text}" if text else ""
