"""Text that a trained model writes, one character after the other."""

from __future__ import annotations

import numpy as np

from engine.data.inference import Class
from engine.data.target import shown
from engine.errors import Problem, SpecError
from engine.train.trained.predict import Predictor

LONGEST = 10_000
TEMPERATURE = 1.0


def generate(model: Predictor, prompt: str = "", length: int = 200, temperature: float = TEMPERATURE, seed: int = 0) -> str:
    """`length` characters that go on after `prompt`. Equal arguments give equal texts.

    Each character is drawn with the probabilities that the model gives it, raised to 1 / temperature; at 0 the most likely one is taken. A model
    sees as many characters as the windows it was trained on are long. Raises SpecError with pointers `/prompt`, `/length`, ...
    """
    column, windows = model.fitted.columns[0], model.fitted.windows
    if not model.fitted.text or windows is None:
        raise SpecError([Problem("", "no_text_model", "the model was not trained on plain text, so it cannot write any")])
    alphabet = [str(c) for c in column.classes or ()]
    _check(prompt, length, temperature, seed, alphabet)
    numbers = {character: place for place, character in enumerate(alphabet)}
    written = [numbers[c] for c in prompt] or [numbers.get("\n", 0)]      # a model that has seen nothing begins a line
    chances = np.random.Generator(np.random.Philox(seed)).random(length)
    begun = len(written)
    for chance in chances:
        seen = written[-windows.length:]
        window = np.array(seen + [0] * (windows.length - len(seen)), np.int32)      # what follows is not looked at: models read from left to right
        written.append(drawn(model.following(window)[len(seen) - 1], temperature, float(chance)))
    return "".join(alphabet[k] for k in written[begun:])


def _check(prompt: str, length: int, temperature: float, seed: int, alphabet: list[str]) -> None:
    problems = []
    if unknown := sorted(set(prompt) - set(alphabet)):
        problems.append(Problem("/prompt", "unseen_class", f"the prompt has characters that the model does not know: {shown(list[Class](unknown))}"))
    if not 1 <= length <= LONGEST:
        problems.append(Problem("/length", "out_of_range", f"length is a number of characters from 1 to {LONGEST:,}, found {length}"))
    if not 0 <= temperature <= 100:
        problems.append(Problem("/temperature", "out_of_range", f"temperature is a number from 0 to 100, found {temperature}"))
    if not 0 <= seed < 2**63:
        problems.append(Problem("/seed", "out_of_range", f"seed is a whole number from 0 to 2**63 - 1, found {seed}"))
    if problems:
        raise SpecError(problems)


def drawn(probabilities: np.ndarray, temperature: float, chance: float) -> int:
    """The place whose share of the powered probabilities holds `chance`, in [0, 1)."""
    if temperature == 0:
        return int(np.argmax(probabilities))
    with np.errstate(divide="ignore"):
        logarithms = np.log(probabilities)
    shares = np.cumsum(np.exp((logarithms - logarithms.max()) / temperature))
    return min(int(np.searchsorted(shares, chance * shares[-1], side="right")), len(probabilities) - 1)
