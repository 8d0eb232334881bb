"""The cells of recurrent ops: what one step does, forwards and backwards, as formulas of arrays or nodes, and as stages of a kernel.

A cell makes `gates` sums for each unit (blocks side by side, in Flux's order), carries `states` numbers for each unit from step to step, and keeps
`parts` of them, the states first, for the way back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine import special
from engine.core import Node, apply
from engine.ops.recurrent_stages import Keep, Sums, Turned, Walk, each

Array = Any     # an array, or a node
Parts = Sequence[Array]


@dataclass(frozen=True)
class Cell:
    """One kind of step. `x` are its sums of the input [rows, gates], `w` the recurrent weights [units, gates], states and parts are [rows, units].

    step    (x, states, w) -> parts
    back    (cotangents of the parts, parts, states before, w) -> (cotangent of x, cotangents of the states before)
    weigh   (cotangents of the parts, parts, states before, cotangent of x) -> cotangent of w
    forward, backward   how many blocks a kernel needs, and its stages
    scaled  what `recurrent_weigh` does for the last gate's weights; None where it cannot do them
    """

    name: str
    gates: int
    states: int
    parts: int
    step: Callable[[Array, Parts, Array], Parts]
    back: Callable[[Parts, Parts, Parts, Array], tuple[Array, Parts]]
    weigh: Callable[[Parts, Parts, Parts, Array], Array]
    forward: Walk
    backward: Walk
    formula: str
    scaled: bool | None = False


def sigmoid(x: Array) -> Array:
    return apply("sigmoid", x) if isinstance(x, Node) else special.expit(x)


def split(x: Array, parts: int) -> list[Array]:
    """Equal blocks of the last axis."""
    size = x.shape[-1] // parts
    return [x[..., k * size:(k + 1) * size] for k in range(parts)]


def joined(*parts: Array) -> Array:
    return np.concatenate(parts, axis=-1)


# ---------------------------------------------------------------- rnn

def _weigh(d: Parts, parts: Parts, before: Parts, dx: Array) -> Array:
    return before[0].T @ dx


def _rnn(name: str, function: Callable[[Array], Array], slope: Callable[[Array], Array], formula: str, slope_formula: str) -> Cell:
    """h = function(x + h W); the slope is a function of h."""
    def step(x: Array, states: Parts, w: Array) -> Parts:
        return [function(x + states[0] @ w)]

    def back(d: Parts, parts: Parts, before: Parts, w: Array) -> tuple[Array, Parts]:
        dx = d[0] * slope(parts[0])
        return dx, [dx @ w.T]

    return Cell(name, 1, 1, 1, step, back, _weigh, (2, Sums(0, 1), each(f"""\
