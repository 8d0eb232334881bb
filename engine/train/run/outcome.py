"""What a run came to: the numbers of the model that it leaves, and whether they are good enough for a name."""

from __future__ import annotations

from engine.train.callbacks.stopping import EarlyStopping
from engine.train.lineage import Publish
from engine.train.run.loop import Run


def metrics_of(run: Run, which: str) -> dict[str, float]:
    """The metrics of the parameters that a run ends with ("last"), which may be restored ones; or of its best ones."""
    if which == "best" and run.best.epoch:
        return run.best.metrics
    if run.ending is not None and run.ending.reason == "early_stopping":
        for callback in run.built.callbacks:
            if isinstance(callback, EarlyStopping) and callback.restore_best:
                best = run.bests[run.built.scores.watched(callback.monitor)]
                if best.epoch is not None and best.epoch == run.ending.best_epoch:
                    return best.metrics
    return run.metrics


def refusal(run: Run, publish: Publish) -> str | None:
    """Why the model does not get its name; None where it does."""
    if publish.when is None:
        return None
    name = run.built.scores.full(publish.when.metric)
    value = metrics_of(run, publish.checkpoint).get(name, float("nan"))
    return None if publish.when.holds(value) else f"{name} is {value:.6g}, not {publish.when}"
