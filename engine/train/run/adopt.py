"""Going on from the checkpoint of another job: what it holds is put where a checkpoint of this run's own would hold it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from engine.plan import control
from engine.train.run.checkpoint import Checkpoint, pack, unpack
from engine.train.run.loop import Run

STATE = ("control", "parameters", "trained", "buffers", "state", "shelf")


@dataclass(frozen=True)
class Carried:
    """What of the other job's memory stays good. `callbacks` has the place that each callback had there, or None for one that begins anew.

    `comparable`: data and loss are the same, so that the best values so far are; `monitor`: also what decides `best`; `nonfinite`: also what happens
    to numbers that are not finite.
    """

    callbacks: tuple[int | None, ...] = ()
    comparable: bool = True
    monitor: bool = True
    nonfinite: bool = True

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def adopt(run: Run, data: bytes, carried: Carried) -> None:
    """Let a run that has not begun go on from there. Raises CheckpointError where the arrays do not fit."""
    other = unpack(data)
    adopted = translated(run, other, carried)
    if run.guard.rolls and "back" in other.arrays:      # within an epoch, whose beginning is that of the other job
        back = translated(run, unpack(other.arrays["back"].tobytes()), carried)
        run.guard.back = back.meta["step"], pack(back.arrays, back.meta)
    run.restore(adopted)


def translated(run: Run, other: Checkpoint, carried: Carried) -> Checkpoint:
    """The other job's checkpoint as this run would have written it."""
    own, meta = unpack(run.checkpoint()), other.meta
    arrays = {name: array for name, array in other.arrays.items() if name.partition("/")[0] in STATE}
    whole = arrays["control"].copy()
    whole[:8] = own.arrays["control"][:8]       # the seed
    within = whole[control.POSITION: control.POSITION + 8].any()
    arrays |= {name: array for name, array in (other if within else own).arrays.items() if name.startswith("sums/")}
    labels = [best.label for best in run.bests.values()
              if carried.comparable and best.label in meta and (best.label != "best" or carried.monitor)]
    arrays |= {name: array for name, array in other.arrays.items() if name.partition("/")[0] in {*labels, *(f"{label}_buffers" for label in labels)}}
    states = [state if place is None else meta["runners"][place] for state, place in zip(own.meta["runners"], carried.callbacks, strict=True)]
    kept: Mapping[str, Any] = {name: meta[name] for name in ("epoch", "step", "metrics", *labels)}
    regime = {name: value for name, value in meta["regime"].items() if name != "epochs"}
    nonfinite = meta["nonfinite"] if carried.nonfinite else own.meta["nonfinite"]
    return Checkpoint({**arrays, "control": whole}, {**own.meta, **kept, "regime": regime, "runners": states, "nonfinite": nonfinite})
