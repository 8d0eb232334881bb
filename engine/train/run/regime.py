"""What may change while a run goes on: the optimiser's numbers, what is trained, how many epochs there are.

A change of numbers goes into the session's table. A change of what is trained needs other plans: the program is made anew, and the session takes over
everything of the old one. What the optimiser remembers of an array that is trained no longer is kept on a shelf.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from engine.devices.session import Session
from engine.errors import Problem, SpecError
from engine.optim.chain import Chain
from engine.optim.rules import Descent, Rule
from engine.optim.step import OptimiserStep
from engine.plan import control
from engine.train.callbacks.actions import Change
from engine.train.callbacks.changes import chosen, hyper_parameters, slowed, tuned
from engine.train.callbacks.changing import initialiser
from engine.train.ready.assemble import assemble
from engine.train.ready.build import Built
from engine.train.ready.planned import program_of
from engine.train.run.checkpoint import Checkpoint

Changed = dict[str, dict[str, Any]]
"""Old and new values by name: {"learning_rate": {"from": 0.1, "to": 0.01}}."""


@dataclass
class Memory:
    """What the optimiser remembers of one array: the updates that it was part of, and its state by name."""

    updates: int
    state: dict[str, np.ndarray]


class Regime:
    """`built` and `session` are those of the moment."""

    def __init__(self, built: Built, session: Session):
        self.own = self.built = built
        self.session = session
        self.epochs = built.job.epochs
        self.shelf: dict[str, Memory] = {}
        self._use(built.steps)

    def apply(self, change: Change, step: int, begun: int = 0) -> Changed:
        """Make a change after `step` steps, with so many epochs `begun`, which are the fewest that there can be. Returns what has changed.

        Raises SpecError where nothing would be left to be trained.
        """
        trained, paths = self._trained(change), list(self.built.parameters)
        before, now = set(self.built.trained), set(trained)
        changed = self._tune(change) | self._set_epochs(change.epochs and max(change.epochs, begun))
        changed |= {path: {"from": "trained", "to": "frozen"} for path in paths if path in before - now}
        changed |= {path: {"from": "frozen", "to": "trained"} for path in paths if path in now - before}
        renewed = {path: self._renew(path, change.init, step) for path in paths if chosen(path, change.replace)}
        if now != before or renewed:
            self._rebuild(trained, renewed)
        return changed | renewed

    def _set_epochs(self, epochs: int | None) -> Changed:
        before, self.epochs = self.epochs, epochs or self.epochs
        return {} if before == self.epochs else {"epochs": {"from": before, "to": self.epochs}}

    # ---------------------------------------------------------------- the optimiser's numbers

    def _tune(self, change: Change) -> Changed:
        before = hyper_parameters(self.chain)
        self._use(slowed(tuned(self.chain, change.values), change.factor, change.floor))
        return {name: {"from": before[name], "to": value} for name, value in hyper_parameters(self.chain).items() if value != before[name]}

    def _use(self, chain: tuple[OptimiserStep, ...]) -> None:
        """Let the chain have these numbers. `rule` is the one whose learning rate is shown."""
        self.chain = chain
        self.rule = next((step for step in reversed(chain) if isinstance(step, Rule)), Descent(1.0))
        self.session.tune(chain)

    # ---------------------------------------------------------------- what is trained

    def _trained(self, change: Change) -> list[str]:
        """The paths that are trained after a change, in tree order."""
        if not change.freeze and not change.thaw:
            return self.built.trained
        before = set(self.built.trained)
        wanted = [path for path in self.built.parameters if (path in before or chosen(path, change.thaw)) and not chosen(path, change.freeze)]
        graph = replace(self.built.setup.maker, trainable=frozenset(wanted))(self.built.batch_size, True)
        found = [path for path in wanted if path in graph.gradients]
        if not found:
            raise SpecError([Problem("/freeze", "nothing_trained", "nothing would be left to be trained")])
        return found

    def _rebuild(self, trained: list[str], renewed: Collection[str] = ()) -> None:
        """A program that trains these paths, and a session that has taken over everything but the memory of the renewed ones."""
        old, updates = self.session, int(self.session.whole[control.UPDATES // 8])
        known = {path: memory for path, memory in {**self.shelf, **self._memories(updates)}.items() if path not in renewed}
        missed = {path: updates - (known[path].updates if path in known else 0) for path in trained}
        self._build(trained, missed)
        self.session.control[:] = old.control
        for name, sums in self.session.sums("train").items():
            sums[...] = old.sums("train")[name]
        for path in set(trained) & set(known):
            for name, array in self.session.remembered(path).items():
                array[...] = known[path].state[name]
        self.shelf = {path: memory for path, memory in known.items() if path not in trained}

    def _build(self, trained: list[str], missed: Mapping[str, int]) -> None:
        """The program and the session for these paths, with the parameters of now and a fresh memory."""
        old = self.session
        maker = replace(self.built.setup.maker, trainable=frozenset(trained))
        parameters, buffers = ({path: array.copy() for path, array in arrays.items()} for arrays in (old.parameters, old.buffers))
        self.built = replace(self.built, make_graph=maker, trained=trained, missed={path: late for path, late in missed.items() if late},
                             parameters=parameters, buffers=buffers)
        self.session = assemble(self.built, program_of(self.built), old.crew.threads)
        self.session.crew = old.crew
        self._use(self.chain)

    def _memories(self, updates: int) -> dict[str, Memory]:
        """What the session remembers of the arrays that are trained."""
        missed = self.built.missed
        return {path: Memory(updates - missed.get(path, 0), {name: array.copy() for name, array in self.session.remembered(path).items()})
                for path in self.built.trained}

    def _renew(self, path: str, init: Any, step: int) -> dict[str, Any]:
        """New values, which are functions of the seed, the path and the step."""
        found, array = initialiser(init, path), self.session.parameters[path]
        array[...] = found.array(array.shape, seed=self.built.job.seed, path=f"{path}@{step}", dtype=self.built.job.dtype)
        update = self.session.program.update
        for name, copied in self.session.remembered(path).items():
            if update and name in update.copies:
                copied[...] = array
        return {"from": "trained values", "to": found.kind_name()}

    # ---------------------------------------------------------------- checkpoints

    def arrays(self) -> dict[str, np.ndarray]:
        return {f"shelf/{path}/{name}": array for path, memory in self.shelf.items() for name, array in memory.state.items()}

    def state(self) -> dict[str, Any]:
        """What is no longer as the job says."""
        found: dict[str, Any] = {}
        if self.chain != self.own.steps:
            found["optimiser"] = {"job": _written(self.own.steps), "now": _written(self.chain)}
        if self.epochs != self.own.job.epochs:
            found["epochs"] = {"job": self.own.job.epochs, "now": self.epochs}
        if self.built is not self.own:
            found["trained"] = {"paths": self.built.trained, "missed": self.built.missed,
                                "shelf": {path: memory.updates for path, memory in self.shelf.items()}}
        return found

    def load(self, checkpoint: Checkpoint) -> None:
        """Go back to what a checkpoint says. Where the job itself says something else than the one that wrote it, the job is right."""
        state = checkpoint.meta["regime"]
        epochs, chain, trained = state.get("epochs", {}), state.get("optimiser", {}), state.get("trained", {})
        self.epochs = epochs["now"] if epochs.get("job") == self.own.job.epochs else self.own.job.epochs
        self._use(Chain(*chain["now"]).listed if chain.get("job") == _written(self.own.steps) else self.own.steps)
        paths, missed = trained.get("paths", self.own.trained), trained.get("missed", {})
        if (paths, missed) != (self.built.trained, self.built.missed):
            self._build(paths, missed)
        self.shelf = {path: Memory(updates, _shelved(checkpoint, path)) for path, updates in trained.get("shelf", {}).items()}


def _written(chain: tuple[OptimiserStep, ...]) -> list[dict[str, Any]]:
    return [step.model_dump(mode="json") for step in chain]


def _shelved(checkpoint: Checkpoint, path: str) -> dict[str, np.ndarray]:
    return {name: array.copy() for name, array in checkpoint.group(f"shelf/{path}").items()}
