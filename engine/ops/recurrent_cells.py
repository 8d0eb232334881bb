"""The cells of recurrent ops: what one step does, forwards and backwards, as formulas of arrays or nodes, and as text of a kernel.

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
from engine.ops.recurrent_kernels import loop, loop_back, sums, turned

Array = Any     # an array, or a node
Parts = Sequence[Array]


@dataclass(frozen=True)
class Cell:
    """One kind of step. `x` are its sums of the input [rows, gates], `w` the recurrent weights [units, gates], states and parts are [rows, units].

    step    (x, states, w) -> parts
    back    (cotangents of the parts, parts, states before, w) -> (cotangent of x, cotangents of the states before)
    weigh   (cotangents of the parts, parts, states before, cotangent of x) -> cotangent of w
    """

    name: str
    gates: int
    states: int
    parts: int
    step: Callable[[Array, Parts, Array], Parts]
    back: Callable[[Parts, Parts, Parts, Array], tuple[Array, Parts]]
    weigh: Callable[[Parts, Parts, Parts, Array], Array]
    forward: str
    backward: str
    formula: str


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

    return Cell(name, 1, 1, 1, step, back, _weigh, sums(0, 1) + loop(f"""\
s = load(v, u)
new = select(on, {formula}, load(h, u))
store(y, u, new)
store(h, u, new)
"""), loop_back(f"""\
new = load(y, u)
d = select(on, load(e, u), 0.0)
ds = d * ({slope_formula})
store(x, u, ds)
store(a, u, ds)
store(e, u, load(e, u) - d)
""") + turned(0, 1), f"h = {name.removeprefix('rnn_')}(x + h W)")


RNN_TANH = _rnn("rnn_tanh", np.tanh, lambda h: 1 - h * h, "tanh(s)", "1.0 - new * new")
RNN_RELU = _rnn("rnn_relu", lambda s: np.maximum(s, 0.0), lambda h: h > 0, "select(s < 0.0, 0.0, s)", "select(new > 0.0, 1.0, 0.0)")


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


LSTM = Cell("lstm", 4, 2, 6, _lstm_step, _lstm_back, _weigh, sums(0, 4) + loop("""\
i, f, g, o = sigmoid(load(v, u)), sigmoid(load(v, units + u)), tanh(load(v, 2 * units + u)), sigmoid(load(v, 3 * units + u))
c = f * load(h, units + u) + i * g
new = select(on, o * tanh(c), load(h, u))
c = select(on, c, load(h, units + u))
store(y, u, new)
store(y, units + u, c)
store(y, 2 * units + u, i)
store(y, 3 * units + u, f)
store(y, 4 * units + u, g)
store(y, 5 * units + u, o)
store(h, u, new)
store(h, units + u, c)
"""), loop_back("""\
i, f, g, o = load(y, 2 * units + u), load(y, 3 * units + u), load(y, 4 * units + u), load(y, 5 * units + u)
dh, dc = select(on, load(e, u), 0.0), select(on, load(e, units + u), 0.0)
top = tanh(load(y, units + u))
d = dc + dh * o * (1.0 - top * top)
di, df, dg, do = d * g * i * (1.0 - i), d * load(b, units + u) * f * (1.0 - f), d * i * (1.0 - g * g), dh * top * o * (1.0 - o)
store(x, u, di)
store(x, units + u, df)
store(x, 2 * units + u, dg)
store(x, 3 * units + u, do)
store(a, u, di)
store(a, units + u, df)
store(a, 2 * units + u, dg)
store(a, 3 * units + u, do)
store(e, u, load(e, u) - dh)
store(e, units + u, load(e, units + u) - dc + d * f)
""") + turned(0, 4), "i, f, g, o = x + h W; c = sigmoid(f) c + sigmoid(i) tanh(g); h = sigmoid(o) tanh(c)")


# ---------------------------------------------------------------- gru: Cho et al. 2014, in the first version of the paper

def _gru_step(x: Array, states: Parts, w: Array) -> Parts:
    (h,), (x_r, x_z, x_c), (s_r, s_z, m) = states, split(x, 3), split(states[0] @ w, 3)
    r, z = sigmoid(x_r + s_r), sigmoid(x_z + s_z)
    c = np.tanh(x_c + r * m)
    return [(1 - z) * c + z * h, r, z, c, m]


def _gru_back(d: Parts, parts: Parts, before: Parts, w: Array) -> tuple[Array, Parts]:
    _, r, z, c, m = parts
    dc = (d[3] + d[0] * (1 - z)) * (1 - c * c)
    dz = (d[2] + d[0] * (before[0] - c)) * z * (1 - z)
    dr = (d[1] + dc * m) * r * (1 - r)
    return joined(dr, dz, dc), [d[0] * z + joined(dr, dz, d[4] + dc * r) @ w.T]


def _gru_weigh(d: Parts, parts: Parts, before: Parts, dx: Array) -> Array:
    dr, dz, dc = split(dx, 3)
    return before[0].T @ joined(dr, dz, d[4] + dc * parts[1])


GRU = Cell("gru", 3, 1, 5, _gru_step, _gru_back, _gru_weigh, sums(0, 2) + sums(2, 1, start=False) + loop("""\
r, z, m = sigmoid(load(v, u)), sigmoid(load(v, units + u)), load(v, 2 * units + u)
c = tanh(load(x, 2 * units + u) + r * m)
new = select(on, c + z * (load(h, u) - c), load(h, u))
store(y, u, new)
store(y, units + u, r)
store(y, 2 * units + u, z)
store(y, 3 * units + u, c)
store(y, 4 * units + u, m)
store(h, u, new)
"""), loop_back("""\
r, z, c, m = load(y, units + u), load(y, 2 * units + u), load(y, 3 * units + u), load(y, 4 * units + u)
d = select(on, load(e, u), 0.0)
dc, dz = d * (1.0 - z) * (1.0 - c * c), d * (load(b, u) - c) * z * (1.0 - z)
dr = dc * m * r * (1.0 - r)
store(x, u, dr)
store(x, units + u, dz)
store(x, 2 * units + u, dc)
store(a, u, dr)
store(a, units + u, dz)
store(a, 2 * units + u, dc * r)
store(e, u, load(e, u) - d + d * z)
""") + turned(0, 3), "r, z = sigmoid(x + h W); c = tanh(x + r (h W)); h = (1 - z) c + z h")


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


GRU_V3 = Cell("gru_v3", 3, 1, 4, _gru_v3_step, _gru_v3_back, _gru_v3_weigh, sums(0, 2) + loop("""\
r, z = sigmoid(load(v, u)), sigmoid(load(v, units + u))
store(y, units + u, r)
store(y, 2 * units + u, z)
store(v, u, r * load(h, u))
""") + sums(2, 1, of="summed") + loop("""\
c, z = tanh(load(v, 2 * units + u)), load(y, 2 * units + u)
new = select(on, c + z * (load(h, u) - c), load(h, u))
store(y, u, new)
store(y, 3 * units + u, c)
store(h, u, new)
"""), loop_back("""\
z, c = load(y, 2 * units + u), load(y, 3 * units + u)
d = select(on, load(e, u), 0.0)
dc, dz = d * (1.0 - z) * (1.0 - c * c), d * (load(b, u) - c) * z * (1.0 - z)
store(x, units + u, dz)
store(x, 2 * units + u, dc)
store(a, units + u, dz)
store(a, 2 * units + u, dc)
store(e, u, load(e, u) - d + d * z)
""") + turned(2, 1, to="made") + loop_back("""\
r, through = load(y, units + u), load(a, u)
dr = through * load(b, u) * r * (1.0 - r)
store(x, u, dr)
store(a, u, dr)
store(e, u, load(e, u) + through * r)
""") + turned(0, 2), "r, z = sigmoid(x + h W); c = tanh(x + (r h) W); h = (1 - z) c + z h")

CELLS = (RNN_TANH, RNN_RELU, LSTM, GRU, GRU_V3)
