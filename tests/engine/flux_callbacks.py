"""Our values for Flux's numbers about what decides when: its callbacks, and the criteria of EarlyStopping.jl. Calls are counted from 1."""

from collections.abc import Iterable
from typing import Any

from engine import callbacks
from tests.engine.flux_oracles import runs, word


def first(answers: Iterable[bool]) -> int:
    """Which answer is the first that says to stop; 0 where none does."""
    return next((call for call, stop in enumerate(answers, 1) if stop), 0)


@runs("callbacks", "patience(true,3)")
def always(name: str, inputs: dict[str, Any]) -> list[bool]:
    trigger = callbacks.patience(lambda: True, inputs["wait"])
    return [trigger() for _ in range(3)]


@runs("callbacks", "patience on")
def in_a_row(name: str, inputs: dict[str, Any]) -> int:
    return first(map(callbacks.patience(bool, 3), inputs["seq"]))


def falling(trigger: Any, by: int, most: int = 99) -> int:
    """How far scores from 0 fall, by so much at each call, before the trigger ends it."""
    fallen = 0
    while fallen < most and not trigger(-fallen):
        fallen += by
    return fallen


@runs("callbacks", "early_stopping")
def fast_enough(name: str, inputs: dict[str, Any]) -> int:
    return falling(callbacks.early_stopping(lambda score: score, 10, min_dist=3), 3, inputs["n"])


@runs("callbacks", "… then reusing")
def used_again(name: str, inputs: dict[str, Any]) -> int:
    first_run = callbacks.early_stopping(lambda score: score, 10, min_dist=3)
    falling(first_run, 3)
    second_run = callbacks.early_stopping(lambda score: score, 10, min_dist=3)
    second_run.restore(first_run.state())
    found = falling(first_run, 1)
    assert falling(second_run, 1) == found
    return found


@runs("callbacks", "plateau")
def swinging(name: str, inputs: dict[str, Any]) -> int:
    return first(map(callbacks.plateau(lambda score: score, 3, init_score=10, min_dist=18), [-9, 8, -7, 6]))


@runs("stopping")
def stopped(name: str, inputs: dict[str, Any]) -> int:
    criterion = getattr(callbacks, word(name))(**{option: inputs[option] for option in ("n", "alpha", "k") if option in inputs})
    training = inputs.get("is_training", [0] * len(inputs["losses"]))
    answers = [(bool(own), criterion(loss, training=bool(own))) for loss, own in zip(inputs["losses"], training, strict=True)]
    assert not any(stop for own, stop in answers if own)
    return first(stop for own, stop in answers if not own)
