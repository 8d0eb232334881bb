"""Our values for Flux's numbers about recurrent cells."""

from typing import Any

import numpy as np

from engine.core import apply, lift
from tests.engine.flux_oracles import array, runs


@runs("recurrent")
def one_step(name: str, inputs: dict[str, Any]) -> np.ndarray:
    """One step from a state; our weights are Flux's turned, gates in the same order."""
    x, h, bias = (array(inputs[k]) for k in ("x", "h", "bias"))
    sums = x @ array(inputs["Wi"]).T + bias
    parts = apply("rnn_tanh" if name.startswith("RNN") else "gru", lift(sums[None, None]), lift(array(inputs["Wh"]).T), lift(h[None]))
    return parts.numpy()[0, 0, :len(h)]