s = load(p1, u)
store(p0, u, {formula})
""")), (1, each(f"""\
h = load(y, u)
store(p0, u, e0[u] * ({slope_formula}))
store(e0, u, 0.0)
"""), Keep(), Turned(0, 1)), f"h = {name.removeprefix('rnn_')}(x + h W)")


RNN_TANH = _rnn("rnn_tanh", np.tanh, lambda h: 1 - h * h, "tanh(s)", "1.0 - h * h")
RNN_RELU = _rnn("rnn_relu", lambda s: np.maximum(s, 0.0), lambda h: h > 0, "select(s < 0.0, 0.0, s)", "select(h > 0.0, 1.0, 0.0)")


# ---------------------------------------------------------------- lstm: Hochreiter and Schmidhuber 1997, Gers et al. 2000

def _lstm_step(x: Array, states: Parts, w: Array) -> Parts:
    i, f, g, o = split(x + states[0] @ w, 4)
    i, f, g, o = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)
    c = f * states[1] + i * g
    return [o * np.tanh(c), c, i, f, g, o]


def _lstm_back(d: Parts, parts: Parts, before: Parts, w: Array) -> tuple[Array, Parts]:
    _, c, i, f, g, o = parts
    top = np.tanh(c)
    dc = d[1] + d[0] * o * (1 - top * top)
    dx = joined((d[2] + dc * g) * i * (1 - i), (d[3] + dc * before[1]) * f * (1 - f), (d[4] + dc * i) * (1 - g * g),
                (d[5] + d[0] * top) * o * (1 - o))
    return dx, [dx @ w.T, dc * f]


LSTM = Cell("lstm", 4, 2, 6, _lstm_step, _lstm_back, _weigh, (6, Sums(0, 4), each("""\
i, f, g = sigmoid(p2[u]), sigmoid(p3[u]), tanh(p4[u])
store(p1, u, f * p1[u] + i * g)
store(p2, u, i)
store(p3, u, f)
store(p4, u, g)
""", """\
o = sigmoid(p5[u])
store(p0, u, o * tanh(p1[u]))
store(p5, u, o)
""")), (5, each("""\
d, o, top = e0[u], load(y, 5 * units + u), tanh(load(y, units + u))
store(p3, u, d * top * o * (1.0 - o))
store(p4, u, e1[u] + d * o * (1.0 - top * top))
""", """\
d, i, f, g = p4[u], load(y, 2 * units + u), load(y, 3 * units + u), load(y, 4 * units + u)
store(p0, u, d * g * i * (1.0 - i))
store(p1, u, d * load(b, units + u) * f * (1.0 - f))
store(p2, u, d * i * (1.0 - g * g))
""", """\
store(e0, u, 0.0)
store(e1, u, p4[u] * load(y, 3 * units + u))
"""), Keep(), Turned(0, 4)), "i, f, g, o = x + h W; c = sigmoid(f) c + sigmoid(i) tanh(g); h = sigmoid(o) tanh(c)")


# ---------------------------------------------------------------- gru: Cho et al. 2014, in the first version of the paper

def _gru_step(x: Array, states: Parts, w: Array) -> Parts:
    (h,), (x_r, x_z, x_c), (s_r, s_z, m) = states, split(x, 3), split(states[0] @ w, 3)
    r, z = sigmoid(x_r + s_r), sigmoid(x_z + s_z)
    c = np.tanh(x_c + r * m)
    return [(1 - z) * c + z * h, r, z, m, c]


def _gru_back(d: Parts, parts: Parts, before: Parts, w: Array) -> tuple[Array, Parts]:
    _, r, z, m, c = parts
    dc = (d[4] + d[0] * (1 - z)) * (1 - c * c)
    dz = (d[2] + d[0] * (before[0] - c)) * z * (1 - z)
    dr = (d[1] + dc * m) * r * (1 - r)
    return joined(dr, dz, dc), [d[0] * z + joined(dr, dz, d[3] + dc * r) @ w.T]


def _gru_weigh(d: Parts, parts: Parts, before: Parts, dx: Array) -> Array:
    dr, dz, dc = split(dx, 3)
    return before[0].T @ joined(dr, dz, d[3] + dc * parts[1])


GRU = Cell("gru", 3, 1, 5, _gru_step, _gru_back, _gru_weigh, (5, Sums(0, 3, given=2), each("""\
r, z, h = sigmoid(p1[u]), sigmoid(p2[u]), p0[u]
c = tanh(load(x, 2 * units + u) + r * load(p3, u))
store(p0, u, c + z * (h - c))
store(p1, u, r)
store(p2, u, z)
store(p4, u, c)
""")), (3, each("""\
d, r, z, m, c = e0[u], load(y, units + u), load(y, 2 * units + u), load(y, 3 * units + u), load(y, 4 * units + u)
dc = d * (1.0 - z) * (1.0 - c * c)
store(p0, u, dc * m * r * (1.0 - r))
store(p1, u, d * (load(b, u) - c) * z * (1.0 - z))
store(p2, u, dc)
"""), Keep(), each("""\
store(p2, u, p2[u] * load(y, units + u))
store(e0, u, e0[u] * load(y, 2 * units + u))
"""), Turned(0, 3)), "r, z = sigmoid(x + h W); c = tanh(x + r (h W)); h = (1 - z) c + z h", True)


# ---------------------------------------------------------------- gru_v3: the same in the paper's third version

def _gru_v3_step(x: Array, states: Parts, w: Array) -> Parts:
    (h,), (x_r, x_z, x_c), (w_r, w_z, w_c) = states, split(x, 3), split(w, 3)
    r, z = sigmoid(x_r + h @ w_r), sigmoid(x_z + h @ w_z)
    c = np.tanh(x_c + (r * h) @ w_c)
    return [(1 - z) * c + z * h, r, z, c]


def _gru_v3_back(d: Parts, parts: Parts, before: Parts, w: Array) -> tuple[Array, Parts]:
    (_, r, z, c), (h,), (w_r, w_z, w_c) = parts, before, split(w, 3)
    dc = (d[3] + d[0] * (1 - z)) * (1 - c * c)
    dz = (d[2] + d[0] * (h - c)) * z * (1 - z)
    through = dc @ w_c.T
    dr = (d[1] + through * h) * r * (1 - r)
    return joined(dr, dz, dc), [d[0] * z + through * r + dr @ w_r.T + dz @ w_z.T]


def _gru_v3_weigh(d: Parts, parts: Parts, before: Parts, dx: Array) -> Array:
    dr, dz, dc = split(dx, 3)
    return joined(before[0].T @ joined(dr, dz), (parts[1] * before[0]).T @ dc)


GRU_V3 = Cell("gru_v3", 3, 1, 4, _gru_v3_step, _gru_v3_back, _gru_v3_weigh, (5, Sums(0, 2), each("""\
r = sigmoid(p1[u])
store(p1, u, r)
store(p2, u, sigmoid(p2[u]))
store(p4, u, r * p0[u])
"""), Sums(2, 3, of=4), each("""\
c, h = tanh(p3[u]), p0[u]
store(p0, u, c + p2[u] * (h - c))
store(p3, u, c)
""")), (4, each("""\
d, z, c = e0[u], load(y, 2 * units + u), load(y, 3 * units + u)
store(p1, u, d * (load(b, u) - c) * z * (1.0 - z))
store(p2, u, d * (1.0 - z) * (1.0 - c * c))
store(e0, u, d * z)
"""), Turned(2, 3, to=3), each("""\
r, d = load(y, units + u), load(p3, u)
store(p0, u, d * load(b, u) * r * (1.0 - r))
store(e0, u, e0[u] + d * r)
"""), Keep(), Turned(0, 2)), "r, z = sigmoid(x + h W); c = tanh(x + (r h) W); h = (1 - z) c + z h", None)


CELLS = (RNN_TANH, RNN_RELU, LSTM, GRU, GRU_V3)
